package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/nft"

	"golang.org/x/sys/unix"
)

// Diagnose looks for what on this host keeps containers from their network.
// It changes nothing and needs no Restore before it.
//
// It does not see rules of legacy iptables (x_tables without nftables).
func (h *Host) Diagnose(_ context.Context) ([]Finding, error) {
	chains, err := nft.BaseChains()
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return []Finding{{Problem: "the kernel has no nftables", Fix: "use a kernel with CONFIG_NF_TABLES", Fatal: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	findings := dropFindings(chains, h.cfg.Instance.Table(), h.cfg.Instance.Bridge(), h.cfg.Instance.PodBridge())
	collisions, err := h.collisions()
	return append(findings, collisions...), err
}

// dropFindings reports other tables that drop what they do not know: accepting
// in our own table does not help, every table must let a packet pass.
func dropFindings(chains []nft.BaseChain, own, bridge, podBridge string) []Finding {
	var findings []Finding
	families := map[uint8]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_INET: "inet"}
	for _, c := range chains {
		family, relevant := families[c.Family]
		if !relevant || !c.Drops || c.Hook != unix.NF_INET_FORWARD || c.Table == own {
			continue
		}
		chain := fmt.Sprintf("%s %s %s", family, c.Table, c.Name)
		findings = append(findings, Finding{
			Problem: fmt.Sprintf("chain %s, of another program, drops forwarded packets by default: containers may reach neither each other nor the outside", chain),
			Fix: fmt.Sprintf(`let ours pass: nft 'insert rule %s iifname { "%s", "%s" } accept; insert rule %s oifname { "%s", "%s" } accept'`,
				chain, bridge, podBridge, chain, bridge, podBridge),
		})
	}
	return findings
}

// ours tells the interfaces of this instance, which has these networks.
func (h *Host) ours(networks []*Network) func(link string) bool {
	own, named := ownLink(h.cfg.Instance.LinkPrefix()), map[string]bool{h.cfg.Instance.Bridge(): true, h.cfg.Instance.PodBridge(): true}
	in, out := detourLinks(h.cfg.Instance.LinkPrefix())
	named[in], named[out] = true, true
	for _, n := range networks {
		if n.Driver == DriverBridge {
			named[n.Link] = true
		}
	}
	return func(link string) bool { return named[link] || own.MatchString(link) }
}

// Warnings says what on this host keeps containers from their network now.
func (h *Host) Warnings(ctx context.Context) []string {
	findings, err := h.Diagnose(ctx)
	if err != nil {
		h.log.Warn("cannot look at the host's network", "err", err)
	}
	var list []string
	for _, f := range findings {
		list = append(list, "WARNING: "+f.Problem)
	}
	return list
}

// collisions reports networks whose subnet the host also reaches elsewhere.
func (h *Host) collisions() ([]Finding, error) {
	entries, err := os.ReadDir(h.networksDir())
	if errors.Is(err, os.ErrNotExist) || len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	links, err := openLinks()
	if err != nil {
		return nil, err
	}
	defer links.close()
	var networks []*Network
	for _, e := range entries {
		n, err := readNetwork(filepath.Join(h.networksDir(), e.Name()))
		if errors.Is(err, os.ErrNotExist) || strings.HasPrefix(e.Name(), ".tmp-") {
			continue // removed, or not yet made
		}
		if err != nil {
			return nil, err
		}
		networks = append(networks, n)
	}
	taken, err := links.routed(h.ours(networks))
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, n := range networks {
		for _, t := range taken {
			for _, subnet := range []netip.Prefix{n.Subnet, n.IPv6.Subnet} {
				if n.Driver != DriverBridge || !subnet.IsValid() || !subnet.Overlaps(t) {
					continue
				}
				findings = append(findings, Finding{
					Problem: fmt.Sprintf("network %s has subnet %s, and the host routes %s elsewhere", n.Name, subnet, t),
					Fix:     "stop what is attached to the network, and restart Gantry: a subnet that it chose moves; recreate a network whose subnet was given",
				})
			}
		}
	}
	return findings, nil
}
