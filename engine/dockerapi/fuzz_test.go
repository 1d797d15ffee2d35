package dockerapi

import (
	"errors"
	"net/http"
	"testing"

	"gantry/internal/problem"
)

// FuzzHeaders reads credentials from the headers of a pull and of a build.
func FuzzHeaders(f *testing.F) {
	for _, seed := range []string{
		"eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==", "eyJhIjp7ImF1dGgiOiJZVHBpIn19", "bnVsbA==", "e30", "", "?",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		c := &call{r: &http.Request{Header: http.Header{"X-Registry-Auth": {header}, "X-Registry-Config": {header}}}}
		c.credentials()
		if _, err := c.allCredentials(); err != nil && !errors.Is(err, problem.Invalid) {
			t.Errorf("%q: %v", header, err)
		}
	})
}

func FuzzDetachKeys(f *testing.F) {
	for _, seed := range []string{"ctrl-p,ctrl-q", "a,b", "ctrl-@,ctrl-_", "ctrl-", ",", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parseDetachKeys(text)
		if err != nil && !errors.Is(err, problem.Invalid) || err == nil && len(keys) == 0 {
			t.Errorf("%q: %v, %v", text, keys, err)
		}
	})
}
