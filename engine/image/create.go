package image

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// Create registers the image that config describes, made of layers that are in
// the store, bottom first, and gives it names. When it returns, the image and
// its layers survive power loss. The same configuration and layers give the
// same image; creating it again is no error.
func (s *Store) Create(ctx context.Context, config Spec, layers []digest.Digest, opt CreateOptions) (Image, error) {
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = slices.Clone(layers)
	doc, err := json.Marshal(config)
	if err != nil {
		return Image{}, err
	}
	var names []reference.Named
	for _, t := range opt.Tags {
		n, err := ParseName(t)
		if err != nil {
			return Image{}, err
		}
		names = append(names, n)
	}
	id := digest.FromBytes(doc)
	if s.isThere(id, names) {
		s.touch(id)
		return s.Get(ctx, id)
	}
	_, err = s.install(ctx, nil, addition{durable: true, then: func(tx *bolt.Tx) error {
		return record(tx, id, doc, opt.Parent, names)
	}})
	if err != nil {
		return Image{}, err
	}
	return s.Get(ctx, id)
}

// isThere tells whether an image is on disk, under all the names: then there is
// nothing to write, and nothing to wait for.
func (s *Store) isThere(id digest.Digest, names []reference.Named) bool {
	there := false
	_ = s.db.View(func(tx *bolt.Tx) error { // an error says no, as it should
		img, err := getImage(tx, id)
		if err != nil {
			return err
		}
		for _, n := range names {
			if string(tx.Bucket(namesBucket).Get([]byte(canonical(n)))) != string(id) {
				return nil
			}
		}
		for _, l := range img.Layers {
			if r, err := getLayer(tx, l); err != nil || r.Boot != "" {
				return err
			}
		}
		there = true
		return nil
	})
	return there
}

// record writes an image, whose layers must be there, and its names.
func record(tx *bolt.Tx, id digest.Digest, doc []byte, parent digest.Digest, names []reference.Named) error {
	var config Spec
	if err := json.Unmarshal(doc, &config); err != nil {
		return problem.New(problem.Invalid, "image configuration: %w", err)
	}
	for _, l := range config.RootFS.DiffIDs {
		if _, err := getLayer(tx, l); err != nil {
			return err
		}
	}
	if tx.Bucket(imagesBucket).Get([]byte(id)) == nil {
		err := errors.Join(
			tx.Bucket(documentsBucket).Put([]byte(id), doc),
			putJSON(tx.Bucket(imagesBucket), string(id), imageRecord{Parent: parent}))
		if err != nil {
			return err
		}
	}
	if err := noteUse(tx, id); err != nil {
		return err
	}
	for _, n := range names {
		if err := tag(tx, id, n); err != nil {
			return err
		}
	}
	return nil
}

// History returns the steps that made an image, newest first, as Docker shows
// them.
func (s *Store) History(ctx context.Context, ref string) ([]HistoryEntry, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	var out []HistoryEntry
	layers := img.Layers
	for _, h := range img.Config.History {
		e := HistoryEntry{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			e.Created = *h.Created
		}
		if !h.EmptyLayer {
			if len(layers) == 0 {
				return nil, problem.New(problem.Invalid, "image %s: its history has more layers than it has", img.ID)
			}
			l, err := s.Layer(ctx, layers[0])
			if err != nil {
				return nil, err
			}
			e.Size, layers = l.Bytes, layers[1:]
		}
		out = append(out, e)
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID, out[0].Tags = img.ID.String(), img.RepoTags
	}
	return out, nil
}

// historyEntry is a line for a configuration document.
func historyEntry(created time.Time, by, comment string) ocispec.History {
	return ocispec.History{Created: &created, CreatedBy: by, Comment: comment}
}
