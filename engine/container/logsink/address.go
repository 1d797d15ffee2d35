package logsink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// networkTLS is the scheme of an address that is spoken to by TLS over TCP.
const networkTLS = "tcp+tls"

// ParseAddress reads "scheme://address". Both results are empty for an empty
// address: the host's own service.
func ParseAddress(text string) (network, address string, err error) {
	if text == "" {
		return "", "", nil
	}
	scheme, _, ok := strings.Cut(text, "://")
	if !ok || !slices.Contains([]string{"tcp", networkTLS, "udp", "unix", "unixgram"}, scheme) {
		return "", "", fmt.Errorf("syslog-address should be in form proto://address, got %s", text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", "", err
	}
	if scheme == "unix" || scheme == "unixgram" {
		return scheme, u.Path, nil
	}
	host := u.Host
	if _, _, err := net.SplitHostPort(host); err != nil {
		if !strings.Contains(err.Error(), "missing port in address") {
			return "", "", err
		}
		host += ":514"
	}
	return scheme, host, nil
}

// facilities by their numbers: RFC 5424, section 6.2.1, without those that have
// no name in syslog(3).
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// ParseFacility reads a facility's name or number; empty means daemon.
func ParseFacility(text string) (int, error) {
	if text == "" {
		text = "daemon"
	}
	if facility, ok := facilities[text]; ok {
		return facility, nil
	}
	if facility, err := strconv.Atoi(text); err == nil && facility >= 0 && facility <= 23 {
		return facility, nil
	}
	return 0, errors.New("invalid syslog facility")
}

// TLSFiles are what a TLS connection is made with; the zero value: the system's
// roots, no certificate.
type TLSFiles struct {
	CA, Cert, Key string // paths; empty: none
	SkipVerify    bool
}

// Config reads the files.
func (f TLSFiles) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.SkipVerify}
	if f.CA != "" && !f.SkipVerify {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("failed to read system certificates: %w", err)
		}
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("could not read CA certificate %q: %w", f.CA, err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("failed to append certificates from PEM file: %q", f.CA)
		}
		cfg.RootCAs = pool
	}
	if f.Cert != "" || f.Key != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("could not load X509 key pair: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
