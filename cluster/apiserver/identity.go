package apiserver

import (
	"crypto/x509"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

var emptyGVK schema.GroupVersionKind

const (
	groupMasters         = "system:masters"
	groupAuthenticated   = "system:authenticated"
	groupUnauthenticated = "system:unauthenticated"
	groupNodes           = "system:nodes"
	userAnonymous        = "system:anonymous"
	nodePrefix           = "system:node:"
)

// identity is who makes a request.
type identity struct {
	name     string
	uid      string
	groups   []string
	extra    map[string][]string
	internal bool // a part of this process
}

func (id identity) in(group string) bool { return slices.Contains(id.groups, group) }

func anonymous() identity {
	return identity{name: userAnonymous, groups: []string{groupUnauthenticated}}
}

// certIdentity is the identity in a verified client certificate.
func certIdentity(cert *x509.Certificate) identity {
	return identity{
		name:   cert.Subject.CommonName,
		groups: append(slices.Clone(cert.Subject.Organization), groupAuthenticated),
	}
}
