package server

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The forms of names and tags (spec, "Pulling manifests").
var (
	nameForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// maxName is the reference's bound of names.
const maxName = 255

func validName(s string) bool { return len(s) <= maxName && nameForm.MatchString(s) }

// digestOf reads a digest that the registry can verify.
func digestOf(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil || d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		return "", &refusal{status: http.StatusBadRequest, code: codeDigestInvalid, message: "invalid digest", detail: s}
	}
	return d, nil
}

// reference is a tag or a digest.
type reference struct {
	tag    string
	digest digest.Digest
}

func parseReference(s string) (reference, error) {
	if strings.Contains(s, ":") {
		d, err := digestOf(s)
		return reference{digest: d}, err
	}
	if !tagForm.MatchString(s) {
		return reference{}, &refusal{status: http.StatusBadRequest, code: codeManifestInvalid, message: "invalid tag", detail: s}
	}
	return reference{tag: s}, nil
}
