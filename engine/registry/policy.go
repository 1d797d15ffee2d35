package registry

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"gantry/internal/problem"
)

// Policy says which images must be signed, and by whom. The zero value asks for
// nothing.
type Policy struct {
	rules []rule
}

// rule is about the images that its patterns cover. The first that covers a name
// decides.
type rule struct {
	images []string // repositories, by their full names: NAME, PREFIX/*, or *
	keys   []crypto.PublicKey
	refuse bool
}

// ReadPolicy reads a YAML file; files of keys are relative to it. Of a rule's
// keys, one must have signed. A rule without keys lets images through, or none.
//
//	rules:
//	- images: ["registry.example/team/*"]
//	  keys: [team.pub]
//	- images: ["docker.io/library/*"]
//	- images: ["*"]
//	  refuse: true
func ReadPolicy(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parsePolicy(data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return os.ReadFile(name)
	})
}

func parsePolicy(data []byte, read func(name string) ([]byte, error)) (*Policy, error) {
	var doc struct {
		Rules []struct {
			Images []string `json:"images"`
			Keys   []string `json:"keys"`
			Refuse bool     `json:"refuse"`
		} `json:"rules"`
	}
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return nil, problem.New(problem.Invalid, "signature policy: %w", err)
	}
	p := &Policy{}
	for i, d := range doc.Rules {
		r := rule{images: d.Images, refuse: d.Refuse}
		for _, pattern := range d.Images {
			if err := checkPattern(pattern); err != nil {
				return nil, err
			}
		}
		if len(d.Images) == 0 || r.refuse && len(d.Keys) > 0 {
			return nil, problem.New(problem.Invalid, "signature policy: rule %d wants images, and either keys or refuse or neither", i+1)
		}
		for _, name := range d.Keys {
			text, err := read(name)
			if err != nil {
				return nil, err
			}
			key, err := parseKey(text)
			if err != nil {
				return nil, problem.New(problem.Invalid, "signature policy: key %s: %w", name, err)
			}
			r.keys = append(r.keys, key)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// checkPattern refuses what no full name of a repository can match.
func checkPattern(pattern string) error {
	host, rest, _ := strings.Cut(pattern, "/")
	if pattern == "*" || rest != "" && (strings.ContainsAny(host, ".:") || host == "localhost") && !strings.Contains(strings.TrimSuffix(pattern, "/*"), "*") {
		return nil
	}
	return problem.New(problem.Invalid, "signature policy: images %q: want HOST/NAME, HOST/PREFIX/*, HOST/* or *; Docker's images are docker.io/library/NAME", pattern)
}

// parseKey reads a public key as "cosign generate-key-pair" writes it.
func parseKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("it is no PEM of a public key")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch key.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
		return key, nil
	}
	return nil, fmt.Errorf("keys of type %T are not supported", key)
}

// signed tells whether key has signed payload, in cosign's forms.
func signed(key crypto.PublicKey, payload, signature []byte) bool {
	sum := sha256.Sum256(payload)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, sum[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, payload, signature)
	}
	return false
}

// ruleFor returns the rule for a repository, by its full name; a name that is
// empty, because the image has none, is what only "*" covers.
func (p *Policy) ruleFor(name string) (rule, bool) {
	if p == nil {
		return rule{}, false
	}
	for _, r := range p.rules {
		if slices.ContainsFunc(r.images, func(pattern string) bool { return coversName(pattern, name) }) {
			return r, r.refuse || len(r.keys) > 0
		}
	}
	return rule{}, false
}

func coversName(pattern, name string) bool {
	prefix, below := strings.CutSuffix(pattern, "*")
	return pattern == name || below && strings.HasPrefix(name, prefix)
}
