package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	own := ownLink(h.cfg.Instance.LinkPrefix())
	taken, err := links.routed(func(link string) bool {
		return link == h.cfg.Instance.Bridge() || link == h.cfg.Instance.PodBridge() || own.MatchString(link)
	})
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, e := range entries {
		n, err := readNetwork(filepath.Join(h.networksDir(), e.Name()))
		if err != nil {
			return findings, err
		}
		for _, t := range taken {
			if n.Subnet.IsValid() && n.Subnet.Overlaps(t) {
				findings = append(findings, Finding{
					Problem: fmt.Sprintf("network %s has subnet %s, and the host routes %s elsewhere", n.Name, n.Subnet, t),
					Fix:     "stop what is attached to the network, and restart Gantry: a subnet that it chose moves; recreate a network whose subnet was given",
				})
			}
		}
	}
	return findings, nil
}
