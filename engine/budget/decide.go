package budget

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Kind is what a holding is.
type Kind string

// The kinds.
const (
	Copy      Kind = "packed copies"
	Image     Kind = "images"
	Result    Kind = "build cache"
	Mount     Kind = "cache mounts"
	Container Kind = "containers"
	Lease     Kind = "in transit" // what a pull, build or save has, and what the registry serves
)

// Holding is something that takes room.
type Holding struct {
	Kind  Kind
	ID    string
	Names []string // what a person calls it; may be empty
	Used  time.Time
	Needs string // why it never goes; empty: it may
	Parts []Part
}

// Part is what a holding takes. Holdings share the parts that have the same ID.
type Part struct {
	ID    string
	Bytes int64
}

func (h Holding) digest() digest.Digest { return digest.Digest(h.ID) }

// taken is what holdings take together.
func taken(holdings []Holding) (n int64) {
	counted := map[string]bool{}
	for _, h := range holdings {
		for _, p := range h.Parts {
			if !counted[p.ID] {
				counted[p.ID] = true
				n += p.Bytes
			}
		}
	}
	return n
}

// decide chooses what goes to free need bytes, and tells how many that frees: of
// what was not used since, packed copies, then the oldest. What would free
// nothing, because what stays has all its parts, is left alone.
func decide(holdings []Holding, need int64, since func(Kind) time.Time) (plan []Holding, freed int64) {
	var may []Holding
	users := map[string]int{} // of each part
	stays := map[string]bool{}
	for _, h := range holdings {
		goes := h.Needs == "" && !h.Used.After(since(h.Kind))
		if goes {
			may = append(may, h)
		}
		for _, p := range h.Parts {
			users[p.ID]++
			stays[p.ID] = stays[p.ID] || !goes
		}
	}
	slices.SortStableFunc(may, func(a, b Holding) int {
		return cmp.Or(rank(a.Kind)-rank(b.Kind), a.Used.Compare(b.Used), cmp.Compare(a.ID, b.ID))
	})
	for _, h := range may {
		if freed >= need {
			break
		}
		if !slices.ContainsFunc(h.Parts, func(p Part) bool { return p.Bytes > 0 && !stays[p.ID] }) {
			continue
		}
		plan = append(plan, h)
		for _, p := range h.Parts {
			if users[p.ID]--; users[p.ID] == 0 {
				freed += p.Bytes
			}
		}
	}
	return plan, freed
}

// rank is 0 for what costs nothing but time to have again.
func rank(k Kind) int {
	if k == Copy {
		return 0
	}
	return 1
}
