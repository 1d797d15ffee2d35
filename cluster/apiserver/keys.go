package apiserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gantry/internal/atomicfile"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// A leaf is replaced when less than this is left.
	leafRenewal = 90 * 24 * time.Hour
	// clockSlack lets clients with a slow clock accept a new certificate.
	clockSlack = 5 * time.Minute
)

// keys are the server's certificates and keys.
type keys struct {
	ca      *pair
	serving *pair
	admin   *pair
	account *ecdsa.PrivateKey // signs ServiceAccount tokens
	pool    *x509.CertPool
	tls     tls.Certificate
}

// pair is a certificate with its key.
type pair struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	keyPEM  []byte
}

// loadKeys reads what is below TLSDir, and makes what is missing or about to
// expire.
func (s *Server) loadKeys() error {
	dir := s.cfg.TLSDir
	if dir == "" {
		return s.memoryKeys()
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700), atomicfile.Sweep(dir)); err != nil {
		return err
	}
	k := &keys{}
	var err error
	if k.ca, err = loadPair(dir, "ca", func(c *x509.Certificate) bool { return true }); err != nil {
		return err
	}
	if k.ca == nil {
		if k.ca, err = newPair(caTemplate(), nil); err != nil {
			return err
		}
		if err := k.ca.save(dir, "ca"); err != nil {
			return err
		}
	}
	if err := s.leaves(k); err != nil {
		return err
	}
	if k.account, err = loadAccountKey(filepath.Join(dir, "sa.key")); err != nil {
		return err
	}
	return s.useKeys(k)
}

// memoryKeys serves Loopback alone, without a directory.
func (s *Server) memoryKeys() error {
	ca, err := newPair(caTemplate(), nil)
	if err != nil {
		return err
	}
	k := &keys{ca: ca}
	if err := s.leaves(k); err != nil {
		return err
	}
	if k.account, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	return s.useKeys(k)
}

// leaves loads or makes the certificates that the CA signs.
func (s *Server) leaves(k *keys) (err error) {
	want := s.servingTemplate()
	fits := func(c *x509.Certificate) bool {
		return c.CheckSignatureFrom(k.ca.cert) == nil && time.Until(c.NotAfter) > leafRenewal && covers(c, want)
	}
	if k.serving, err = s.leaf("serving", k.ca, want, fits); err != nil {
		return err
	}
	current := func(c *x509.Certificate) bool {
		return c.CheckSignatureFrom(k.ca.cert) == nil && time.Until(c.NotAfter) > leafRenewal
	}
	k.admin, err = s.leaf("admin", k.ca, clientTemplate("kubernetes-admin", groupMasters), current)
	return err
}

func (s *Server) leaf(name string, ca *pair, template *x509.Certificate, fits func(*x509.Certificate) bool) (*pair, error) {
	dir := s.cfg.TLSDir
	if dir != "" {
		if p, err := loadPair(dir, name, fits); p != nil || err != nil {
			return p, err
		}
	}
	p, err := newPair(template, ca)
	if err != nil || dir == "" {
		return p, err
	}
	return p, p.save(dir, name)
}

// renewKeys replaces certificates that are about to expire, while serving.
func (s *Server) renewKeys() error {
	k := s.keys.Load()
	if k == nil || time.Until(k.serving.cert.NotAfter) > leafRenewal && time.Until(k.admin.cert.NotAfter) > leafRenewal {
		return nil
	}
	next := *k
	if err := s.leaves(&next); err != nil {
		return err
	}
	if err := s.useKeys(&next); err != nil {
		return err
	}
	return s.writeKubeconfig()
}

func (s *Server) useKeys(k *keys) error {
	var err error
	if k.tls, err = tls.X509KeyPair(k.serving.certPEM, k.serving.keyPEM); err != nil {
		return err
	}
	k.pool = x509.NewCertPool()
	k.pool.AddCert(k.ca.cert)
	s.keys.Store(k)
	return nil
}

func caTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: "gantry-ca"},
		NotAfter:              time.Now().Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func clientTemplate(user string, groups ...string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		NotAfter:    time.Now().Add(leafLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// servingTemplate holds every name and address that clients use.
func (s *Server) servingTemplate() *x509.Certificate {
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "gantry-apiserver"},
		NotAfter: time.Now().Add(leafLifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback, s.serviceAddress().AsSlice()},
	}
	if name, err := os.Hostname(); err == nil {
		t.DNSNames = append(t.DNSNames, name)
	}
	if a := s.cfg.AdvertiseAddress; a.IsValid() {
		t.IPAddresses = append(t.IPAddresses, a.AsSlice())
	}
	for _, listen := range append([]string{s.cfg.Listen}, s.cfg.ExtraListen...) {
		host, _, err := net.SplitHostPort(listen)
		if err != nil || host == "" {
			continue
		}
		if ip := net.ParseIP(host); ip == nil {
			t.DNSNames = append(t.DNSNames, host)
		} else if !ip.IsUnspecified() {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	return t
}

// covers reports whether have is good for every name in want.
func covers(have, want *x509.Certificate) bool {
	for _, name := range want.DNSNames {
		if !slices.Contains(have.DNSNames, name) {
			return false
		}
	}
	for _, ip := range want.IPAddresses {
		if !slices.ContainsFunc(have.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// newPair makes a key and its certificate, signed by ca or by itself.
func newPair(template *x509.Certificate, ca *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber, template.NotBefore = serial, time.Now().Add(-clockSlack)
	parent, signer := template, crypto.Signer(key)
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &pair{cert: cert, key: key, keyPEM: keyPEM,
		certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// save writes the key first: a certificate without its key is what loadPair
// would have to explain.
func (p *pair) save(dir, name string) error {
	if err := atomicfile.Write(filepath.Join(dir, name+".key"), p.keyPEM, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, name+".crt"), p.certPEM, 0o600)
}

// loadPair reads a pair; nil without an error if there is none, or one that is
// not good any more.
func loadPair(dir, name string, fits func(*x509.Certificate) bool) (*pair, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, fmt.Errorf("%s.crt in %s holds no certificate", name, dir)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s.crt in %s: %w", name, dir, err)
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s.key in %s: %w", name, dir, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) || !fits(cert) {
		return nil, nil // torn by a crash between the two writes, or outdated
	}
	return &pair{cert: cert, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

func decodeKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("no key in it")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func loadAccountKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		key, err := decodeKey(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err = encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, atomicfile.Write(path, data, 0o600)
}
