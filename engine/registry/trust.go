package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gantry/internal/problem"
)

// trusted is a transport and the state of the certificates that it was made of.
type trusted struct {
	transport *http.Transport
	state     string
}

// transport returns the transport for host, made anew when the files of its
// trust directory have changed.
func (c *Client) transport(host string) (*http.Transport, error) {
	files, state, err := c.trustFiles(host)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	t := c.transports[host]
	c.mu.Unlock()
	if t != nil && t.state == state {
		return t.transport, nil
	}
	conf, err := tlsConfig(files)
	if err != nil {
		return nil, err
	}
	conf.InsecureSkipVerify = c.insecure(host)
	made := &trusted{state: state, transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   concurrentDownloads + concurrentUploads,
		DisableCompression:    true, // a layer that is gzip is wanted as it is
		ForceAttemptHTTP2:     true,
	}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.transports[host]; old != nil {
		old.transport.CloseIdleConnections()
	}
	c.transports[host] = made
	return made.transport, nil
}

// trustFiles lists what the trust directories have for host, and a text that
// changes when they do.
func (c *Client) trustFiles(host string) (files []string, state string, err error) {
	var b strings.Builder
	for _, dir := range c.cfg.CertDirs {
		entries, err := os.ReadDir(filepath.Join(dir, host))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		for _, e := range entries {
			info, err := os.Stat(filepath.Join(dir, host, e.Name()))
			if err != nil {
				return nil, "", err
			}
			files = append(files, filepath.Join(dir, host, e.Name()))
			fmt.Fprintf(&b, "%s %d %d\n", files[len(files)-1], info.ModTime().UnixNano(), info.Size())
		}
	}
	return files, b.String(), nil
}

// tlsConfig reads certificates as Docker does: *.crt are authorities to trust
// beside the system's, NAME.cert and NAME.key are what to show.
func tlsConfig(files []string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	have := map[string]bool{}
	for _, f := range files {
		have[f] = true
	}
	for _, f := range files {
		switch filepath.Ext(f) {
		case ".crt":
			if conf.RootCAs == nil {
				pool, err := x509.SystemCertPool()
				if err != nil {
					pool = x509.NewCertPool()
				}
				conf.RootCAs = pool
			}
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			if !conf.RootCAs.AppendCertsFromPEM(data) {
				return nil, problem.New(problem.Invalid, "%s holds no certificate", f)
			}
		case ".cert":
			key := strings.TrimSuffix(f, ".cert") + ".key"
			if !have[key] {
				return nil, problem.New(problem.Invalid, "missing key %s for client certificate %s. CA certificates must use the extension .crt", filepath.Base(key), filepath.Base(f))
			}
			pair, err := tls.LoadX509KeyPair(f, key)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			conf.Certificates = append(conf.Certificates, pair)
		case ".key":
			if cert := strings.TrimSuffix(f, ".key") + ".cert"; !have[cert] {
				return nil, problem.New(problem.Invalid, "missing client certificate %s for key %s", filepath.Base(cert), filepath.Base(f))
			}
		}
	}
	return conf, nil
}

// Networks returns the ranges whose registries may be insecure, loopback's first.
func (c *Client) Networks() []netip.Prefix {
	loopback := []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")}
	return append(loopback, c.networks...)
}

// Hosts returns the other registries that may be insecure, sorted.
func (c *Client) Hosts() []string { return slices.Sorted(maps.Keys(c.hosts)) }

// Mirrors returns the mirrors of Docker's registry.
func (c *Client) Mirrors() []string {
	list := []string{}
	for _, u := range c.mirrors[dockerHub] {
		list = append(list, u.String()+"/")
	}
	return list
}

// insecure tells whether plain HTTP and unverified certificates will do for
// host: on loopback, and where the settings say so.
func (c *Client) insecure(host string) bool {
	name := hostname(host)
	if c.hosts[host] || c.hosts[name] || name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	if addr.Unmap().IsLoopback() {
		return true
	}
	for _, p := range c.networks {
		if p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// hostname is host without its port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}
