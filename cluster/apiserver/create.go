package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"gantry/internal/problem"
)

// maxNameTries is how often a generated name that is taken is replaced.
const maxNameTries = 8

func (s *Server) serveCreate(req *request) error {
	var opts metav1.CreateOptions
	if err := metav1.Convert_url_Values_To_v1_CreateOptions(&req.query, &opts, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if errs := validation.ValidateCreateOptions(&opts); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "CreateOptions"}, "", errs)
	}
	obj, err := s.decodeBody(req, req.kind.GroupVersionKind)
	if err != nil {
		return err
	}
	e, err := s.create(req, obj, writeOptions{dryRun: isDryRun(opts.DryRun), manager: opts.FieldManager})
	if err != nil {
		return err
	}
	return req.send(result{code: http.StatusCreated, entry: e})
}

// writeOptions are common to all writes.
type writeOptions struct {
	dryRun  bool
	manager string // of fields; empty takes the user agent's
}

// create stores obj, of the served version, as a new object.
func (s *Server) create(req *request, obj runtime.Object, o writeOptions) (*entry, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if m.GetResourceVersion() != "" {
		return nil, errors.New("resourceVersion should not be set on objects to be created")
	}
	if err := req.setNamespace(m); err != nil {
		return nil, err
	}
	if obj, err = s.trackCreate(req, obj, o.manager); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		attempt := obj
		if m.GetName() == "" && m.GetGenerateName() != "" {
			attempt = obj.DeepCopyObject() // the next try starts from the client's object
		}
		e, err := s.createOnce(req, attempt, o)
		if err == nil || !apierrors.IsAlreadyExists(err) || attempt == obj {
			return e, err
		}
		if try == maxNameTries {
			am, _ := meta.Accessor(attempt)
			return nil, apierrors.NewGenerateNameConflict(req.kind.GR(), am.GetName(), 1)
		}
	}
}

func (s *Server) createOnce(req *request, obj runtime.Object, o writeOptions) (*entry, error) {
	ctx, k := req.r.Context(), req.kind
	internal, err := k.Internal(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	m, err := meta.Accessor(internal)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetCreationTimestamp(now())
	m.SetUID(newUID())
	m.SetSelfLink("")
	if m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(generateName(m.GetGenerateName()))
	}
	if err := s.admitCreate(req, internal); err != nil {
		return nil, err
	}
	undo, err := s.allocateCreate(k, internal, o.dryRun)
	if err != nil {
		return nil, err
	}
	e, err := s.storeNew(ctx, req, internal, m, o)
	if err != nil || o.dryRun {
		undo()
	}
	return e, err
}

// storeNew is what remains when the object has its name and admission is done.
func (s *Server) storeNew(ctx context.Context, req *request, internal runtime.Object, m metav1.Object, o writeOptions) (*entry, error) {
	k := req.kind
	k.PrepareCreate(internal)
	if errs := k.ValidateCreate(internal); len(errs) > 0 {
		return nil, apierrors.NewInvalid(k.GroupVersionKind.GroupKind(), m.GetName(), errs)
	}
	if errs := validateMeta(m, k.Namespaced); len(errs) > 0 {
		return nil, apierrors.NewInvalid(k.GroupVersionKind.GroupKind(), m.GetName(), errs)
	}
	req.warn(k.WarnCreate(ctx, internal)...)
	k.Canonicalize(internal)
	stored, err := k.ToStored(internal)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	value, err := s.feed.codec.stored(k, stored)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	key := req.key(m.GetName())
	if o.dryRun {
		if err := s.fresh(ctx); err != nil {
			return nil, err
		}
		if k.cache.get(key) != nil {
			return nil, apierrors.NewAlreadyExists(k.GR(), m.GetName())
		}
		e, err := newEntry(key, 0, stored)
		if err == nil {
			e.meta.SetResourceVersion("")
		}
		return e, err
	}
	w := s.feed.writes.begin(key, value, stored)
	rev, err := s.store.Create(ctx, key, value, k.TTL)
	if err != nil {
		s.feed.writes.end(key, w)
		if errors.Is(err, problem.Exists) {
			return nil, apierrors.NewAlreadyExists(k.GR(), m.GetName())
		}
		return nil, fmt.Errorf("store: %w", err)
	}
	return w.entry(key, rev)
}
