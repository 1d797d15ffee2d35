package apiserver

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"gantry/cluster/resource"
)

var (
	bindingGVK  = corev1.SchemeGroupVersion.WithKind("Binding")
	evictionGVK = policyv1.SchemeGroupVersion.WithKind("Eviction")
)

// serveBinding puts a pod on a node.
func (s *Server) serveBinding(req *request) error {
	if req.path.verb != "create" {
		return methodNotAllowed(req)
	}
	obj, err := s.decodeBody(req, bindingGVK)
	if err != nil {
		return err
	}
	b := obj.(*corev1.Binding)
	if b.Name != "" && b.Name != req.path.name {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(b); len(errs) > 0 {
		return apierrors.NewInvalid(bindingGVK.GroupKind(), b.Name, errs)
	}
	dryRun := isDryRun(req.query["dryRun"])
	_, _, err = s.change(req, change{
		part: partBinding, patch: true, writeOptions: writeOptions{dryRun: dryRun},
		produce: func(cur *entry) (runtime.Object, error) { return bound(cur.obj.(*corev1.Pod), b) },
	})
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return err
	}
	return req.sendObject(http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, statusGVK)
}

// partBinding is the change that no kind's rules restrict.
const partBinding resource.Change = "binding"

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// bound returns pod on the binding's node.
func bound(pod *corev1.Pod, b *corev1.Binding) (runtime.Object, error) {
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(corev1.Resource("pods/binding"), pod.Name, fmt.Errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return nil, conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return nil, conflict("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	case pod.DeletionTimestamp != nil:
		return nil, conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return nil, conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return nil, conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	out := pod.DeepCopy()
	out.Spec.NodeName = b.Target.Name
	if out.Annotations == nil && len(b.Annotations) > 0 {
		out.Annotations = map[string]string{}
	}
	maps.Copy(out.Annotations, b.Annotations)
	scheduled := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue,
		LastTransitionTime: now(), ObservedGeneration: pod.Generation,
	}
	for i, c := range out.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			out.Status.Conditions[i] = scheduled
			return out, nil
		}
	}
	out.Status.Conditions = append(out.Status.Conditions, scheduled)
	return out, nil
}

// serveEviction deletes a pod in the words of the policy group. There are no
// disruption budgets that could forbid it.
func (s *Server) serveEviction(req *request) error {
	if req.path.verb != "create" {
		return methodNotAllowed(req)
	}
	obj, err := s.decodeBody(req, evictionGVK)
	if err != nil {
		return err
	}
	ev := obj.(*policyv1.Eviction)
	if ev.Name != "" && ev.Name != req.path.name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	opts := ev.DeleteOptions
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	if values := req.query["dryRun"]; len(values) > 0 {
		opts.DryRun = values
	}
	if err := s.admitNodeDelete(req); err != nil {
		return err
	}
	if _, _, err := s.delete(req, req.path.name, opts); err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return err
		}
		return apierrors.NewInternalError(err)
	}
	return req.sendObject(http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, statusGVK)
}
