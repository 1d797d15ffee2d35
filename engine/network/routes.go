package network

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
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
	pause := time.NewTimer(routesPause)
	defer pause.Stop()
	for ctx.Err() == nil {
		// What came before the subscription, or while events were lost, is looked
		// at after the first pause.
		if err := h.followRoutes(ctx, pause); err != nil {
			return err
		}
		pause.Reset(routesPause)
	}
	return nil
}

// followRoutes looks at the routes whenever pause ends, which each change of
// interest begins. It returns when ctx is done or events were lost.
func (h *Host) followRoutes(ctx context.Context, pause *time.Timer) error {
	ctx, cancel := context.WithCancel(ctx)
	changes := make(chan netlink.RouteUpdate)
	if err := netlink.RouteSubscribe(changes, ctx.Done()); err != nil {
		cancel()
		return fmt.Errorf("watch routes: %w", err)
	}
	defer func() {
		cancel()
		for range changes { // until the subscription has ended
		}
	}()
	waiting := true
	for {
		select {
		case change, open := <-changes:
			if !open {
				return nil
			}
			if _, taking := takes(change.Route); taking && !waiting {
				waiting = true
				pause.Reset(routesPause)
			}
		case <-pause.C:
			waiting = false
			h.sayCollisions()
		case <-ctx.Done():
			return nil
		}
	}
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
