package nft

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn writes one table. Its methods may be called concurrently.
type Conn struct {
	table  string
	family Family
	turn   chan struct{} // holds one token; who took it may use what follows
	nl     *netlink.Conn
	have   *state // nil with known: there is no table
	known  bool

	port  atomic.Uint32 // netlink port of nl, by which Watch knows our own changes
	stale atomic.Bool   // a foreign change was seen: have must be read again
}

// Open prepares to write the table called name in the network namespace of the
// calling thread. Nothing happens in the kernel before Apply.
func Open(family Family, name string) (*Conn, error) {
	c := &Conn{table: name, family: family, turn: make(chan struct{}, 1)}
	if err := c.dial(); err != nil {
		return nil, err
	}
	c.turn <- struct{}{}
	return c, nil
}

// Buffers: a first transaction of 1000 services is about a megabyte.
const (
	writeBuffer = 64 << 20
	readBuffer  = 8 << 20
)

func (c *Conn) dial() error {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	if err := errors.Join(nl.SetWriteBuffer(writeBuffer), nl.SetReadBuffer(readBuffer)); err != nil {
		return errors.Join(fmt.Errorf("open nftables: %w", err), nl.Close())
	}
	c.nl, c.have, c.known = nl, nil, false
	return nil
}

// Close leaves the table as it is. No method may run or be called any more.
func (c *Conn) Close() error { return c.nl.Close() }

func (c *Conn) take(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Conn) release() { c.turn <- struct{}{} }

// attempts bounds how often Apply starts over when the table changes under it.
const attempts = 4

// Apply makes the kernel's table equal to want, whose name must be the Conn's,
// and returns how many messages that took: 0 when nothing differed. want must
// not be changed afterwards.
func (c *Conn) Apply(ctx context.Context, want *Table) (int, error) {
	if want.Name != c.table || want.Family != c.family {
		panic("nft: table " + want.Name + " given to the owner of " + c.table)
	}
	if err := c.take(ctx); err != nil {
		return 0, err
	}
	defer c.release()
	var err error
	for range attempts {
		var sent int
		if sent, err = c.applyLocked(want); err == nil {
			return sent, nil
		}
		// Whatever it was, what is remembered cannot be relied upon, and unread
		// replies may be waiting in the socket.
		if derr := errors.Join(c.nl.Close(), c.dial()); derr != nil {
			return 0, errors.Join(err, derr)
		}
	}
	return 0, fmt.Errorf("change nftables table %s: %w", c.table, err)
}

func (c *Conn) applyLocked(want *Table) (int, error) {
	if c.stale.Swap(false) {
		c.known = false
	}
	if !c.known {
		have, err := c.load()
		if err != nil {
			return 0, err
		}
		c.have, c.known = have, true
	}
	p := diff(c.have, want)
	if p.isEmpty() {
		return 0, nil
	}
	messages, err := encode(p, want)
	if err != nil {
		return 0, err
	}
	if err := c.send(messages); err != nil {
		return 0, err
	}
	c.have = stateOf(want)
	return len(messages), nil
}

// send does one transaction: the kernel works on it before sendmsg returns, so
// the acknowledgement of the last change, or the first error, is there to read.
func (c *Conn) send(messages []netlink.Message) error {
	sent, err := c.nl.SendMessages(messages)
	if err != nil {
		return err
	}
	c.port.Store(sent[0].Header.PID)
	_, err = c.nl.Receive()
	return err
}

// Delete removes the table; it succeeds when there is none.
func (c *Conn) Delete(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.release()
	drop := message(c.family, unix.NFT_MSG_DELTABLE, netlink.Acknowledge, attrs{}.text(unix.NFTA_TABLE_NAME, c.table))
	err := c.send([]netlink.Message{batchMark(batchBegin), drop, batchMark(batchEnd)})
	c.have, c.known = nil, false
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("delete nftables table %s: %w", c.table, err), c.nl.Close(), c.dial())
	}
	return nil
}

// Differs reads the table from the kernel and tells whether Apply of want would
// change it. It changes nothing.
func (c *Conn) Differs(ctx context.Context, want *Table) (bool, error) {
	if err := c.take(ctx); err != nil {
		return false, err
	}
	defer c.release()
	have, err := c.load()
	if err != nil {
		return false, errors.Join(err, c.nl.Close(), c.dial())
	}
	return !diff(have, want).isEmpty(), nil
}
