package apiserver

import (
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// groupVersions lists what is served, the core group first.
func (s *Server) groupVersions() []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, k := range s.kinds.all {
		if !slices.Contains(out, k.GroupVersion()) {
			out = append(out, k.GroupVersion())
		}
	}
	for _, v := range s.virtual {
		if !slices.Contains(out, v.gv) {
			out = append(out, v.gv)
		}
	}
	return out
}

// served is one resource or subresource in discovery.
type served struct {
	name, singular string
	namespaced     bool
	gvk            schema.GroupVersionKind // of the bodies
	verbs          []string
	short, cats    []string
}

// resources lists the resources of gv, each with its subresources after it.
func (s *Server) resources(gv schema.GroupVersion) []served {
	var out []served
	for _, k := range s.kinds.all {
		if k.GroupVersion() != gv {
			continue
		}
		verbs := []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
		if k.NoBulkDelete {
			verbs = slices.DeleteFunc(verbs, func(v string) bool { return v == "deletecollection" })
		}
		out = append(out, served{k.Plural, k.Singular, k.Namespaced, k.GroupVersionKind, verbs, k.ShortNames, k.Categories})
		for _, sub := range s.subresources(k) {
			sub.name, sub.namespaced = k.Plural+"/"+sub.name, k.Namespaced
			out = append(out, sub)
		}
	}
	for _, v := range s.virtual {
		if v.gv == gv {
			out = append(out, served{v.plural, v.singular, v.namespaced, gv.WithKind(v.kind), []string{"create"}, nil, nil})
		}
	}
	return out
}

func (s *Server) apiResourceList(gv schema.GroupVersion) *metav1.APIResourceList {
	list := &metav1.APIResourceList{GroupVersion: gv.String()}
	for _, r := range s.resources(gv) {
		item := metav1.APIResource{
			Name: r.name, SingularName: r.singular, Namespaced: r.namespaced, Kind: r.gvk.Kind,
			Verbs: r.verbs, ShortNames: r.short, Categories: r.cats,
		}
		if r.gvk.GroupVersion() != gv {
			item.Group, item.Version = r.gvk.Group, r.gvk.Version
		}
		list.APIResources = append(list.APIResources, item)
	}
	return list
}

func apiGroup(gv schema.GroupVersion) metav1.APIGroup {
	v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	return metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
}

// aggregated is discovery in one answer, as kubectl asks for it.
func (s *Server) aggregated(core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	list := &apidiscoveryv2.APIGroupDiscoveryList{}
	for _, gv := range s.groupVersions() {
		if (gv.Group == "") != core {
			continue
		}
		version := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, r := range s.resources(gv) {
			kind := &metav1.GroupVersionKind{Group: r.gvk.Group, Version: r.gvk.Version, Kind: r.gvk.Kind}
			if parent, sub, ok := strings.Cut(r.name, "/"); ok {
				for i := range version.Resources {
					if version.Resources[i].Resource == parent {
						version.Resources[i].Subresources = append(version.Resources[i].Subresources,
							apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.verbs})
					}
				}
				continue
			}
			scope := apidiscoveryv2.ScopeCluster
			if r.namespaced {
				scope = apidiscoveryv2.ScopeNamespace
			}
			version.Resources = append(version.Resources, apidiscoveryv2.APIResourceDiscovery{
				Resource: r.name, ResponseKind: kind, Scope: scope, SingularResource: r.singular,
				Verbs: r.verbs, ShortNames: r.short, Categories: r.cats,
			})
		}
		list.Items = append(list.Items, apidiscoveryv2.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Group}, Versions: []apidiscoveryv2.APIVersionDiscovery{version},
		})
	}
	return list
}

// serveDiscovery answers /api, /apis and what is between them and resources.
func (s *Server) serveDiscovery(req *request) error {
	parts := strings.Split(strings.Trim(req.r.URL.Path, "/"), "/")
	wantsAggregated := strings.Contains(req.r.Header.Get("Accept"), "as=APIGroupDiscoveryList")
	switch {
	case len(parts) == 1 && wantsAggregated:
		return s.sendAggregated(req, parts[0] == "api")
	case len(parts) == 1 && parts[0] == "api":
		return req.sendObject(http.StatusOK, &metav1.APIVersions{
			Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{
				ClientCIDR: "0.0.0.0/0", ServerAddress: s.Addr(),
			}},
		}, schema.GroupVersionKind{Kind: "APIVersions", Version: "v1"})
	case len(parts) == 1:
		list := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
		for _, gv := range s.groupVersions() {
			if gv.Group != "" {
				list.Groups = append(list.Groups, apiGroup(gv))
			}
		}
		return req.sendObject(http.StatusOK, list, schema.GroupVersionKind{Kind: "APIGroupList", Version: "v1"})
	case len(parts) == 2 && parts[0] == "apis":
		for _, gv := range s.groupVersions() {
			if gv.Group == parts[1] {
				group := apiGroup(gv)
				return req.sendObject(http.StatusOK, &group, schema.GroupVersionKind{Kind: "APIGroup", Version: "v1"})
			}
		}
	default:
		gv := schema.GroupVersion{Version: parts[len(parts)-1]}
		if parts[0] == "apis" {
			gv.Group = parts[1]
		}
		if slices.Contains(s.groupVersions(), gv) {
			return req.sendObject(http.StatusOK, s.apiResourceList(gv), schema.GroupVersionKind{Kind: "APIResourceList", Version: "v1"})
		}
	}
	return pageNotFound()
}

func (s *Server) sendAggregated(req *request, core bool) error {
	gvk := apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")
	body, err := encodeObject(formatJSON, s.aggregated(core), gvk)
	if err != nil {
		return err
	}
	h := req.w.Header()
	h.Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	h.Set("Vary", "Accept")
	_, _ = req.w.Write(body) // the client is gone if this fails
	return nil
}
