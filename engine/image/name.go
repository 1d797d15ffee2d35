package image

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// noSuchImage is Docker's wording; clients match on it.
func noSuchImage(ref string) error {
	return problem.New(problem.NotFound, "No such image: %s", ref)
}

// ParseName parses a name as Docker does: "busybox" means
// docker.io/library/busybox:latest. The error is Invalid.
func ParseName(name string) (reference.Named, error) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, problem.New(problem.Invalid, "%w", err)
	}
	return reference.TagNameOnly(n), nil
}

// canonical is the form in which a name is stored. A name with tag and digest
// means the digest.
func canonical(n reference.Named) string {
	if d, ok := n.(reference.Digested); ok {
		return reference.TrimNamed(n).String() + "@" + d.Digest().String()
	}
	return n.String()
}

// Resolve finds the image that ref means: a name with tag (default latest) or
// digest, an ID, or the beginning of an ID that only one image has. A name is
// tried first. NotFound has Docker's wording.
func (s *Store) Resolve(_ context.Context, ref string) (img Image, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		id, err := find(tx, ref)
		if err != nil {
			return err
		}
		img, err = withNames(tx, id)
		return err
	})
	if err == nil {
		s.touch(img.ID)
	}
	return img, err
}

// Get returns the image with an ID.
func (s *Store) Get(_ context.Context, id digest.Digest) (img Image, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		img, err = withNames(tx, id)
		return err
	})
	return img, err
}

// List returns all images, newest first.
func (s *Store) List(context.Context) ([]Image, error) {
	var images []Image
	err := s.db.View(func(tx *bolt.Tx) error {
		names := allNames(tx)
		return tx.Bucket(imagesBucket).ForEach(func(k, _ []byte) error {
			img, err := getImage(tx, digest.Digest(k))
			if err != nil {
				return err
			}
			setNames(&img, names[img.ID])
			images = append(images, img)
			return nil
		})
	})
	slices.SortStableFunc(images, func(a, b Image) int { return b.Created().Compare(a.Created()) })
	return images, err
}

// find returns the ID of the image that ref means.
func find(tx *bolt.Tx, ref string) (digest.Digest, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return "", problem.New(problem.Invalid, "%w", err)
	}
	named, ok := parsed.(reference.Named)
	if !ok { // an ID
		id := digest.Digest(parsed.String())
		if tx.Bucket(imagesBucket).Get([]byte(id)) == nil {
			return "", noSuchImage(ref)
		}
		return id, nil
	}
	named = reference.TagNameOnly(named)
	if id := tx.Bucket(namesBucket).Get([]byte(canonical(named))); id != nil {
		return digest.Digest(id), nil
	}
	if id, ok := findPrefix(tx, ref); ok {
		return id, nil
	}
	return "", noSuchImage(reference.FamiliarString(named))
}

// findPrefix finds the one image whose ID begins with ref.
func findPrefix(tx *bolt.Tx, ref string) (digest.Digest, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	if !isHex(hex) {
		return "", false
	}
	prefix := "sha256:" + hex
	c := tx.Bucket(imagesBucket).Cursor()
	k, _ := c.Seek([]byte(prefix))
	if k == nil || !strings.HasPrefix(string(k), prefix) {
		return "", false
	}
	found := digest.Digest(k)
	if next, _ := c.Next(); next != nil && strings.HasPrefix(string(next), prefix) {
		return "", false
	}
	return found, true
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// withNames returns an image with its names.
func withNames(tx *bolt.Tx, id digest.Digest) (Image, error) {
	img, err := getImage(tx, id)
	if err != nil {
		return img, err
	}
	setNames(&img, namesOf(tx, id))
	return img, nil
}

func setNames(img *Image, names []string) {
	for _, name := range names {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue // Check reports it
		}
		if _, ok := n.(reference.Digested); ok {
			img.RepoDigests = append(img.RepoDigests, reference.FamiliarString(n))
		} else {
			img.RepoTags = append(img.RepoTags, reference.FamiliarString(n))
		}
	}
	slices.Sort(img.RepoTags)
	slices.Sort(img.RepoDigests)
}

// namesOf returns the canonical names of an image, sorted.
func namesOf(tx *bolt.Tx, id digest.Digest) []string { return allNames(tx)[id] }

func allNames(tx *bolt.Tx) map[digest.Digest][]string {
	names := map[digest.Digest][]string{}
	c := tx.Bucket(namesBucket).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		id := digest.Digest(v)
		names[id] = append(names[id], string(k))
	}
	return names
}

// Tag gives the image with ID id the name; an image that had the name loses it.
func (s *Store) Tag(_ context.Context, id digest.Digest, name string) error {
	n, err := ParseName(name)
	if err != nil {
		return err
	}
	if _, ok := n.(reference.Digested); ok {
		return problem.New(problem.Invalid, "refusing to create a tag with a digest reference")
	}
	if isHex(reference.FamiliarName(n)) && len(reference.FamiliarName(n)) == 64 {
		return problem.New(problem.Invalid, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	return s.db.Update(func(tx *bolt.Tx) error { return tag(tx, id, n) })
}

func tag(tx *bolt.Tx, id digest.Digest, n reference.Named) error {
	b := tx.Bucket(imagesBucket).Get([]byte(id))
	if b == nil {
		return noSuchImage(id.String())
	}
	var r imageRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	r.LastTagged = time.Now().UTC()
	r.Used = r.LastTagged
	if old := digest.Digest(tx.Bucket(namesBucket).Get([]byte(canonical(n)))); old != id {
		if err := noteUse(tx, old); err != nil {
			return err
		}
	}
	return errors.Join(
		tx.Bucket(namesBucket).Put([]byte(canonical(n)), []byte(id)),
		putJSON(tx.Bucket(imagesBucket), string(id), r))
}

// repositories returns the repositories of names, each once, sorted.
func repositories(names []string) []string {
	repos := map[string]bool{}
	for _, name := range names {
		if n, err := reference.ParseNormalizedNamed(name); err == nil {
			repos[n.Name()] = true
		}
	}
	return slices.Sorted(maps.Keys(repos))
}
