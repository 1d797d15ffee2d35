package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/fault"
	"gantry/internal/problem"
)

// Remove removes what ref names, as docker rmi does: a name, and with the last
// name of an image the image itself and the layers that nothing else has; or,
// by ID, the image with all its names. The errors of kind Conflict have Docker's
// wording.
func (s *Store) Remove(ctx context.Context, ref string, opt RemoveOptions) ([]Deleted, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	s.changes.Lock()
	done, removed, err := s.removeLocked(ref, opt)
	s.changes.Unlock()
	return done, errors.Join(err, removed.empty())
}

func (s *Store) removeLocked(ref string, opt RemoveOptions) ([]Deleted, trash, error) {
	var facts removal
	err := s.db.View(func(tx *bolt.Tx) (err error) {
		facts, err = s.removal(tx, ref)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	plan, err := facts.decide(opt)
	if err != nil {
		return nil, nil, err
	}
	return s.execute(facts, plan, opt)
}

// removal is what a decision about a removal needs to know.
type removal struct {
	ref      string
	id       digest.Digest
	byID     bool
	name     string   // canonical; empty when byID
	names    []string // all canonical names of the image
	children bool     // an image was built from it
	running  string   // a container that runs on it, or empty
	stopped  string   // a container that does not run, or empty
}

func (s *Store) removal(tx *bolt.Tx, ref string) (removal, error) {
	id, err := find(tx, ref)
	if err != nil {
		return removal{}, err
	}
	r := removal{ref: ref, id: id, names: namesOf(tx, id), children: hasChildren(tx, id)}
	r.running, r.stopped = s.users(id)
	if strings.HasPrefix(string(id), ref) || strings.HasPrefix(id.Encoded(), ref) {
		n, err := reference.ParseNormalizedNamed(ref)
		r.byID = err != nil || tx.Bucket(namesBucket).Get([]byte(canonical(reference.TagNameOnly(n)))) == nil
	}
	if !r.byID {
		n, err := ParseName(ref)
		if err != nil {
			return removal{}, err
		}
		r.name = canonical(n)
	}
	return r, nil
}

func (s *Store) users(id digest.Digest) (running, stopped string) {
	for _, h := range s.holders(id) {
		if h.Running != nil && h.Running() {
			running = h.Owner
		} else {
			stopped = h.Owner
		}
	}
	return running, stopped
}

func hasChildren(tx *bolt.Tx, id digest.Digest) bool {
	found := false
	_ = tx.Bucket(imagesBucket).ForEach(func(_, v []byte) error {
		var r imageRecord
		found = found || json.Unmarshal(v, &r) == nil && r.Parent == id
		return nil
	})
	return found
}

// removalPlan is what to remove.
type removalPlan struct {
	untag []string // canonical names
	image bool
}

// decide is Docker's policy (moby, daemon/images/image_delete.go).
func (r removal) decide(opt RemoveOptions) (removalPlan, error) {
	if !r.byID {
		return r.decideName(opt)
	}
	if !singleReference(r.names) && !opt.Force {
		return removalPlan{}, r.conflict("must be forced", "image is referenced in multiple repositories")
	}
	if err := r.check(opt); err != nil {
		return removalPlan{}, err
	}
	return removalPlan{untag: r.names, image: true}, nil
}

func (r removal) decideName(opt RemoveOptions) (removalPlan, error) {
	left := slices.DeleteFunc(slices.Clone(r.names), func(n string) bool { return n == r.name })
	plan := removalPlan{untag: []string{r.name}}
	// The digests of a repository go with its last tag.
	if repo := repositories([]string{r.name}); !hasTag(left, repo) {
		left = slices.DeleteFunc(left, func(n string) bool {
			gone := slices.Equal(repositories([]string{n}), repo)
			if gone {
				plan.untag = append(plan.untag, n)
			}
			return gone
		})
	}
	user := r.running
	if user == "" {
		user = r.stopped
	}
	if len(left) == 0 && user != "" && !opt.Force {
		return plan, problem.New(problem.Conflict,
			"conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
			r.ref, short(user), short(r.id.Encoded()))
	}
	// With force the name goes even if the image cannot.
	plan.image = len(left) == 0 && r.check(opt) == nil
	return plan, nil
}

// singleReference tells whether all names are of one repository, with at most
// one tag.
func singleReference(names []string) bool {
	tags := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.Contains(n, "@") })
	return len(tags) <= 1 && len(repositories(names)) <= 1
}

func hasTag(names, repo []string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		return !strings.Contains(n, "@") && slices.Equal(repositories([]string{n}), repo)
	})
}

// check reports why the image itself cannot go.
func (r removal) check(opt RemoveOptions) error {
	switch {
	case r.children:
		return r.conflict("cannot be forced", "image has dependent child images")
	case r.running != "":
		return r.conflict("cannot be forced", "image is being used by running container "+short(r.running))
	case r.stopped != "" && !opt.Force:
		return r.conflict("must be forced", "image is being used by stopped container "+short(r.stopped))
	}
	return nil
}

func (r removal) conflict(how, why string) error {
	return problem.New(problem.Conflict, "conflict: unable to delete %s (%s) - %s", short(r.id.Encoded()), how, why)
}

func short(id string) string { return id[:min(12, len(id))] }

// execute carries a plan out: names and image in one transaction, then layers.
func (s *Store) execute(r removal, plan removalPlan, opt RemoveOptions) ([]Deleted, trash, error) {
	var done []Deleted
	var gone []Image
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range plan.untag {
			if err := tx.Bucket(namesBucket).Delete([]byte(name)); err != nil {
				return err
			}
			done = append(done, Deleted{Untagged: familiar(name)})
		}
		if !plan.image {
			return noteUse(tx, r.id)
		}
		img, err := getImage(tx, r.id)
		if err != nil {
			return err
		}
		gone = append(gone, img)
		if err := forget(tx, r.id); err != nil {
			return err
		}
		if opt.NoPrune {
			return nil
		}
		parents, err := s.forgetParents(tx, img.Parent)
		gone = append(gone, parents...)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, img := range gone {
		s.unused(img.ID)
	}
	removed, bin, err := s.collect()
	return append(done, deletions(gone, removed)...), bin, err
}

// deletions lists images, each with those of its layers that went with it, as
// chain IDs and topmost first.
func deletions(images []Image, removed []Layer) []Deleted {
	left := map[digest.Digest]bool{}
	for _, l := range removed {
		left[l.DiffID] = true
	}
	var out []Deleted
	for _, img := range images {
		out = append(out, Deleted{Deleted: img.ID.String()})
		chain := identity.ChainIDs(slices.Clone(img.Layers))
		for i := len(chain) - 1; i >= 0; i-- {
			if left[img.Layers[i]] {
				delete(left, img.Layers[i])
				out = append(out, Deleted{Deleted: chain[i].String()})
			}
		}
	}
	return out
}

func familiar(name string) string {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(n)
}

// forget removes an image's records.
func forget(tx *bolt.Tx, id digest.Digest) error {
	return errors.Join(
		tx.Bucket(imagesBucket).Delete([]byte(id)),
		tx.Bucket(documentsBucket).Delete([]byte(id)))
}

// forgetParents removes the untagged, unused ancestors of an image.
func (s *Store) forgetParents(tx *bolt.Tx, id digest.Digest) ([]Image, error) {
	var gone []Image
	for id != "" {
		img, err := getImage(tx, id)
		if errors.Is(err, problem.NotFound) {
			return gone, nil
		}
		if err != nil {
			return gone, err
		}
		if len(namesOf(tx, id)) > 0 || hasChildren(tx, id) || len(s.holders(id)) > 0 {
			return gone, nil
		}
		if err := forget(tx, id); err != nil {
			return gone, err
		}
		gone = append(gone, img)
		id = img.Parent
	}
	return gone, nil
}

// trash are directories whose content nobody knows any more.
type trash []string

// empty removes them. It takes long, so nothing is locked meanwhile.
func (t trash) empty() error {
	var errs []error
	for _, dir := range t {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// collect removes unused layers: first the records, in one transaction, then
// the files, which it moves to the trash. The caller holds changes.
func (s *Store) collect() ([]Layer, trash, error) {
	used := s.leased()
	var unused []Layer
	var links []string
	var blobs []digest.Digest
	leased := maps.Clone(used)
	err := s.db.Update(func(tx *bolt.Tx) error {
		if err := usedByImages(tx, used); err != nil {
			return err
		}
		err := eachLayer(tx, func(id digest.Digest, r layerRecord) error {
			if used[id] {
				return nil
			}
			unused = append(unused, r.layer(id))
			links = append(links, r.Link)
			return tx.Bucket(layersBucket).Delete([]byte(id.Encoded()))
		})
		if err != nil {
			return err
		}
		blobs, err = collectBlobs(tx, leased)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = fault.At("image/collect/before-files")
	var bin trash
	for i, l := range unused {
		dir, derr := s.discard(l.DiffID, links[i])
		err = errors.Join(err, derr)
		bin = append(bin, dir)
	}
	if len(blobs) > 0 {
		dir, derr := s.discardBlobs(blobs)
		err = errors.Join(err, derr)
		bin = append(bin, dir)
	}
	return unused, bin, err
}

func usedByImages(tx *bolt.Tx, used map[digest.Digest]bool) error {
	return tx.Bucket(imagesBucket).ForEach(func(k, _ []byte) error {
		img, err := getImage(tx, digest.Digest(k))
		if err != nil {
			return err
		}
		for _, l := range img.Layers {
			used[l] = true
		}
		return nil
	})
}

// discard moves a layer's files to a temporary directory. Start-up removes what
// it could not.
func (s *Store) discard(diffID digest.Digest, link string) (string, error) {
	tmp, err := s.temp("gone")
	if err != nil {
		return "", err
	}
	err = errors.Join(os.Remove(s.link(link)), os.Rename(s.layerDir(diffID), filepath.Join(tmp, "layer")))
	if err != nil {
		err = fmt.Errorf("remove layer %s: %w", diffID, err)
	}
	return tmp, err
}

// Prune removes images that no container uses: those without a tag, or all.
// Images that others were built from go once those are gone.
func (s *Store) Prune(ctx context.Context, opt PruneOptions) (PruneReport, error) {
	var report PruneReport
	images, err := s.List(ctx)
	if err != nil {
		return report, err
	}
	before := s.bytes()
	for _, img := range images {
		tagged := len(img.RepoTags) > 0
		if tagged && !opt.All || opt.Filter != nil && !opt.Filter(img) || len(s.holders(img.ID)) > 0 {
			continue
		}
		deleted, err := s.Remove(ctx, img.ID.String(), RemoveOptions{Force: true})
		if errors.Is(err, problem.Conflict) || errors.Is(err, problem.NotFound) {
			continue
		}
		if err != nil {
			return report, err
		}
		report.Deleted = append(report.Deleted, deleted...)
	}
	report.Reclaimed = max(0, before-s.bytes())
	return report, nil
}

// bytes returns the size of all layers.
func (s *Store) bytes() (n int64) {
	err := s.db.View(func(tx *bolt.Tx) error {
		return eachLayer(tx, func(_ digest.Digest, r layerRecord) error {
			n += r.Bytes
			return nil
		})
	})
	if err != nil {
		s.log.Error("reading layer records", "err", err)
	}
	return n
}
