package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/core"

	"gantry/cluster/resource"
)

// immortal namespaces cannot be deleted.
var immortal = map[string]bool{metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true}

// admitCreate changes and checks a new object before its kind's rules do.
func (s *Server) admitCreate(req *request, obj runtime.Object) error {
	if err := s.admitNamespace(req, obj); err != nil {
		return err
	}
	if pod, ok := obj.(*core.Pod); ok {
		if err := s.admitServiceAccount(req, pod); err != nil {
			return err
		}
		defaultTolerations(pod)
	}
	return admitNodeWrite(req.user, resource.Main, obj, nil)
}

// admitNamespace refuses objects in namespaces that are missing or going.
func (s *Server) admitNamespace(req *request, obj runtime.Object) error {
	if !req.kind.Namespaced {
		return nil
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	name := req.path.namespace
	ns := s.namespaceOf(req, name)
	if ns == nil {
		if err := s.fresh(req.r.Context()); err != nil {
			return err
		}
		if ns = s.namespaceOf(req, name); ns == nil {
			return apierrors.NewNotFound(corev1.Resource("namespaces"), name)
		}
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	denied := apierrors.NewForbidden(req.kind.GR(), m.GetName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name))
	denied.ErrStatus.Details.Causes = append(denied.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", name),
		Field:   "metadata.namespace",
	})
	return denied
}

func (s *Server) namespaceOf(_ *request, name string) *corev1.Namespace {
	e := s.kinds.namespaces.cache.get(s.kinds.namespaces.cache.prefix + name)
	if e == nil {
		return nil
	}
	ns, _ := e.obj.(*corev1.Namespace)
	return ns
}

// admitUpdate checks a change before the kind's rules do.
func (s *Server) admitUpdate(req *request, part resource.Change, obj, old runtime.Object) error {
	return admitNodeWrite(req.user, part, obj, old)
}

// admitDelete keeps the namespaces that a cluster cannot be without.
func (s *Server) admitDelete(req *request) error {
	if req.kind == s.kinds.namespaces && immortal[req.path.name] {
		return apierrors.NewForbidden(req.kind.GR(), req.path.name, fmt.Errorf("this namespace may not be deleted"))
	}
	return s.admitNodeDelete(req)
}

// defaultTolerations lets pods stay for a while on a node that has failed.
func defaultTolerations(pod *core.Pod) {
	const seconds = 300
	notReady, unreachable := false, false
	for _, t := range pod.Spec.Tolerations {
		all := t.Effect == core.TaintEffectNoExecute || t.Effect == ""
		notReady = notReady || all && (t.Key == corev1.TaintNodeNotReady || t.Key == "")
		unreachable = unreachable || all && (t.Key == corev1.TaintNodeUnreachable || t.Key == "")
	}
	add := func(key string) {
		wait := int64(seconds)
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, core.Toleration{
			Key: key, Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute, TolerationSeconds: &wait,
		})
	}
	if !notReady {
		add(corev1.TaintNodeNotReady)
	}
	if !unreachable {
		add(corev1.TaintNodeUnreachable)
	}
}
