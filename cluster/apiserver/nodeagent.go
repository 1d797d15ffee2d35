package apiserver

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/coordination"
	"k8s.io/kubernetes/pkg/apis/core"

	"gantry/cluster/resource"
)

// nodeOf is the node whose agent id is.
func nodeOf(id identity) (string, bool) {
	if !id.in(groupNodes) || id.in(groupMasters) {
		return "", false
	}
	return strings.CutPrefix(id.name, nodePrefix)
}

// nodeAllowed is what a node's agent needs: to read what its pods use, and to
// write about itself and them. Which pods those are, nodeMayRead and admission
// find out.
func nodeAllowed(node string, a action) bool {
	read := a.verb == "get" || a.verb == "list" || a.verb == "watch"
	write := a.verb == "create" || a.verb == "update" || a.verb == "patch"
	switch a.group + "/" + a.resource {
	case "/pods":
		return read || a.sub == "status" && write || a.sub == "" && (a.verb == "create" || a.verb == "delete") || a.sub == "eviction" && a.verb == "create"
	case "/nodes":
		return read || a.verb == "create" || write && a.name == node
	case "/services", "discovery.k8s.io/endpointslices", "/namespaces":
		return read
	case "/configmaps", "/secrets", "/serviceaccounts":
		return read || a.resource == "serviceaccounts" && a.sub == "token" && a.verb == "create"
	case "/events", "events.k8s.io/events":
		return write
	case "coordination.k8s.io/leases":
		return a.namespace == corev1.NamespaceNodeLease && (a.verb == "create" || a.name == node)
	}
	return false
}

// nodeMayRead keeps a node's agent to the Secrets and ConfigMaps that pods on
// its node refer to. Others may read what they are allowed to.
func (s *Server) nodeMayRead(req *request, a action) bool {
	node, ok := nodeOf(req.user)
	if !ok || a.resource != "secrets" && a.resource != "configmaps" {
		return true
	}
	name := a.name
	if name == "" {
		// A list or watch is of one object, chosen by its name.
		sel, err := fields.ParseSelector(req.query.Get("fieldSelector"))
		if err != nil {
			return false
		}
		if name, ok = sel.RequiresExactMatch("metadata.name"); !ok {
			return false
		}
	}
	if a.resource == "configmaps" && name == rootCAConfigMap {
		return true // every pod with a token mounts it
	}
	// The pod may have been bound just now.
	if err := s.fresh(req.r.Context()); err != nil {
		return false
	}
	tree, _ := s.kinds.pods.cache.snapshot()
	found := false
	walk(tree, s.kinds.pods.cache.prefix+a.namespace+"/", "", func(e *entry) bool {
		pod := e.obj.(*corev1.Pod)
		found = pod.Spec.NodeName == node && refersTo(pod, a.resource, name)
		return !found
	})
	return found
}

// refersTo reports whether pod uses a Secret or ConfigMap.
func refersTo(pod *corev1.Pod, plural, name string) bool {
	found := false
	visit := func(have string) bool {
		found = found || have == name
		return !found
	}
	if plural == "secrets" {
		podutil.VisitPodSecretNames(pod, visit)
	} else {
		podutil.VisitPodConfigmapNames(pod, visit)
	}
	return found
}

// admitNodeWrite keeps the writes of a node's agent to its own node and to the
// pods on it. old is nil on creation.
func admitNodeWrite(id identity, part resource.Change, obj, old runtime.Object) error {
	node, ok := nodeOf(id)
	if !ok {
		return nil
	}
	switch o := obj.(type) {
	case *core.Pod:
		return admitNodePod(node, o, old)
	case *core.Node:
		if o.Name != node {
			return apierrors.NewForbidden(corev1.Resource("nodes"), o.Name, fmt.Errorf("node %q is not allowed to modify node %q", node, o.Name))
		}
		if before, ok := old.(*core.Node); ok && part == resource.Main && !slices.Equal(taintKeys(o), taintKeys(before)) {
			return apierrors.NewForbidden(corev1.Resource("nodes"), o.Name, fmt.Errorf("node %q is not allowed to modify taints", node))
		}
	case *coordination.Lease:
		if o.Namespace != corev1.NamespaceNodeLease || o.Name != node {
			return apierrors.NewForbidden(corev1.Resource("leases"), o.Name, fmt.Errorf("can only access node lease with the same name as the requesting node"))
		}
	}
	return nil
}

func taintKeys(n *core.Node) []string {
	var out []string
	for _, t := range n.Spec.Taints {
		out = append(out, t.Key+"="+t.Value+":"+string(t.Effect))
	}
	return out
}

func admitNodePod(node string, pod *core.Pod, old runtime.Object) error {
	deny := func(format string, args ...any) error {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf(format, args...))
	}
	if before, ok := old.(*core.Pod); ok {
		if before.Spec.NodeName != node {
			return deny("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		}
		return nil
	}
	if _, mirror := pod.Annotations[mirrorPod]; !mirror {
		return deny("pod does not have %q annotation, node %q can only create mirror pods", mirrorPod, node)
	}
	if pod.Spec.NodeName != node {
		return deny("node %q can only create pods with spec.nodeName set to itself", node)
	}
	return nil
}

// admitNodeDelete lets a node's agent end the pods on its node.
func (s *Server) admitNodeDelete(req *request) error {
	node, ok := nodeOf(req.user)
	if !ok || req.kind != s.kinds.pods {
		return nil
	}
	if err := s.fresh(req.r.Context()); err != nil {
		return err
	}
	e := req.kind.cache.get(req.key(req.path.name))
	if e == nil || e.obj.(*corev1.Pod).Spec.NodeName == node {
		return nil
	}
	return apierrors.NewForbidden(req.kind.GR(), req.path.name, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
}

// admitNodeToken lets a node's agent get tokens for the pods on its node.
func (s *Server) admitNodeToken(req *request, c claims) error {
	node, ok := nodeOf(req.user)
	if !ok {
		return nil
	}
	deny := func(text string) error {
		return apierrors.NewForbidden(corev1.Resource("serviceaccounts"), req.path.name, fmt.Errorf("%s", text))
	}
	if c.Kubernetes.Pod == nil {
		return deny("node requested token not bound to a pod")
	}
	p := s.kinds.pods.cache
	e := p.get(p.prefix + req.path.namespace + "/" + c.Kubernetes.Pod.Name)
	if e == nil || e.obj.(*corev1.Pod).Spec.NodeName != node {
		return deny("node requested token bound to a pod scheduled on a different node")
	}
	return nil
}
