package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// tokenPath is where the registry gives tokens (distribution,
// docs/spec/auth/token.md and oauth.md).
const tokenPath = "/token"

// tokenLife is how long a token is good for. A client asks for another one then,
// and after a restart of the registry, which forgets its key.
const tokenLife = 5 * time.Minute

// Bounds of what one token is asked for.
const (
	maxScopes    = 100
	maxTokenForm = 64 << 10
)

// grant is what a token allows with one repository.
type grant struct {
	Repo    string   `json:"name"`
	Actions []action `json:"actions"`
}

// claims is what a token says.
type claims struct {
	User    string  `json:"sub,omitempty"` // empty: nobody known
	Expires int64   `json:"exp"`           // in seconds
	Access  []grant `json:"access"`
}

// signToken makes a token: claims and their HMAC, in base64.
func signToken(key []byte, c claims) string {
	body, err := json.Marshal(c)
	if err != nil {
		panic("registry: claims of a token: " + err.Error()) // strings and numbers alone
	}
	text := base64.RawURLEncoding.EncodeToString(body)
	return text + "." + base64.RawURLEncoding.EncodeToString(tokenMAC(key, text))
}

func tokenMAC(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text)) // never fails
	return mac.Sum(nil)
}

// readToken returns what a token says that was signed with key and is in time.
func readToken(key []byte, token string, now time.Time) (c claims, ok bool) {
	text, sum, ok := strings.Cut(token, ".")
	mac, err := base64.RawURLEncoding.DecodeString(sum)
	if !ok || err != nil || !hmac.Equal(mac, tokenMAC(key, text)) {
		return c, false
	}
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(body, &c) != nil {
		return c, false
	}
	return c, now.Unix() < c.Expires
}

// parseScope reads "repository:NAME:pull,push". Scopes of other things are
// nothing that is granted.
func parseScope(text string) (repo string, wanted []action, ok bool) {
	rest, ok := strings.CutPrefix(text, "repository:")
	at := strings.LastIndexByte(rest, ':')
	if !ok || at < 0 || !validName(rest[:at]) {
		return "", nil, false
	}
	for word := range strings.SplitSeq(rest[at+1:], ",") {
		switch word {
		case "pull":
			wanted = append(wanted, pull)
		case "push", "delete":
			wanted = append(wanted, push)
		case "*":
			wanted = append(wanted, pull, push)
		}
	}
	return rest[:at], wanted, true
}

// grantScopes cuts what is asked for down to what a user may do.
func (u *Users) grantScopes(name string, scopes []string) []grant {
	list := []grant{}
	for _, text := range scopes {
		repo, wanted, ok := parseScope(text)
		if !ok {
			continue
		}
		wanted = slices.DeleteFunc(wanted, func(a action) bool { return !u.may(name, repo, a) })
		slices.Sort(wanted)
		if wanted = slices.Compact(wanted); len(wanted) > 0 {
			list = append(list, grant{repo, wanted})
		}
	}
	return list
}

// giveToken answers GET with basic authentication, or without for what everybody
// may, and POST of a password.
func (c *call) giveToken() error {
	if c.cfg.Users == nil || c.r.Method != http.MethodGet && c.r.Method != http.MethodPost {
		return &refusal{status: http.StatusNotFound, code: codeUnsupported, message: "page not found"}
	}
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxTokenForm)
	if err := c.r.ParseForm(); err != nil {
		return &refusal{status: http.StatusBadRequest, code: codeUnsupported, message: "invalid request", detail: err.Error()}
	}
	name, password, given := c.r.BasicAuth()
	if c.r.Method == http.MethodPost {
		if kind := c.r.PostForm.Get("grant_type"); kind != "password" {
			return c.json(http.StatusBadRequest, map[string]string{"error": "unsupported_grant_type", "error_description": "only password is supported"})
		}
		name, password, given = c.r.PostForm.Get("username"), c.r.PostForm.Get("password"), true
	}
	if given && !c.cfg.Users.check(name, password) {
		return &refusal{status: http.StatusUnauthorized, code: codeUnauthorized, message: "incorrect username or password"}
	}
	scopes := strings.Fields(strings.Join(c.r.Form["scope"], " "))
	if len(scopes) > maxScopes {
		return &refusal{status: http.StatusBadRequest, code: codeUnsupported, message: fmt.Sprintf("more than %d scopes", maxScopes)}
	}
	now := time.Now()
	token := signToken(c.tokenKey, claims{User: name, Expires: now.Add(tokenLife).Unix(), Access: c.cfg.Users.grantScopes(name, scopes)})
	c.w.Header().Set("Cache-Control", "no-store")
	return c.json(http.StatusOK, map[string]any{
		"token": token, "access_token": token, "expires_in": int(tokenLife.Seconds()), "issued_at": now.UTC().Format(time.RFC3339),
	})
}

// challenge says how to authenticate: with a token that we give, or with a
// password. scope is what was tried, and problem what is wrong with the token
// that was sent.
func (c *call) challenge(scope, problem string) {
	scheme := "http"
	if c.r.TLS != nil {
		scheme = "https"
	}
	bearer := fmt.Sprintf("Bearer realm=%q,service=%q", scheme+"://"+c.r.Host+tokenPath, c.r.Host)
	if scope != "" {
		bearer += fmt.Sprintf(",scope=%q", scope)
	}
	if problem != "" {
		bearer += fmt.Sprintf(",error=%q", problem)
	}
	c.w.Header()["Www-Authenticate"] = []string{bearer, `Basic realm="gantry registry", charset="UTF-8"`}
}
