package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// impersonate returns whom the request is to be judged as: kubectl --as.
func impersonate(id identity, h http.Header) (identity, error) {
	user, groups, uid := h.Get(authenticationv1.ImpersonateUserHeader), h.Values(authenticationv1.ImpersonateGroupHeader), h.Get(authenticationv1.ImpersonateUIDHeader)
	extra := map[string][]string{}
	for name, values := range h {
		if key, ok := strings.CutPrefix(name, http.CanonicalHeaderKey(authenticationv1.ImpersonateUserExtraHeaderPrefix)); ok {
			key, err := url.PathUnescape(strings.ToLower(key))
			if err != nil {
				return identity{}, apierrors.NewBadRequest(fmt.Sprintf("impersonation header %s: %v", name, err))
			}
			extra[key] = values
		}
	}
	if user == "" {
		if len(groups) > 0 || uid != "" || len(extra) > 0 {
			return identity{}, apierrors.NewInternalError(fmt.Errorf("requested %v without impersonating a user", h.Values(authenticationv1.ImpersonateGroupHeader)))
		}
		return id, nil
	}
	asks := []action{{verb: "impersonate", resource: "users", name: user}}
	if ns, name, ok := accountOf(user); ok {
		asks = []action{{verb: "impersonate", resource: "serviceaccounts", namespace: ns, name: name}}
		if len(groups) == 0 {
			groups = []string{accountsGroup, accountsGroup + ":" + ns}
		}
	}
	for _, g := range groups {
		asks = append(asks, action{verb: "impersonate", resource: "groups", name: g})
	}
	if uid != "" {
		asks = append(asks, action{verb: "impersonate", group: authenticationv1.GroupName, resource: "uids", name: uid})
	}
	for key := range extra {
		asks = append(asks, action{verb: "impersonate", group: authenticationv1.GroupName, resource: "userextras", sub: key})
	}
	for _, a := range asks {
		if !allowed(id, a) {
			return identity{}, apierrors.NewForbidden(schema.GroupResource{Group: a.group, Resource: a.resource}, a.name, fmt.Errorf("%s", forbidden(id, a)))
		}
	}
	as := identity{name: user, uid: uid, groups: append([]string(nil), groups...), extra: extra}
	switch {
	case user == userAnonymous && !as.in(groupUnauthenticated):
		as.groups = append(as.groups, groupUnauthenticated)
	case user != userAnonymous && !as.in(groupAuthenticated):
		as.groups = append(as.groups, groupAuthenticated)
	}
	return as, nil
}

// accountOf takes a ServiceAccount's user name apart.
func accountOf(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, accountPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}
