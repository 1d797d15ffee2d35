package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"sigs.k8s.io/yaml"

	"gantry/internal/problem"
)

// Users are who may do what. It is safe for concurrent use.
type Users struct {
	byName    map[string]user
	anonymous rights

	mu   sync.Mutex
	seen map[string][sha256.Size]byte // of passwords that were right, by user: bcrypt is slow
}

type user struct {
	Name     string `json:"name"`
	Password string `json:"password"` // a bcrypt hash, as "htpasswd -nB" prints
	rights
}

// rights are patterns of repositories: NAME, or PREFIX/* for all below, or *.
type rights struct {
	Pull []string `json:"pull"`
	Push []string `json:"push"` // also to delete; it includes pull
}

// ReadUsers reads a YAML file:
//
//	users:
//	- name: ann
//	  password: $2y$05$...
//	  pull: ["*"]
//	  push: ["team/*"]
//	anonymous:
//	  pull: ["public/*"]
func ReadUsers(file string) (*Users, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseUsers(data)
}

func parseUsers(data []byte) (*Users, error) {
	var doc struct {
		Users     []user `json:"users"`
		Anonymous rights `json:"anonymous"`
	}
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return nil, problem.New(problem.Invalid, "users of the registry: %w", err)
	}
	u := &Users{byName: map[string]user{}, anonymous: doc.Anonymous, seen: map[string][sha256.Size]byte{}}
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

// may tells whether a user may do something with a repository. Everybody may
// what those without a name may.
func (u *Users) may(name, repo string, does action) bool {
	return u.byName[name].may(repo, does) || u.anonymous.may(repo, does)
}

// lists tells whether a user may see that a repository is there. u may be nil.
func (u *Users) lists(name, repo string) bool { return u == nil || u.may(name, repo, pull) }

func (r rights) may(repo string, does action) bool {
	return covers(r.Push, repo) || does == pull && covers(r.Pull, repo)
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

// identity is who sent a request.
type identity struct {
	name   string // empty: nobody known
	bearer bool   // a token was sent, which allows grants alone
	grants []grant
}

// allows tells whether the token, if one was sent, is for this.
func (i identity) allows(repo string, does action) bool {
	return !i.bearer || slices.ContainsFunc(i.grants, func(g grant) bool { return g.Repo == repo && slices.Contains(g.Actions, does) })
}

// authenticate finds out who asks. Wrong credentials are refused, none are not.
func (c *call) authenticate() error {
	if c.cfg.Users == nil {
		return nil
	}
	header := c.r.Header.Get("Authorization")
	if header == "" {
		return nil
	}
	if scheme, token, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Bearer") {
		said, ok := readToken(c.tokenKey, strings.TrimSpace(token), time.Now())
		if !ok {
			return c.unauthorized("", "invalid_token")
		}
		c.who = identity{name: said.User, bearer: true, grants: said.Access}
		return nil
	}
	name, password, ok := c.r.BasicAuth()
	if !ok || !c.cfg.Users.check(name, password) {
		return c.unauthorized("", "")
	}
	c.who = identity{name: name}
	return nil
}

func (c *call) unauthorized(scope, problem string) error {
	c.challenge(scope, problem)
	return &refusal{status: http.StatusUnauthorized, code: codeUnauthorized, message: "authentication required"}
}

// may tells whether who asks has a right.
func (c *call) may(repo string, does action) bool {
	return c.cfg.Users == nil || c.who.allows(repo, does) && c.cfg.Users.may(c.who.name, repo, does)
}

// known refuses who did not say who it is, so that a client learns how to.
func (c *call) known(scope string) error {
	if c.cfg.Users == nil || c.who.name != "" || c.who.bearer {
		return nil
	}
	return c.unauthorized(scope, "")
}

// authorize refuses what may not be done. Who sent a token, or nothing, is told
// what token to bring; for who sent a password there is none.
func (c *call) authorize(repo string, does action) error {
	if c.may(repo, does) {
		return nil
	}
	scope := "repository:" + repo + ":pull"
	if does == push {
		scope += ",push"
	}
	if err := c.known(scope); err != nil {
		return err
	}
	denied := &refusal{status: http.StatusForbidden, code: codeDenied, message: "requested access to the resource is denied", detail: repo}
	if c.who.bearer {
		c.challenge(scope, "insufficient_scope")
		denied.status = http.StatusUnauthorized
	}
	return denied
}
