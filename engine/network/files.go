package network

import (
	"net/netip"
	"os"
	"strings"
)

// Resolver is the content of a resolv.conf.
type Resolver struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// HostEntry is one line of a hosts file.
type HostEntry struct {
	Address netip.Addr
	Names   []string
}

// hostResolvConf and its replacement where the first names a local stub only.
const (
	hostResolvConf    = "/etc/resolv.conf"
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
)

// HostResolver reads the resolver that containers inherit from the host. When
// /etc/resolv.conf names only loopback addresses, which a container cannot
// reach, systemd-resolved's list of real servers is taken instead; where there
// is none the list is empty, and names do not resolve until servers are given:
// unlike Docker, no foreign public resolver is put in.
func HostResolver() (Resolver, error) {
	own, err := readResolver(hostResolvConf)
	if err != nil || len(own.Servers) > 0 {
		return own, err
	}
	real, err := readResolver(systemdResolvConf)
	if err != nil {
		return own, err
	}
	own.Servers = real.Servers
	return own, nil
}

// hostServers are the host's own name servers, those on its loopback included.
func hostServers() []netip.Addr {
	data, err := os.ReadFile(hostResolvConf)
	if err != nil {
		return nil
	}
	return ParseResolver(string(data)).Servers
}

// readResolver reads a file without its loopback servers. A missing file is empty.
func readResolver(path string) (Resolver, error) {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return Resolver{}, nil
	}
	if err != nil {
		return Resolver{}, err
	}
	r := ParseResolver(string(data))
	kept := r.Servers[:0]
	for _, s := range r.Servers {
		if !s.IsLoopback() {
			kept = append(kept, s)
		}
	}
	r.Servers = kept
	return r, nil
}

// ParseResolver reads resolv.conf(5). Lines that it does not know, and
// addresses that are none, are left out; the last search line counts.
func ParseResolver(text string) Resolver {
	var r Resolver
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0][0] == '#' || fields[0][0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				r.Servers = append(r.Servers, a)
			}
		case "search", "domain":
			r.Search = fields[1:]
		case "options":
			r.Options = append(r.Options, fields[1:]...)
		}
	}
	return r
}

// ResolvConf renders r as a resolv.conf file.
func ResolvConf(r Resolver) []byte {
	var b strings.Builder
	for _, s := range r.Servers {
		b.WriteString("nameserver " + s.String() + "\n")
	}
	if len(r.Search) > 0 {
		b.WriteString("search " + strings.Join(r.Search, " ") + "\n")
	}
	if len(r.Options) > 0 {
		b.WriteString("options " + strings.Join(r.Options, " ") + "\n")
	}
	return []byte(b.String())
}

// HostsFile renders the hosts file of a container: the lines that every host
// has, then entries in order.
func HostsFile(entries []HostEntry) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	for _, e := range entries {
		b.WriteString(e.Address.String() + "\t" + strings.Join(e.Names, " ") + "\n")
	}
	return []byte(b.String())
}
