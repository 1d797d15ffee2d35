package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed after each foreign change of the table, until ctx is
// done; the next Apply reads the table anew. It also calls it once it listens,
// for changes before that, and when events were lost. changed must not block.
// Watch must be called in the Conn's network namespace.
func (c *Conn) Watch(ctx context.Context, changed func()) error {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	if err := errors.Join(nl.SetReadBuffer(readBuffer), nl.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return errors.Join(fmt.Errorf("watch nftables: %w", err), nl.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = nl.Close() }) // ends Receive
	defer func() {
		if stop() {
			_ = nl.Close()
		}
	}()
	c.stale.Store(true)
	changed()
	for {
		messages, err := nl.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			c.stale.Store(true)
			changed()
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		case c.foreign(messages):
			c.stale.Store(true)
			changed()
		}
	}
}

// foreign tells whether any of the messages is about our table and not ours.
func (c *Conn) foreign(messages []netlink.Message) bool {
	for _, m := range messages {
		if m.Header.PID == c.port.Load() || m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 || m.Data[0] != byte(c.family) {
			continue
		}
		// Attribute 1 of every object but a generation is its table.
		if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
			continue
		}
		if f, err := parseAttributes(m.Data[4:]); err == nil && f.text(1) == c.table {
			return true
		}
	}
	return false
}
