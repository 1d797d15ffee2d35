package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificates makes an authority in a directory of the test, and signs with it a
// server's certificate for loopback and a client's: ca.pem, NAME-cert.pem and
// NAME-key.pem for each name. It returns the directory.
func Certificates(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) {
		t.Helper()
		data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root := key()
	sign := func(cert *x509.Certificate, own *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, cert, authority, &own.PublicKey, root)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	put("ca.pem", "CERTIFICATE", sign(authority, root))
	for i, name := range names {
		own := key()
		put(name+"-cert.pem", "CERTIFICATE", sign(&x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name},
			NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		}, own))
		der, err := x509.MarshalECPrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		put(name+"-key.pem", "EC PRIVATE KEY", der)
	}
	return dir
}
