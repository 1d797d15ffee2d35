package nft

import (
	"fmt"
	"maps"
	"slices"
)

// state is what the kernel has of a table, as read or as last written.
type state struct {
	chains map[string]chainState
	sets   map[string]setState
}

type chainState struct {
	hook   *Hook
	rules  []Rule   // as written by this process
	prints []string // fingerprints, as read; nil when rules counts
}

type setState struct {
	definition string
	elements   map[string]Value
}

// stateOf is the state that the kernel is in once it took t.
func stateOf(t *Table) *state {
	s := &state{chains: make(map[string]chainState, len(t.Chains)), sets: make(map[string]setState, len(t.Sets))}
	for name, c := range t.Chains {
		s.chains[name] = chainState{hook: c.Hook, rules: c.Rules}
	}
	for name, set := range t.Sets {
		s.sets[name] = setState{definition: set.definition(), elements: set.Elements}
	}
	return s
}

// definition tells what cannot change in a set without making it anew.
func (s Set) definition() string {
	return fmt.Sprintf("%#x/%d:%#x/%d timeout %d", magic(s.Key), width(s.Key), magic(s.Data), s.dataWidth(), s.Timeout.Milliseconds())
}

// dataWidth is the length of the set's data as the kernel counts it: 0 for
// verdicts.
func (s Set) dataWidth() int {
	if len(s.Data) == 1 && s.Data[0] == Verdict {
		return 0
	}
	return width(s.Data)
}

// plan is the difference between a state and a table, by name and in the order
// of a transaction.
type plan struct {
	replace   bool // the table is deleted first
	create    bool
	newChains []string
	newSets   []string
	empty     []string // chains whose rules go
	dropElems []elementChange
	addElems  []elementChange
	fill      []string // chains whose rules are written
	oldSets   []string
	oldChains []string
}

type elementChange struct {
	set  string
	keys []string
}

func (p *plan) isEmpty() bool {
	return !p.replace && !p.create && len(p.newChains)+len(p.newSets)+len(p.empty)+len(p.dropElems)+
		len(p.addElems)+len(p.fill)+len(p.oldSets)+len(p.oldChains) == 0
}

// diff decides how have becomes want. A nil have means that there is no table.
// What cannot be changed in place, a base chain's hook or a set's type, makes
// the whole table new, still within one transaction.
func diff(have *state, want *Table) *plan {
	p := &plan{}
	if have == nil {
		p.create = true
		have = &state{}
	} else if !sameShape(have, want) {
		p.create, p.replace = true, true
		have = &state{}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		old, exists := have.chains[name]
		switch c := want.Chains[name]; {
		case !exists:
			p.newChains = append(p.newChains, name)
			if len(c.Rules) > 0 {
				p.fill = append(p.fill, name)
			}
		case !old.holds(c.Rules):
			p.empty = append(p.empty, name)
			p.fill = append(p.fill, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		old, exists := have.sets[name]
		if !exists {
			p.newSets = append(p.newSets, name)
		}
		if want.Sets[name].Timeout == 0 {
			p.diffElements(name, old.elements, want.Sets[name].Elements)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have.chains)) {
		if _, wanted := want.Chains[name]; !wanted {
			p.empty = append(p.empty, name)
			p.oldChains = append(p.oldChains, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have.sets)) {
		if _, wanted := want.Sets[name]; !wanted {
			p.oldSets = append(p.oldSets, name)
		}
	}
	return p
}

func sameShape(have *state, want *Table) bool {
	for name, c := range want.Chains {
		old, exists := have.chains[name]
		if exists && (old.hook == nil) != (c.Hook == nil) {
			return false
		}
		if exists && c.Hook != nil && *old.hook != *c.Hook {
			return false
		}
	}
	for name, s := range want.Sets {
		if old, exists := have.sets[name]; exists && old.definition != s.definition() {
			return false
		}
	}
	return true
}

func (c chainState) holds(rules []Rule) bool {
	if c.prints == nil {
		return slices.EqualFunc(c.rules, rules, func(a, b Rule) bool { return a.text == b.text })
	}
	return slices.EqualFunc(c.prints, rules, func(print string, r Rule) bool { return print == fingerprint(r.text) })
}

// diffElements changes a key's data by dropping and adding it.
func (p *plan) diffElements(set string, have, want map[string]Value) {
	var drop, add []string
	for key, value := range have {
		if now, wanted := want[key]; !wanted || now != value {
			drop = append(drop, key)
		}
	}
	for key, value := range want {
		if old, exists := have[key]; !exists || old != value {
			add = append(add, key)
		}
	}
	slices.Sort(drop)
	slices.Sort(add)
	if len(drop) > 0 {
		p.dropElems = append(p.dropElems, elementChange{set, drop})
	}
	if len(add) > 0 {
		p.addElems = append(p.addElems, elementChange{set, add})
	}
}
