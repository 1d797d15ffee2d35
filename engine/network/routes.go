package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// defaultBits is how short a route must be to count as a part of the default
// route: VPNs split that in halves, so that it stays behind them.
const defaultBits = 7

// routed returns the subnets that the host reaches otherwise than by a default
// route or one of the interfaces in except, its own addresses and the tables of
// policy routing among them. None of them holds another.
func (l *links) routed(except func(link string) bool) ([]netip.Prefix, error) {
	all, err := whole(l.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	ours := make(map[int]bool)
	for _, link := range all {
		ours[link.Attrs().Index] = except(link.Attrs().Name)
	}
	var taken []netip.Prefix
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return l.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if subnet, ok := takes(r); ok && !ours[r.LinkIndex] {
				taken = append(taken, subnet)
			}
		}
	}
	return outermost(taken), nil
}

// takes returns the subnet that a route takes from those that networks may have.
func takes(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_ANYCAST || r.Type == unix.RTN_MULTICAST {
		return netip.Prefix{}, false
	}
	bits, _ := r.Dst.Mask.Size()
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	ok = ok && bits > defaultBits && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsLoopback()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// outermost leaves out what another of the subnets holds.
func outermost(list []netip.Prefix) []netip.Prefix {
	slices.SortStableFunc(list, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	var kept []netip.Prefix
	for _, p := range list {
		if !overlapsAny(p, kept) {
			kept = append(kept, p)
		}
	}
	return kept
}

// routesPause is how long changes of the host's routes are collected before they
// are looked at.
const routesPause = time.Second

// watchRoutes says when the host begins to route a network's subnet elsewhere:
// a VPN that comes up takes what containers send, or they what is meant for it.
func (h *Host) watchRoutes(ctx context.Context) error {
	changes, done := make(chan struct{}, 1), make(chan error, 1)
	stop := context.AfterFunc(ctx, h.routes.Close) // ends Receive
	defer stop()
	go func() { done <- receiveRoutes(ctx, h.routes, changes) }()
	pause := time.NewTimer(routesPause)
	defer pause.Stop()
	for waiting := false; ; {
		select {
		case <-changes:
			if !waiting {
				waiting = true
				pause.Reset(routesPause)
			}
		case <-pause.C:
			waiting = false
			h.sayCollisions()
		case err := <-done:
			return err
		}
	}
}

// receiveRoutes puts a token into changes when routes of interest came or events
// were lost, until ctx is done and the socket closed.
func receiveRoutes(ctx context.Context, socket *nl.NetlinkSocket, changes chan struct{}) error {
	for {
		messages, _, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			signal(changes)
		case err != nil:
			return fmt.Errorf("watch routes: %w", err)
		case slices.ContainsFunc(messages, mayTake):
			signal(changes)
		}
	}
}

// mayTake tells whether a message is of a route as takes wants it, at first
// sight: each container's interface gives the host several others.
func mayTake(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	msg := nl.DeserializeRtMsg(m.Data)
	if msg.Dst_len <= defaultBits || msg.Type == unix.RTN_BROADCAST || msg.Type == unix.RTN_ANYCAST || msg.Type == unix.RTN_MULTICAST {
		return false
	}
	attributes, err := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
	if err != nil {
		return false
	}
	for _, a := range attributes {
		if to, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.RTA_DST {
			return !to.IsLinkLocalUnicast() && !to.IsMulticast()
		}
	}
	return false
}

// openRoutes begins to collect changes of the host's IPv4 routes.
func openRoutes() (*nl.NetlinkSocket, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	return socket, nil
}

// watchRoutes6 adds those of IPv6. Hosts without are spared them: each interface
// that comes or goes changes several.
func (h *Host) watchRoutes6() error {
	err := unix.SetsockoptInt(h.routes.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	return nil
}

// sayCollisions logs the collisions that were not logged yet.
func (h *Host) sayCollisions() {
	found, err := h.collisions()
	if err != nil {
		h.log.Warn("cannot compare the host's routes with the networks", "err", err)
		return
	}
	now := make(map[string]bool)
	for _, f := range found {
		if now[f.Problem] = true; !h.said[f.Problem] {
			h.log.Warn("the host impairs the network", "err", f.Problem, "fix", f.Fix)
		}
	}
	h.said = now
}
