package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
	"sigs.k8s.io/yaml"

	"gantry/internal/problem"
)

// Users are who may do what. It is safe for concurrent use.
type Users struct {
	byName map[string]user

	mu   sync.Mutex
	seen map[string][sha256.Size]byte // of passwords that were right, by user: bcrypt is slow
}

type user struct {
	Name     string   `json:"name"`
	Password string   `json:"password"` // a bcrypt hash, as "htpasswd -nB" prints
	Pull     []string `json:"pull"`     // repositories: NAME, or PREFIX/* for all below, or *
	Push     []string `json:"push"`     // also to delete; it includes pull
}

// ReadUsers reads a YAML file:
//
//	users:
//	- name: ann
//	  password: $2y$05$...
//	  pull: ["*"]
//	  push: ["team/*"]
func ReadUsers(file string) (*Users, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseUsers(data)
}

func parseUsers(data []byte) (*Users, error) {
	var doc struct {
		Users []user `json:"users"`
	}
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return nil, problem.New(problem.Invalid, "users of the registry: %w", err)
	}
	u := &Users{byName: map[string]user{}, seen: map[string][sha256.Size]byte{}}
	for _, one := range doc.Users {
		if one.Name == "" || strings.Contains(one.Name, ":") {
			return nil, problem.New(problem.Invalid, "users of the registry: name %q", one.Name)
		}
		if _, twice := u.byName[one.Name]; twice {
			return nil, problem.New(problem.Invalid, "users of the registry: %s is there twice", one.Name)
		}
		if _, err := bcrypt.Cost([]byte(one.Password)); err != nil {
			return nil, problem.New(problem.Invalid, "users of the registry: the password of %s is no bcrypt hash", one.Name)
		}
		u.byName[one.Name] = one
	}
	if len(u.byName) == 0 {
		return nil, problem.New(problem.Invalid, "users of the registry: there are none")
	}
	return u, nil
}

// check tells whether a password is a user's.
func (u *Users) check(name, password string) bool {
	one, ok := u.byName[name]
	if !ok {
		return false
	}
	sum := sha256.Sum256([]byte(name + ":" + password))
	u.mu.Lock()
	before, ok := u.seen[name]
	u.mu.Unlock()
	if ok && subtle.ConstantTimeCompare(before[:], sum[:]) == 1 {
		return true
	}
	if bcrypt.CompareHashAndPassword([]byte(one.Password), []byte(password)) != nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen[name] = sum
	return true
}

// may tells whether a user may do something with a repository.
func (u *Users) may(name, repo string, does action) bool {
	one := u.byName[name]
	return covers(one.Push, repo) || does == pull && covers(one.Pull, repo)
}

func covers(patterns []string, repo string) bool {
	for _, p := range patterns {
		if p == "*" || p == repo {
			return true
		}
		if prefix, ok := strings.CutSuffix(p, "/*"); ok && strings.HasPrefix(repo, prefix+"/") {
			return true
		}
	}
	return false
}

// user is who the request says that it comes from; authenticate has checked it.
func (c *call) user() string {
	name, _, _ := c.r.BasicAuth()
	return name
}

// authenticate finds out who asks.
func (c *call) authenticate() (string, error) {
	if c.cfg.Users == nil {
		return "", nil
	}
	name, password, ok := c.r.BasicAuth()
	if !ok || !c.cfg.Users.check(name, password) {
		c.w.Header().Set("WWW-Authenticate", `Basic realm="gantry registry", charset="UTF-8"`)
		return "", &refusal{status: http.StatusUnauthorized, code: codeUnauthorized, message: "authentication required"}
	}
	return name, nil
}

// authorize refuses what a user may not do.
func (c *call) authorize(name, repo string, does action) error {
	if c.cfg.Users == nil || c.cfg.Users.may(name, repo, does) {
		return nil
	}
	return &refusal{status: http.StatusForbidden, code: codeDenied, message: "requested access to the resource is denied", detail: repo}
}
