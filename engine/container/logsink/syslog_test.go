package logsink

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// limit is how long a test waits for what must come.
const limit = time.Minute

var printed = time.Date(2026, 1, 2, 3, 4, 5, 600700, time.Local)

func TestFormats(t *testing.T) {
	zone := printed.Format("Z07:00")
	cases := map[string]struct {
		format string
		m      Message
		want   string
	}{
		"by default as on the host itself": {FormatLocal, Message{Time: printed, Line: []byte("a b")}, "<30>Jan  2 03:04:05 tag[7]: a b\n"},
		"stderr is an error":               {FormatLocal, Message{Time: printed, Stderr: true}, "<27>Jan  2 03:04:05 tag[7]: \n"},
		"RFC 3164, section 4.1":            {FormatRFC3164, Message{Time: printed, Line: []byte("a")}, "<30>Jan  2 03:04:05 host tag[7]: a\n"},
		"RFC 5424, section 6":              {FormatRFC5424, Message{Time: printed, Line: []byte("a")}, "<30>1 2026-01-02T03:04:05" + zone + " host tag 7 tag - a\n"},
		"with microseconds":                {FormatRFC5424Micro, Message{Time: printed, Line: []byte("a")}, "<30>1 2026-01-02T03:04:05.000600" + zone + " host tag 7 tag - a\n"},
	}
	s := NewSyslog(SyslogConfig{Facility: 3, Tag: "tag", Hostname: "host", PID: 7})
	for name, c := range cases {
		if got := string(s.encode(c.format, &c.m)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := string(frame([]byte("abc\n"))); got != "4 abc\n" {
		t.Errorf("framed: %q", got)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"": " ", "udp://host": "udp host:514", "tcp://host:1": "tcp host:1", "tcp+tls://[::1]:6514": "tcp+tls [::1]:6514",
		"unix:///run/x": "unix /run/x", "unixgram:///run/x": "unixgram /run/x", "udp://[::1]": "udp [::1]:514",
	} {
		network, address, err := ParseAddress(text)
		if got := network + " " + address; got != want || err != nil {
			t.Errorf("address %q is %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"host:514", "http://host", "udp://a:b:c"} {
		if network, address, err := ParseAddress(text); err == nil {
			t.Errorf("address %q is %s %s", text, network, address)
		}
	}
	for text, want := range map[string]int{"": 3, "local7": 23, "kern": 0, "12": 12} {
		if got, err := ParseFacility(text); got != want || err != nil {
			t.Errorf("facility %q is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"24", "-1", "x"} {
		if _, err := ParseFacility(text); err == nil || err.Error() != "invalid syslog facility" {
			t.Errorf("facility %q: %v", text, err)
		}
	}
	if KnownFormat("rfc1") || !KnownFormat("rfc5424micro") {
		t.Error("formats")
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"udp://host", "tcp+tls://[::1]:1", "unix:///x", "%", "tcp://a:b:c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		network, address, err := ParseAddress(text)
		if err == nil && network == "tcp" {
			if _, _, err := net.SplitHostPort(address); err != nil {
				t.Errorf("address %q is %q: %v", text, address, err)
			}
		}
	})
}

func TestDatagrams(t *testing.T) {
	for network, listen := range map[string][2]string{
		"udp":      {"udp", "127.0.0.1:0"},
		"unixgram": {"unixgram", filepath.Join(t.TempDir(), "s")},
		"unix":     {"unixgram", filepath.Join(t.TempDir(), "s")}, // which it turns out not to be
	} {
		server, err := net.ListenPacket(listen[0], listen[1])
		if err != nil {
			t.Fatal(err)
		}
		s := NewSyslog(SyslogConfig{Network: network, Address: server.LocalAddr().String(), Tag: "t"})
		for _, line := range []string{"one", "two"} {
			if err := s.Send(t.Context(), Message{Time: printed, Line: []byte(line)}); err != nil {
				t.Fatalf("%s: %v", network, err)
			}
			buf := make([]byte, 1000)
			server.SetReadDeadline(time.Now().Add(limit))
			n, _, err := server.ReadFrom(buf)
			if got := string(buf[:n]); err != nil || !strings.HasSuffix(got, "]: "+line+"\n") {
				t.Errorf("%s: received %q, %v", network, got, err)
			}
		}
		if network == "udp" {
			if err := s.Send(t.Context(), Message{Time: printed, Line: make([]byte, 70<<10)}); !errors.Is(err, ErrTooLong) {
				t.Errorf("more than a datagram holds: %v", err)
			}
		}
		s.Close()
		s.Close()
		server.Close()
	}
}

// accept returns the first line of the next connection to l, and the connection.
func accept(t *testing.T, l net.Listener) (string, net.Conn) {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(limit))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line, conn
}

func TestStreamIsMadeAnewAfterItsEnd(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		s := NewSyslog(SyslogConfig{Network: network, Address: l.Addr().String(), Tag: "t", Format: FormatRFC5424})
		for _, line := range []string{"one", "two"} {
			if err := s.Send(t.Context(), Message{Time: printed, Line: []byte(line)}); err != nil {
				t.Fatalf("%s: %v", network, err)
			}
			got, conn := accept(t, l)
			if !strings.HasSuffix(got, " - "+line+"\n") {
				t.Errorf("%s: received %q", network, got)
			}
			conn.Close()
			<-s.lost // before the next line, which it would be too late for
		}
		l.Close()
		if err := s.Send(t.Context(), Message{Time: printed}); err == nil {
			t.Errorf("%s: sent to nobody", network)
		}
		s.Close()
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := NewSyslog(SyslogConfig{Network: "tcp", Address: l.Addr().String()})
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Send(ctx, Message{Time: printed, Line: []byte("x")}); err == nil {
		t.Error("sent")
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	makeCertificate(t, cert, key)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, files := range map[string]TLSFiles{"by its authority": {CA: cert, Cert: cert, Key: key}, "unverified": {SkipVerify: true}} {
		s := NewSyslog(SyslogConfig{Network: networkTLS, Address: l.Addr().String(), Tag: "t", Hostname: "h", Format: FormatRFC5424, TLS: files})
		sent := make(chan error, 1)
		go func() { sent <- s.Send(t.Context(), Message{Time: printed.UTC(), Line: []byte("x")}) }()
		got, conn := accept(t, l)
		if err := <-sent; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		length, message, _ := strings.Cut(got, " ")
		if !strings.HasPrefix(message, "<6>1 2026-01-02T") || !strings.HasSuffix(message, " h t 0 t - x\n") || length != itoa(len(message)) {
			t.Errorf("%s: received %q", name, got)
		}
		conn.Close()
		s.Close()
	}
	for name, files := range map[string]TLSFiles{"no such authority": {CA: key + "x"}, "not a certificate": {CA: key}, "no such key": {Cert: cert, Key: cert}} {
		if _, err := files.Config(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func itoa(n int) string { return big.NewInt(int64(n)).String() }

func makeCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "syslog"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
