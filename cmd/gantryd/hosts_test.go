package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/testenv"
)

func TestHostsThatAreRefused(t *testing.T) {
	no := false
	for rule, c := range map[string]struct {
		host string
		cfg  instance.Config
		want string
	}{
		"an address without a protocol":   {"127.0.0.1:1", instance.Config{}, "the protocol is missing"},
		"another protocol":                {"fd://", instance.Config{}, "fd:// is not supported"},
		"a relative socket":               {"unix://a.sock", instance.Config{}, "unix:// is not supported"},
		"every address, without TLS":      {"tcp://0.0.0.0:0", instance.Config{}, "would give root to everybody"},
		"a host's name, without TLS":      {"tcp://example.com:0", instance.Config{}, "would give root to everybody"},
		"loopback":                        {"tcp://127.0.0.1:0", instance.Config{}, ""},
		"every address, asked for openly": {"tcp://0.0.0.0:0", instance.Config{TLSVerify: &no}, ""},
		"a certificate that is not there": {"tcp://127.0.0.1:0", instance.Config{TLS: new(true), TLSCert: "/no/cert"}, "/no/cert"},
	} {
		c.cfg.Hosts = []string{c.host}
		var notes []string
		all, err := listenHosts(c.cfg, func(text string) { notes = append(notes, text) })
		for _, l := range all {
			l.Close()
		}
		switch {
		case c.want == "" && (err != nil || len(notes) != 1):
			t.Errorf("%s: %v, %d notes", rule, err, len(notes))
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || problem.Try(err) == ""):
			t.Errorf("%s: %v, want %q and advice", rule, err, c.want)
		}
	}
}

func TestTCPAddress(t *testing.T) {
	for address, want := range map[string]string{
		"": "127.0.0.1:2376", "10.0.0.1": "10.0.0.1:2376", ":4000": "127.0.0.1:4000", "[::1]": "[::1]:2376", "0.0.0.0:1": "0.0.0.0:1",
	} {
		if got, err := tcpAddress(address, true); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", address, got, err, want)
		}
	}
	if got, _ := tcpAddress("", false); got != "127.0.0.1:2375" {
		t.Errorf("without TLS: %q", got)
	}
}

func TestOnlyCertifiedClientsAreServed(t *testing.T) {
	dir, foreign := testenv.Certificates(t, "server", "client"), testenv.Certificates(t, "client")
	cfg := instance.Config{
		Hosts: []string{"tcp://127.0.0.1:0"}, TLSVerify: new(true), TLSCACert: filepath.Join(dir, "ca.pem"),
		TLSCert: filepath.Join(dir, "server-cert.pem"), TLSKey: filepath.Join(dir, "server-key.pem"),
	}
	all, err := listenHosts(cfg, func(note string) { t.Errorf("note: %s", note) })
	if err != nil {
		t.Fatal(err)
	}
	defer all[0].Close()
	go func() {
		for {
			conn, err := all[0].Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.ReadAll(conn); err == nil { // up to the client's half-close
					_, _ = conn.Write([]byte("hello")) // the client tells
				}
			}()
		}
	}()
	authority, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	for rule, from := range map[string]string{"a certified client": dir, "a client of another authority": foreign, "a client without a certificate": ""} {
		client := &tls.Config{RootCAs: roots}
		if from != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(from, "client-cert.pem"), filepath.Join(from, "client-key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			client.Certificates = []tls.Certificate{pair}
		}
		if got := greeting(t, all[0].Addr().String(), client); (got == "hello") != (from == dir) {
			t.Errorf("%s is answered %q", rule, got)
		}
	}
}

// greeting half-closes a connection and returns what comes then.
func greeting(t *testing.T, address string, cfg *tls.Config) string {
	t.Helper()
	conn, err := tls.Dial("tcp", address, cfg)
	if errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if err != nil {
		return ""
	}
	defer conn.Close()
	if err := conn.CloseWrite(); err != nil {
		return ""
	}
	data, _ := io.ReadAll(conn) // an alert is no greeting
	return string(data)
}
