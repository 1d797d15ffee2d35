package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

// listenHosts listens wherever the Docker API is served beside its own socket.
// note is told what a person should know.
//
// Over TCP the API gives root to everybody who reaches it. Without verified
// clients it is served on loopback alone, unless tls or tlsverify was set to
// false by name: this is dockerd's sign that one means it.
func listenHosts(cfg instance.Config, note func(string)) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				err = errors.Join(err, l.Close())
			}
			all = nil
		}
	}()
	secure, err := serverTLS(cfg)
	if err != nil {
		return nil, err
	}
	for _, host := range cfg.Hosts {
		l, err := listenHost(cfg, host, secure, note)
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	return all, nil
}

func listenHost(cfg instance.Config, host string, secure *tls.Config, note func(string)) (net.Listener, error) {
	scheme, address, ok := strings.Cut(host, "://")
	bad := func(format string, args ...any) error {
		return &problem.UserError{
			Op: "listen", Object: host, Err: problem.New(problem.Invalid, format, args...),
			Try: "give --host as unix:///PATH or tcp://ADDRESS:PORT",
		}
	}
	switch {
	case !ok:
		return nil, bad("the protocol is missing")
	case scheme == "unix" && filepath.IsAbs(address):
		return listenUnix(address)
	case scheme != "tcp":
		return nil, bad("%s:// is not supported", scheme)
	}
	address, err := tcpAddress(address, secure != nil)
	if err != nil {
		return nil, bad("%v", err)
	}
	if secure == nil || secure.ClientAuth != tls.RequireAndVerifyClientCert {
		if err := checkOpen(cfg, host, address); err != nil {
			return nil, err
		}
		note("the Docker API is open without verified clients at " + host + ": whoever reaches it is root on this host")
	}
	l, err := listenTCP(address)
	if err != nil {
		return nil, &problem.UserError{Op: "listen", Object: host, Err: err, Try: "name another address with --host"}
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, nil
}

// The ports that Docker's clients take when none is named.
const (
	plainPort  = "2375"
	securePort = "2376"
)

// tcpAddress fills in what a tcp:// host leaves out.
func tcpAddress(address string, secure bool) (string, error) {
	port := plainPort
	if secure {
		port = securePort
	}
	if address == "" {
		return net.JoinHostPort("127.0.0.1", port), nil
	}
	if !strings.Contains(address, ":") || strings.HasSuffix(address, "]") {
		address += ":" + port
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// checkOpen refuses to serve unverified clients beyond loopback.
func checkOpen(cfg instance.Config, host, address string) error {
	named := cfg.TLS != nil && !*cfg.TLS || cfg.TLSVerify != nil && !*cfg.TLSVerify
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(name); named || name == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return &problem.UserError{
		Op: "listen", Object: host,
		Err: problem.New(problem.Denied, "the API would give root to everybody who reaches this address"),
		Try: "set --tlsverify with --tlscacert, --tlscert and --tlskey; or --tlsverify=false to serve it open all the same",
	}
}

// serverTLS reads the certificates; nil means no TLS.
func serverTLS(cfg instance.Config) (*tls.Config, error) {
	verify := cfg.TLSVerify != nil && *cfg.TLSVerify
	if !verify && (cfg.TLS == nil || !*cfg.TLS) {
		return nil, nil
	}
	bad := func(object string, err error) error {
		return &problem.UserError{Op: "read", Object: object, Err: err, Try: "name the PEM files with --tlscacert, --tlscert and --tlskey"}
	}
	pair, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		return nil, bad(cfg.TLSCert, err)
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if !verify {
		return secure, nil
	}
	authority, err := os.ReadFile(cfg.TLSCACert)
	if err != nil {
		return nil, bad(cfg.TLSCACert, err)
	}
	secure.ClientCAs, secure.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !secure.ClientCAs.AppendCertsFromPEM(authority) {
		return nil, bad(cfg.TLSCACert, fmt.Errorf("there is no certificate in it"))
	}
	return secure, nil
}
