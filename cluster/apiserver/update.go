package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"gantry/cluster/resource"
	"gantry/internal/problem"
)

// maxConflicts bounds the tries of a change that no revision is tied to.
const maxConflicts = 50

// change describes one write to an existing object.
type change struct {
	part resource.Change
	// produce returns the wanted object, of the served version and owned by
	// the caller, given the one there is (nil when there is none).
	produce func(cur *entry) (runtime.Object, error)
	create  bool // when there is none
	patch   bool // produce starts from cur: after a lost race it is called again
	writeOptions
}

func (s *Server) serveUpdate(req *request, part resource.Change) error {
	var opts metav1.UpdateOptions
	if err := metav1.Convert_url_Values_To_v1_UpdateOptions(&req.query, &opts, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if errs := validation.ValidateUpdateOptions(&opts); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "UpdateOptions"}, "", errs)
	}
	obj, err := s.decodeBody(req, req.kind.GroupVersionKind)
	if err != nil {
		return err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if m.GetName() == "" {
		return apierrors.NewBadRequest("the name of the object (" + m.GetName() + ") does not match the name on the URL (" + req.path.name + ")")
	}
	if m.GetName() != req.path.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), req.path.name))
	}
	if err := req.setNamespace(m); err != nil {
		return err
	}
	e, created, err := s.change(req, change{
		part:         part,
		create:       part == resource.Main && req.kind.CreateOnUpdate,
		writeOptions: writeOptions{dryRun: isDryRun(opts.DryRun), manager: opts.FieldManager},
		produce: func(cur *entry) (runtime.Object, error) {
			return s.trackUpdate(req, part, cur, obj.DeepCopyObject(), opts.FieldManager)
		},
	})
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return req.send(result{code: code, entry: e})
}

// change applies ch to the newest object, again when another write comes
// between, unless the wanted object is tied to a revision.
func (s *Server) change(req *request, ch change) (e *entry, created bool, err error) {
	ctx := req.r.Context()
	key := req.key(req.path.name)
	if err := s.fresh(ctx); err != nil {
		return nil, false, err
	}
	for try := 1; ; try++ {
		cur := req.kind.cache.get(key)
		if cur == nil && !ch.create {
			return nil, false, apierrors.NewNotFound(req.kind.GR(), req.path.name)
		}
		obj, err := ch.produce(cur)
		if err != nil {
			return nil, false, err
		}
		if cur == nil {
			e, err := s.createByUpdate(req, obj, ch.writeOptions)
			return e, true, err
		}
		e, tied, err := s.changeOnce(req, ch, cur, obj)
		if !errors.Is(err, problem.Conflict) && !errors.Is(err, problem.NotFound) {
			return e, false, err
		}
		if tied || try == maxConflicts {
			return nil, false, apierrors.NewConflict(req.kind.GR(), req.path.name, errors.New(optimisticLock))
		}
		if err := s.fresh(ctx); err != nil {
			return nil, false, err
		}
	}
}

// createByUpdate creates what a PUT or an apply names and does not find.
func (s *Server) createByUpdate(req *request, obj runtime.Object, o writeOptions) (*entry, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if m.GetResourceVersion() != "" && m.GetResourceVersion() != "0" {
		return nil, apierrors.NewNotFound(req.kind.GR(), req.path.name)
	}
	m.SetResourceVersion("")
	if uid := m.GetUID(); uid != "" {
		return nil, apierrors.NewConflict(req.kind.GR(), req.path.name, invalidObject(req.key(req.path.name),
			fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, "")))
	}
	return s.createOnce(req, obj, o)
}

// invalidObject is upstream's error for a precondition that does not hold.
func invalidObject(key, why string) error {
	return fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: %s", key, why)
}

// checkRevision compares what the client has seen with what there is. tied
// reports whether the client named a revision.
func (req *request) checkRevision(m metav1.Object, cur *entry) (tied bool, err error) {
	rev, err := parseRev(m.GetResourceVersion())
	if err != nil {
		return false, apierrors.NewInvalid(req.kind.GroupVersionKind.GroupKind(), m.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), m.GetResourceVersion(), err.Error())})
	}
	switch {
	case rev == 0 && !req.kind.UnconditionalUpdate:
		return false, apierrors.NewInvalid(req.kind.GroupVersionKind.GroupKind(), m.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
	case rev != 0 && rev != cur.rev:
		return true, apierrors.NewConflict(req.kind.GR(), req.path.name, errors.New(optimisticLock))
	}
	return rev != 0, nil
}

// changeOnce tries to replace cur by obj.
func (s *Server) changeOnce(req *request, ch change, cur *entry, obj runtime.Object) (e *entry, tied bool, err error) {
	k := req.kind
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	if uid := m.GetUID(); uid != "" && uid != cur.meta.GetUID() {
		return nil, false, apierrors.NewConflict(k.GR(), req.path.name, invalidObject(cur.key,
			fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, cur.meta.GetUID())))
	}
	if tied, err = req.checkRevision(m, cur); err != nil {
		return nil, true, err
	}
	tied = tied && !ch.patch
	m.SetResourceVersion(formatRev(cur.rev))
	internal, err := k.Internal(obj)
	if err != nil {
		return nil, tied, apierrors.NewInternalError(err)
	}
	old, err := k.Internal(cur.obj)
	if err != nil {
		return nil, tied, apierrors.NewInternalError(err)
	}
	if err := s.admitUpdate(req, ch.part, internal, old); err != nil {
		return nil, tied, err
	}
	alloc, err := s.allocateUpdate(req, ch.part, internal, old, ch.dryRun)
	if err != nil {
		return nil, tied, err
	}
	e, err = s.storeChange(req, ch, cur, internal, old)
	if err != nil || ch.dryRun {
		alloc.undo()
	} else {
		alloc.commit()
	}
	return e, tied, err
}

// storeChange is upstream's BeforeUpdate and the transaction.
func (s *Server) storeChange(req *request, ch change, cur *entry, internal, old runtime.Object) (*entry, error) {
	k, ctx := req.kind, req.r.Context()
	m, err := meta.Accessor(internal)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	om, err := meta.Accessor(old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	m.SetGeneration(om.GetGeneration())
	k.PrepareUpdate(ch.part, internal, old)
	keepMeta(m, om)
	errs := append(validateMeta(m, k.Namespaced), validateMetaUpdate(m, om)...)
	if errs = append(errs, k.ValidateUpdate(ch.part, internal, old)...); len(errs) > 0 {
		return nil, apierrors.NewInvalid(k.GroupVersionKind.GroupKind(), m.GetName(), errs)
	}
	req.warn(k.WarnUpdate(ctx, ch.part, internal, old)...)
	k.Canonicalize(internal)
	m.SetResourceVersion("")
	m.SetSelfLink("")
	if finished(internal, m) {
		return s.removeNow(req, cur, ch.dryRun)
	}
	stored, err := k.ToStored(internal)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return s.replace(req, cur, stored, ch.dryRun)
}

// keepMeta restores the metadata that no update can change.
func keepMeta(m, old metav1.Object) {
	if m.GetUID() == "" {
		m.SetUID(old.GetUID())
	}
	if t := old.GetCreationTimestamp(); !t.IsZero() {
		m.SetCreationTimestamp(t)
	}
	if t := old.GetDeletionTimestamp(); !t.IsZero() {
		m.SetDeletionTimestamp(t)
	}
	if g := old.GetDeletionGracePeriodSeconds(); g != nil && m.GetDeletionGracePeriodSeconds() == nil {
		m.SetDeletionGracePeriodSeconds(g)
	}
}

// replace stores the new form of cur, unless nothing has changed.
func (s *Server) replace(req *request, cur *entry, stored runtime.Object, dryRun bool) (*entry, error) {
	k, ctx := req.kind, req.r.Context()
	value, err := s.feed.codec.stored(k, stored)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	before := shallowCopy(cur.obj)
	bm, err := meta.Accessor(before)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	bm.SetResourceVersion("")
	if same, err := s.feed.codec.stored(k, before); err == nil && bytes.Equal(same, value) {
		return cur, nil
	}
	if dryRun {
		return newEntry(cur.key, cur.rev, stored)
	}
	w := s.feed.writes.begin(cur.key, value, stored)
	rev, _, err := s.store.Update(ctx, cur.key, value, cur.rev, k.TTL)
	if err != nil {
		s.feed.writes.end(cur.key, w)
		return nil, err
	}
	return w.entry(cur.key, rev)
}
