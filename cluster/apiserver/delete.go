package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/core"
	"sigs.k8s.io/yaml"

	"gantry/cluster/resource"
	"gantry/internal/problem"
)

// deleteOptions reads the options from the query and, if there is one, the body.
func (s *Server) deleteOptions(req *request) (*metav1.DeleteOptions, error) {
	opts := &metav1.DeleteOptions{}
	body, err := req.readBody()
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		if err := s.decodeDeleteOptions(req, body, opts); err != nil {
			return nil, err
		}
	} else if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&req.query, opts, nil); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if errs := validation.ValidateDeleteOptions(opts); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	return opts, nil
}

func (s *Server) decodeDeleteOptions(req *request, body []byte, opts *metav1.DeleteOptions) error {
	want := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	if req.r.Header.Get("Content-Type") == typeProto {
		_, _, err := s.feed.codec.proto.Decode(body, &want, opts)
		if err != nil {
			return decodeError(err, want, nil, body)
		}
		return nil
	}
	data, err := yaml.YAMLToJSON(body)
	if err != nil {
		return decodeError(err, want, nil, body)
	}
	if err := json.Unmarshal(data, opts); err != nil {
		return decodeError(err, want, &want, body)
	}
	if opts.Kind != "" && opts.Kind != want.Kind {
		return apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
	}
	return nil
}

func (s *Server) serveDelete(req *request) error {
	opts, err := s.deleteOptions(req)
	if err != nil {
		return err
	}
	if err := s.admitDelete(req); err != nil {
		return err
	}
	e, gone, err := s.delete(req, req.path.name, opts)
	if err != nil {
		return err
	}
	// What is still there is answered with, so that the client can wait for it.
	if gone && !req.kind.ReturnDeleted {
		return req.send(success(req, e))
	}
	return req.send(result{entry: e})
}

// delete removes an object, or marks it as being deleted.
func (s *Server) delete(req *request, name string, opts *metav1.DeleteOptions) (e *entry, gone bool, err error) {
	ctx := req.r.Context()
	if err := s.fresh(ctx); err != nil {
		return nil, false, err
	}
	for try := 1; ; try++ {
		cur := req.kind.cache.get(req.key(name))
		if cur == nil {
			return nil, false, apierrors.NewNotFound(req.kind.GR(), name)
		}
		o := *opts // deciding fills in the grace period
		e, gone, err := s.deleteOnce(req, cur, &o)
		if !errors.Is(err, problem.Conflict) && !errors.Is(err, problem.NotFound) || try == maxConflicts {
			return e, gone, err
		}
		if err := s.fresh(ctx); err != nil {
			return nil, false, err
		}
	}
}

func (s *Server) deleteOnce(req *request, cur *entry, o *metav1.DeleteOptions) (*entry, bool, error) {
	k := req.kind
	if err := checkPreconditions(k, cur, o.Preconditions); err != nil {
		return nil, false, err
	}
	internal, err := k.Internal(shallowCopy(cur.obj))
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	m, err := meta.Accessor(internal)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	plan := planDelete(k.Kind, internal, m, o, now())
	dryRun := isDryRun(o.DryRun)
	switch plan {
	case deletePending:
		return cur, false, nil
	case deleteNow:
		e, err := s.removeNow(req, cur, dryRun)
		return e, true, err
	}
	m.SetResourceVersion("")
	stored, err := k.ToStored(internal)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	e, err := s.replace(req, cur, stored, dryRun)
	return e, false, err
}

func checkPreconditions(k *kind, cur *entry, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	gr := schema.GroupResource{Group: k.Group, Resource: k.Kind.Kind}
	if p.UID != nil && *p.UID != cur.meta.GetUID() {
		return apierrors.NewConflict(gr, cur.meta.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, cur.meta.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != cur.meta.GetResourceVersion() {
		return apierrors.NewConflict(gr, cur.meta.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, cur.meta.GetResourceVersion()))
	}
	return nil
}

type deletePlan int

const (
	deleteNow     deletePlan = iota // remove the record
	deleteMark                      // store the object as changed by planDelete
	deletePending                   // nothing to do: it is under way
)

// planDelete decides what a delete of obj means, and marks obj accordingly.
func planDelete(k *resource.Kind, obj runtime.Object, m metav1.Object, o *metav1.DeleteOptions, now metav1.Time) deletePlan {
	if o.GracePeriodSeconds != nil && *o.GracePeriodSeconds < 0 {
		one := int64(1)
		o.GracePeriodSeconds = &one
	}
	finalizersChanged := setDependentsFinalizers(k, m, o)
	graceful, pending := planGrace(k, obj, m, o, now)
	immediate := !graceful || o.GracePeriodSeconds != nil && *o.GracePeriodSeconds == 0
	switch {
	case pending && !finalizersChanged:
		return deletePending
	case immediate && !pending && len(m.GetFinalizers()) == 0 && !namespaceHolds(obj):
		return deleteNow
	}
	if immediate && !pending {
		markDeleted(obj, m, now)
	}
	return deleteMark
}

// planGrace sets the deletion timestamp of kinds that are deleted gracefully.
func planGrace(k *resource.Kind, obj runtime.Object, m metav1.Object, o *metav1.DeleteOptions, now metav1.Time) (graceful, pending bool) {
	if m.GetDeletionTimestamp() == nil {
		if !k.Grace(obj, o) {
			return false, false
		}
		at := metav1.NewTime(now.Add(time.Duration(*o.GracePeriodSeconds) * time.Second))
		m.SetDeletionTimestamp(&at)
		m.SetDeletionGracePeriodSeconds(o.GracePeriodSeconds)
		if m.GetGeneration() > 0 {
			m.SetGeneration(m.GetGeneration() + 1)
		}
		return true, false
	}
	had := m.GetDeletionGracePeriodSeconds()
	if had == nil || *had == 0 {
		return false, false
	}
	if o.GracePeriodSeconds == nil || *o.GracePeriodSeconds >= *had {
		return false, true
	}
	// A grace period can only be made shorter.
	seconds := *o.GracePeriodSeconds
	at := metav1.NewTime(m.GetDeletionTimestamp().Add(time.Duration(seconds-*had) * time.Second))
	if at.Before(&now) {
		at = now
		if seconds != 0 {
			seconds = 1
		}
	}
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(&seconds)
	return true, false
}

// markDeleted says that only finalizers keep the object.
func markDeleted(obj runtime.Object, m metav1.Object, now metav1.Time) {
	if m.GetDeletionTimestamp() == nil {
		if m.GetGeneration() > 0 {
			m.SetGeneration(m.GetGeneration() + 1)
		}
		m.SetDeletionTimestamp(&now)
	}
	if ns, ok := obj.(*core.Namespace); ok {
		ns.Status.Phase = core.NamespaceTerminating
		return
	}
	var zero int64
	m.SetDeletionGracePeriodSeconds(&zero)
}

// namespaceHolds reports whether obj is a namespace that still has content.
func namespaceHolds(obj runtime.Object) bool {
	ns, ok := obj.(*core.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}

// setDependentsFinalizers makes the garbage collector do what the options want
// with the object's dependents.
func setDependentsFinalizers(k *resource.Kind, m metav1.Object, o *metav1.DeleteOptions) (changed bool) {
	if k.Dependents == resource.NoDependents {
		return false
	}
	had := m.GetFinalizers()
	orphan, foreground := slices.Contains(had, metav1.FinalizerOrphanDependents), slices.Contains(had, metav1.FinalizerDeleteDependents)
	//lint:ignore SA1019 old clients still send it
	asked := o.OrphanDependents
	switch {
	case asked != nil:
		orphan, foreground = *asked, false
	case o.PropagationPolicy != nil:
		orphan = *o.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *o.PropagationPolicy == metav1.DeletePropagationForeground
	}
	want := slices.DeleteFunc(slices.Clone(had), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if orphan {
		want = append(want, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		want = append(want, metav1.FinalizerDeleteDependents)
	}
	slices.Sort(want)
	sorted := slices.Sorted(slices.Values(had))
	if slices.Equal(want, sorted) {
		return false
	}
	m.SetFinalizers(want)
	return true
}

// finished reports whether an update has taken away the last thing that kept a
// deleted object.
func finished(obj runtime.Object, m metav1.Object) bool {
	grace := m.GetDeletionGracePeriodSeconds()
	return m.GetDeletionTimestamp() != nil && len(m.GetFinalizers()) == 0 &&
		(grace == nil || *grace == 0) && !namespaceHolds(obj)
}

// removeNow removes the record of cur, and returns it with the revision of its
// removal.
func (s *Server) removeNow(req *request, cur *entry, dryRun bool) (*entry, error) {
	if dryRun {
		return cur, nil
	}
	rev, _, err := s.store.Delete(req.r.Context(), cur.key, cur.rev)
	if err != nil {
		return nil, err
	}
	s.release(cur)
	return newEntry(cur.key, rev, shallowCopy(cur.obj))
}

// serveDeleteCollection deletes what the selectors match, one after another.
func (s *Server) serveDeleteCollection(req *request) error {
	opts, err := s.deleteOptions(req)
	if err != nil {
		return err
	}
	sel, err := req.selection()
	if err != nil {
		return err
	}
	l, err := s.list(req.r.Context(), sel)
	if err != nil {
		return err
	}
	rev := l.rev
	for i, e := range l.entries {
		one := *req
		one.path.name, one.path.namespace = e.meta.GetName(), e.meta.GetNamespace()
		deleted, _, err := s.delete(&one, e.meta.GetName(), opts)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if deleted != nil {
			l.entries[i], rev = deleted, max(rev, deleted.rev)
		}
	}
	l.rev = rev
	return req.sendList(l)
}
