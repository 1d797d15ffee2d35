package image

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// Import makes an image of one layer from the archive of a root file system,
// compressed or not.
func (s *Store) Import(ctx context.Context, r io.Reader, opt ImportOptions) (_ digest.Digest, err error) {
	var names []reference.Named
	if opt.Ref != "" {
		n, err := ParseName(opt.Ref)
		if err != nil {
			return "", err
		}
		if _, ok := n.(reference.Digested); ok {
			return "", problem.New(problem.Invalid, "cannot import digest reference")
		}
		names = append(names, n)
	}
	u, err := s.unpack(ctx, r)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(u.dir)) }()
	doc, err := importDocument(u.diffID, opt, time.Now().UTC())
	if err != nil {
		return "", err
	}
	id := digest.FromBytes(doc)
	_, err = s.install(ctx, []*unpacked{u}, addition{durable: true, then: func(tx *bolt.Tx) error {
		return record(tx, id, doc, "", names)
	}})
	if err != nil {
		return "", err
	}
	return id, nil
}

// importDocument is the configuration of an imported image.
func importDocument(layer digest.Digest, opt ImportOptions, now time.Time) ([]byte, error) {
	c := opt.Config
	if c.OS == "" {
		c.OS = Host().OS
	}
	if c.Architecture == "" {
		c.Architecture = Host().Architecture
	}
	if opt.Message == "" && opt.Source != "" {
		opt.Message = "Imported from " + opt.Source
	}
	c.Created = &now
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []digest.Digest{layer}
	c.History = append(c.History[:0:0], historyEntry(now, "", opt.Message))
	return json.Marshal(c)
}
