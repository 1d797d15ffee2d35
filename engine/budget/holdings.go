package budget

import (
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/engine/builder"
	"gantry/engine/image"
)

// holdings lists all that counts.
func (b *Budget) holdings(ctx context.Context) ([]Holding, error) {
	// Results before layers: a result that is gone meanwhile counts for nothing,
	// a layer that nobody is known to have would.
	results := b.cfg.Builder.Results()
	u, err := b.cfg.Images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	out := imageHoldings(u)
	for id, r := range results {
		if n, here := u.Layers[r.Layer]; here {
			out = append(out, Holding{Kind: Result, ID: id, Used: r.Used, Parts: []Part{{string(r.Layer), n}}})
		}
	}
	mounts, err := b.cfg.Builder.Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		h := Holding{Kind: Mount, ID: m.Name, Used: m.Used, Parts: []Part{{"mount " + m.Name, m.Bytes}}}
		if m.Busy {
			h.Needs = "a build uses it"
		}
		out = append(out, h)
	}
	return b.containers(ctx, out)
}

func (b *Budget) containers(ctx context.Context, out []Holding) ([]Holding, error) {
	if b.cfg.Engine == nil {
		return out, nil
	}
	list, err := b.cfg.Engine.Footprints(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		h := Holding{Kind: Container, ID: c.ID, Names: []string{c.Name}, Used: c.Ended, Parts: []Part{{"container " + c.ID, c.Bytes}}}
		if !c.Dead {
			h.Needs = "it may run again"
		}
		out = append(out, h)
	}
	return out, nil
}

// imageHoldings are what the image store has. A layer or blob that nothing in it
// has, and no lease, is on its way in or out: it counts under Lease.
func imageHoldings(u image.Usage) []Holding {
	var out []Holding
	known := map[digest.Digest]bool{}
	add := func(h Holding, sizes map[digest.Digest]int64, parts ...digest.Digest) Holding {
		for _, d := range parts {
			if n, here := sizes[d]; here && !slices.ContainsFunc(h.Parts, func(p Part) bool { return p.ID == string(d) }) {
				known[d] = true
				h.Parts = append(h.Parts, Part{string(d), n})
			}
		}
		return h
	}
	for _, i := range u.Images {
		h := add(Holding{Kind: Image, ID: string(i.ID), Names: i.Names, Used: i.Used, Needs: imageNeeds(i)}, u.Layers, i.Layers...)
		out = append(out, add(h, u.Blobs, i.Blobs...))
	}
	for _, c := range u.Copies {
		h := Holding{Kind: Copy, ID: string(c.Blob), Used: c.Used}
		if c.Leased {
			h.Needs = "it is leased"
		}
		out = append(out, add(h, u.Blobs, c.Blob))
	}
	for owner, set := range u.Leases {
		if owner == builder.CacheLease {
			continue // those of the results
		}
		out = append(out, leaseHolding(owner, set, u))
		for d := range set {
			known[d] = true
		}
	}
	rest := Holding{Kind: Lease, ID: "nobody's", Needs: "it is on its way", Used: time.Time{}}
	for d, n := range u.Blobs {
		if !known[d] {
			rest.Parts = append(rest.Parts, Part{string(d), n})
		}
	}
	return append(out, rest)
}

func leaseHolding(owner string, set map[digest.Digest]bool, u image.Usage) Holding {
	h := Holding{Kind: Lease, ID: owner, Needs: "it is leased"}
	for d := range set {
		if n, here := u.Layers[d]; here {
			h.Parts = append(h.Parts, Part{string(d), n})
		} else if n, here := u.Blobs[d]; here {
			h.Parts = append(h.Parts, Part{string(d), n})
		}
	}
	return h
}

func imageNeeds(i image.ImageUsage) string {
	switch {
	case i.InUse:
		return "a container has it"
	case i.Tagged:
		return "it has a tag"
	case i.Base:
		return "an image was built from it"
	}
	return ""
}
