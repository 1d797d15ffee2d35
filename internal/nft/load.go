package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// load reads the table from the kernel; nil when there is none.
func (c *Conn) load() (*state, error) {
	for range attempts {
		s, err := c.loadOnce()
		if !errors.Is(err, errInterrupted) {
			return s, err
		}
	}
	return nil, fmt.Errorf("read nftables table %s: %w", c.table, errInterrupted)
}

// errInterrupted says that the ruleset changed while it was read.
var errInterrupted = errors.New("the ruleset keeps changing")

func (c *Conn) loadOnce() (*state, error) {
	_, err := c.nl.Execute(message(c.family, unix.NFT_MSG_GETTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, c.table)))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nftables table %s: %w", c.table, err)
	}
	s := &state{chains: make(map[string]chainState), sets: make(map[string]setState)}
	of := attrs{}.text(1, c.table) // every kind of object has its table as attribute 1
	err = errors.Join(
		c.dump(unix.NFT_MSG_GETCHAIN, of, s.addChain),
		c.dump(unix.NFT_MSG_GETRULE, of, s.addRule),
		c.dump(unix.NFT_MSG_GETSET, of, s.addSet),
	)
	if err != nil {
		return nil, err
	}
	for name, set := range s.sets {
		query := attrs{}.text(unix.NFTA_SET_ELEM_LIST_TABLE, c.table).text(unix.NFTA_SET_ELEM_LIST_SET, name)
		if err := c.dump(unix.NFT_MSG_GETSETELEM, query, set.addElements); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// dump gives each answer's attributes to add. Older kernels answer for all
// tables: others than ours are left out here.
func (c *Conn) dump(kind uint16, query attrs, add func(attributes) error) error {
	answers, err := c.nl.Execute(message(c.family, kind, netlink.Dump, query))
	if err != nil {
		return fmt.Errorf("read nftables table %s: %w", c.table, err)
	}
	for _, m := range answers {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return errInterrupted
		}
		if len(m.Data) < 4 || m.Data[0] != byte(c.family) {
			continue
		}
		fields, err := parseAttributes(m.Data[4:])
		if err != nil {
			return fmt.Errorf("read nftables table %s: %w", c.table, err)
		}
		if fields.text(1) != c.table {
			continue
		}
		if err := add(fields); err != nil {
			return fmt.Errorf("read nftables table %s: %w", c.table, err)
		}
	}
	return nil
}

func (s *state) addChain(f attributes) error {
	c := chainState{prints: []string{}}
	if data, ok := f[unix.NFTA_CHAIN_HOOK]; ok {
		hook, err := parseAttributes(data)
		if err != nil {
			return err
		}
		c.hook = &Hook{Type: f.text(unix.NFTA_CHAIN_TYPE), Number: hook.u32(unix.NFTA_HOOK_HOOKNUM), Priority: int32(hook.u32(unix.NFTA_HOOK_PRIORITY))}
	}
	s.chains[f.text(unix.NFTA_CHAIN_NAME)] = c
	return nil
}

// addRule keeps the rule's fingerprint; a foreign rule has none, and differs
// from every wanted one.
func (s *state) addRule(f attributes) error {
	name := f.text(unix.NFTA_RULE_CHAIN)
	c, ok := s.chains[name]
	if !ok {
		return errInterrupted // made after the chains were read
	}
	c.prints = append(c.prints, comment(f[unix.NFTA_RULE_USERDATA]))
	s.chains[name] = c
	return nil
}

// comment finds the comment in a rule's user data: type, length, value ...
func comment(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		value := data[2 : 2+int(data[1])]
		if data[0] == 0 && len(value) > 0 {
			return string(value[:len(value)-1])
		}
		data = data[2+int(data[1]):]
	}
	return ""
}

func (s *state) addSet(f attributes) error {
	flags := f.u32(unix.NFTA_SET_FLAGS)
	if flags&unix.NFT_SET_ANONYMOUS != 0 {
		return nil // part of a rule
	}
	var timeout uint64
	if data := f[unix.NFTA_SET_TIMEOUT]; len(data) == 8 {
		timeout = binary.BigEndian.Uint64(data)
	}
	dataWidth := f.u32(unix.NFTA_SET_DATA_LEN)
	if f.u32(unix.NFTA_SET_DATA_TYPE) == Verdict.magic {
		dataWidth = 0
	}
	s.sets[f.text(unix.NFTA_SET_NAME)] = setState{
		definition: fmt.Sprintf("%#x/%d:%#x/%d timeout %d", f.u32(unix.NFTA_SET_KEY_TYPE), f.u32(unix.NFTA_SET_KEY_LEN),
			f.u32(unix.NFTA_SET_DATA_TYPE), dataWidth, timeout),
		elements: make(map[string]Value),
	}
	return nil
}

func (s setState) addElements(f attributes) error {
	return eachAttribute(f[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ uint16, data []byte) error {
		element, err := parseAttributes(data)
		if err != nil {
			return err
		}
		key, err := parseAttributes(element[unix.NFTA_SET_ELEM_KEY])
		if err != nil {
			return err
		}
		value, err := parseAttributes(element[unix.NFTA_SET_ELEM_DATA])
		if err != nil {
			return err
		}
		verdict, err := parseAttributes(value[unix.NFTA_DATA_VERDICT])
		if err != nil {
			return err
		}
		s.elements[string(key[unix.NFTA_DATA_VALUE])] = Value{Bytes: string(value[unix.NFTA_DATA_VALUE]),
			Code: int32(verdict.u32(unix.NFTA_VERDICT_CODE)), Chain: verdict.text(unix.NFTA_VERDICT_CHAIN)}
		return nil
	})
}

// BaseChain is a base chain of any table of this network namespace.
type BaseChain struct {
	Family uint8 // unix.NFPROTO_IPV4, NFPROTO_INET ...
	Table  string
	Name   string
	Hook   uint32
	Drops  bool // its policy
}

// BaseChains lists all tables' base chains.
func BaseChains() (list []BaseChain, err error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { err = errors.Join(err, nl.Close()) }()
	query := message(unix.NFPROTO_UNSPEC, unix.NFT_MSG_GETCHAIN, netlink.Dump, nil)
	answers, err := nl.Execute(query)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, m := range answers {
		if len(m.Data) < 4 {
			continue
		}
		f, err := parseAttributes(m.Data[4:])
		if err != nil {
			return nil, err
		}
		hook, err := parseAttributes(f[unix.NFTA_CHAIN_HOOK])
		if err != nil {
			return nil, err
		}
		if len(hook) > 0 {
			policy := f[unix.NFTA_CHAIN_POLICY]
			list = append(list, BaseChain{Family: m.Data[0], Table: f.text(unix.NFTA_CHAIN_TABLE), Name: f.text(unix.NFTA_CHAIN_NAME),
				Hook: hook.u32(unix.NFTA_HOOK_HOOKNUM), Drops: len(policy) == 4 && binary.BigEndian.Uint32(policy) != accept})
		}
	}
	return list, nil
}

// attributes are netlink attributes by type, without the flags.
type attributes map[uint16][]byte

func (a attributes) text(kind uint16) string {
	data := a[kind]
	if n := len(data); n > 0 && data[n-1] == 0 {
		data = data[:n-1]
	}
	return string(data)
}

func (a attributes) u32(kind uint16) uint32 {
	if data := a[kind]; len(data) == 4 {
		return binary.BigEndian.Uint32(data)
	}
	return 0
}

func parseAttributes(b []byte) (attributes, error) {
	a := make(attributes)
	err := eachAttribute(b, func(kind uint16, data []byte) error {
		a[kind] = data
		return nil
	})
	return a, err
}

func eachAttribute(b []byte, do func(kind uint16, data []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return fmt.Errorf("netlink attribute of %d bytes in %d", n, len(b))
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := do(kind, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}
