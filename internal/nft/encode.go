package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attrs is a growing list of netlink attributes. Numbers are big endian, as
// nf_tables wants them.
type attrs []byte

func (a attrs) bytes(kind uint16, data []byte) attrs {
	a = binary.NativeEndian.AppendUint16(a, uint16(4+len(data)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, data...)
	return append(a, make([]byte, -len(data)&3)...)
}

func (a attrs) text(kind uint16, s string) attrs { return a.bytes(kind, append([]byte(s), 0)) }

func (a attrs) u32(kind uint16, v uint32) attrs {
	return a.bytes(kind, binary.BigEndian.AppendUint32(nil, v))
}

func (a attrs) u64(kind uint16, v uint64) attrs {
	return a.bytes(kind, binary.BigEndian.AppendUint64(nil, v))
}

func (a attrs) nest(kind uint16, inner attrs) attrs { return a.bytes(kind|unix.NLA_F_NESTED, inner) }

// message kinds that x/sys does not name for batches.
const (
	batchBegin = 0x10 // NFNL_MSG_BATCH_BEGIN
	batchEnd   = 0x11 // NFNL_MSG_BATCH_END
)

// accept is NF_ACCEPT, a base chain's policy.
const accept = 1

// nfgenmsg begins every message (linux/netfilter/nfnetlink.h).
func nfgenmsg(family uint8, resource uint16) []byte {
	return []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
}

func message(family Family, kind uint16, flags netlink.HeaderFlags, body attrs) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append(nfgenmsg(byte(family), 0), body...),
	}
}

func batchMark(kind uint16) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
		Data:   nfgenmsg(0, unix.NFNL_SUBSYS_NFTABLES),
	}
}

// transaction encodes a plan. Only its last change asks for an acknowledgement.
type transaction struct {
	table    string
	family   Family
	messages []netlink.Message
	lastSet  uint32 // number of the last anonymous set
}

// encode makes the messages of one batch.
func encode(p *plan, want *Table) ([]netlink.Message, error) {
	t := &transaction{table: want.Name, family: want.Family, messages: []netlink.Message{batchMark(batchBegin)}}
	if p.replace {
		t.add(unix.NFT_MSG_DELTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, t.table))
	}
	if p.create {
		t.add(unix.NFT_MSG_NEWTABLE, netlink.Create, attrs{}.text(unix.NFTA_TABLE_NAME, t.table))
	}
	for _, name := range p.newChains {
		t.newChain(name, want.Chains[name].Hook)
	}
	for _, name := range p.newSets {
		t.newSet(name, want.Sets[name], 0)
	}
	for _, name := range p.empty {
		t.add(unix.NFT_MSG_DELRULE, 0, attrs{}.text(unix.NFTA_RULE_TABLE, t.table).text(unix.NFTA_RULE_CHAIN, name))
	}
	for _, change := range p.dropElems {
		t.elements(unix.NFT_MSG_DELSETELEM, change.set, 0, change.keys, nil)
	}
	for _, change := range p.addElems {
		t.elements(unix.NFT_MSG_NEWSETELEM, change.set, 0, change.keys, want.Sets[change.set].Elements)
	}
	for _, name := range p.fill {
		for _, r := range want.Chains[name].Rules {
			if err := t.rule(name, r); err != nil {
				return nil, fmt.Errorf("chain %s: encode %s: %w", name, r.text, err)
			}
		}
	}
	for _, name := range p.oldSets {
		t.add(unix.NFT_MSG_DELSET, 0, attrs{}.text(unix.NFTA_SET_TABLE, t.table).text(unix.NFTA_SET_NAME, name))
	}
	for _, name := range p.oldChains {
		t.add(unix.NFT_MSG_DELCHAIN, 0, attrs{}.text(unix.NFTA_CHAIN_TABLE, t.table).text(unix.NFTA_CHAIN_NAME, name))
	}
	t.messages[len(t.messages)-1].Header.Flags |= netlink.Acknowledge
	return append(t.messages, batchMark(batchEnd)), nil
}

func (t *transaction) add(kind uint16, flags netlink.HeaderFlags, body attrs) {
	t.messages = append(t.messages, message(t.family, kind, flags, body))
}

func (t *transaction) newChain(name string, hook *Hook) {
	body := attrs{}.text(unix.NFTA_CHAIN_TABLE, t.table).text(unix.NFTA_CHAIN_NAME, name)
	if hook != nil {
		body = body.nest(unix.NFTA_CHAIN_HOOK, attrs{}.u32(unix.NFTA_HOOK_HOOKNUM, hook.Number).u32(unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority)))
		body = body.u32(unix.NFTA_CHAIN_POLICY, accept).text(unix.NFTA_CHAIN_TYPE, hook.Type)
	}
	t.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, body)
}

// keyByteOrder is the set's user datum by which nft(8) prints names and numbers
// that are in the host's byte order (libnftnl/udata.h).
func keyByteOrder(key []Type) []byte {
	const host, big = 1, 2
	order := uint32(big)
	if len(key) == 1 && (key[0] == Interface || key[0] == integer) {
		order = host
	}
	return append([]byte{0, 4}, native(order)...)
}

// newSet declares a set; id is 0 for a named one.
func (t *transaction) newSet(name string, s Set, id uint32) {
	var flags uint32
	if id != 0 {
		flags |= unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT
	}
	if len(s.Data) > 0 {
		flags |= unix.NFT_SET_MAP
	}
	if s.Timeout > 0 {
		flags |= unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
	}
	body := attrs{}.text(unix.NFTA_SET_TABLE, t.table).text(unix.NFTA_SET_NAME, name).u32(unix.NFTA_SET_FLAGS, flags).
		u32(unix.NFTA_SET_KEY_TYPE, magic(s.Key)).u32(unix.NFTA_SET_KEY_LEN, uint32(width(s.Key))).u32(unix.NFTA_SET_ID, id)
	if len(s.Data) > 0 {
		body = body.u32(unix.NFTA_SET_DATA_TYPE, magic(s.Data)).u32(unix.NFTA_SET_DATA_LEN, uint32(s.dataWidth()))
	}
	if s.Timeout > 0 {
		body = body.u64(unix.NFTA_SET_TIMEOUT, uint64(s.Timeout.Milliseconds()))
	}
	if id != 0 {
		body = body.nest(unix.NFTA_SET_DESC, attrs{}.u32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.Elements))))
	}
	body = body.bytes(unix.NFTA_SET_USERDATA, keyByteOrder(s.Key))
	t.add(unix.NFT_MSG_NEWSET, netlink.Create, body)
}

// elementsPerMessage keeps a list of the longest elements below an attribute's
// 64 KiB.
const elementsPerMessage = 150

// elements adds or, with values nil, drops elements of a set.
func (t *transaction) elements(kind uint16, set string, id uint32, keys []string, values map[string]Value) {
	for len(keys) > 0 {
		n := min(len(keys), elementsPerMessage)
		var list attrs
		for _, key := range keys[:n] {
			element := attrs{}.nest(unix.NFTA_SET_ELEM_KEY, attrs{}.bytes(unix.NFTA_DATA_VALUE, []byte(key)))
			if v := values[key]; v != (Value{}) {
				element = element.nest(unix.NFTA_SET_ELEM_DATA, v.encode())
			}
			list = list.nest(unix.NFTA_LIST_ELEM, element)
		}
		body := attrs{}.text(unix.NFTA_SET_ELEM_LIST_TABLE, t.table).text(unix.NFTA_SET_ELEM_LIST_SET, set)
		if id != 0 {
			body = body.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		}
		var flags netlink.HeaderFlags
		if kind == unix.NFT_MSG_NEWSETELEM {
			flags = netlink.Create
		}
		t.add(kind, flags, body.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list))
		keys = keys[n:]
	}
}

func (v Value) encode() attrs {
	if v.Code == 0 {
		return attrs{}.bytes(unix.NFTA_DATA_VALUE, []byte(v.Bytes))
	}
	return attrs{}.nest(unix.NFTA_DATA_VERDICT, attrs{}.u32(unix.NFTA_VERDICT_CODE, uint32(v.Code)).text(unix.NFTA_VERDICT_CHAIN, v.Chain))
}

// anonymousMap is the name by which the kernel numbers maps without one.
const anonymousMap = "__map%d"

func (t *transaction) rule(chain string, r Rule) error {
	var list attrs
	for _, s := range r.stmts {
		exprs := s.exprs
		if s.anon != nil {
			t.lastSet++
			t.newSet(anonymousMap, *s.anon, t.lastSet)
			keys := make([]string, len(s.anon.Elements))
			for i := range keys {
				keys[i] = string(native(uint32(i)))
			}
			t.elements(unix.NFT_MSG_NEWSETELEM, anonymousMap, t.lastSet, keys, s.anon.Elements)
			exprs = s.after(lookup{t.lastSet, anonymousMap})
		}
		for _, e := range exprs {
			data, err := expr.Marshal(byte(t.family), e)
			if err != nil {
				return err
			}
			list = list.nest(unix.NFTA_LIST_ELEM, data)
		}
	}
	comment := fingerprint(r.text) + "\x00"
	body := attrs{}.text(unix.NFTA_RULE_TABLE, t.table).text(unix.NFTA_RULE_CHAIN, chain).nest(unix.NFTA_RULE_EXPRESSIONS, list).
		bytes(unix.NFTA_RULE_USERDATA, append([]byte{0, byte(len(comment))}, comment...))
	t.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, body)
	return nil
}
