package apiserver

import (
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"gantry/cluster/resource"
)

// managers are the field managers by kind and part.
type managers struct {
	mu    sync.Mutex
	known map[managerKey]*managedfields.FieldManager
}

type managerKey struct {
	kind *kind
	part resource.Change
}

func (ms *managers) get(k *kind, part resource.Change) (*managedfields.FieldManager, error) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	key := managerKey{k, part}
	if m := ms.known[key]; m != nil {
		return m, nil
	}
	types, err := schemas()
	if err != nil {
		return nil, err
	}
	gv := k.GroupVersion()
	m, err := managedfields.NewDefaultFieldManager(types, resource.Scheme, resource.Scheme, resource.Scheme,
		k.GroupVersionKind, k.Storage, string(part), resetFields(k, part, gv.String()))
	if err != nil {
		return nil, err
	}
	if ms.known == nil {
		ms.known = map[managerKey]*managedfields.FieldManager{}
	}
	ms.known[key] = m
	return m, nil
}

// resetFields are those that a change of part cannot set, and so cannot own.
func resetFields(k *kind, part resource.Change, gv string) map[fieldpath.APIVersion]fieldpath.Filter {
	var paths []*fieldpath.Set
	switch {
	case part == resource.Status && k.Kind.Kind == "Pod":
		paths = append(paths, fieldpath.NewSet(fieldpath.MakePathOrDie("spec"),
			fieldpath.MakePathOrDie("metadata", "deletionTimestamp"), fieldpath.MakePathOrDie("metadata", "ownerReferences")))
	case part == resource.Status && k.Kind.Kind == "Deployment":
		paths = append(paths, fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "labels")))
	case part == resource.Status:
		paths = append(paths, fieldpath.NewSet(fieldpath.MakePathOrDie("spec")))
	case k.HasStatus:
		paths = append(paths, fieldpath.NewSet(fieldpath.MakePathOrDie("status")))
	}
	sets := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, p := range paths {
		sets[fieldpath.APIVersion(gv)] = p
	}
	return fieldpath.NewExcludeFilterSetMap(sets)
}

// managerName is who changes fields: as asked for, else the program.
func (req *request) managerName(asked string) string {
	if asked != "" {
		return asked
	}
	name, _, _ := strings.Cut(req.r.UserAgent(), "/")
	return name
}

// trackCreate records who set the fields of a new object. Objects that parts of
// this process create are not tracked until someone applies to them: nobody
// shares their fields, and it costs more than the rest of the creation.
func (s *Server) trackCreate(req *request, obj runtime.Object, manager string) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if req.user.internal && len(m.GetManagedFields()) == 0 {
		return obj, nil
	}
	fm, err := s.managers.get(req.kind, resource.Main)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	live := withKind(req.kind.New(), req.kind.GroupVersionKind)
	return s.untyped(fm.UpdateNoErrors(live, withKind(obj, req.kind.GroupVersionKind), req.managerName(manager))), nil
}

// untyped takes the kind off again.
func (s *Server) untyped(obj runtime.Object) runtime.Object {
	return withKind(obj, emptyGVK)
}

// trackUpdate records who changed which fields between cur and obj.
func (s *Server) trackUpdate(req *request, part resource.Change, cur *entry, obj runtime.Object, manager string) (runtime.Object, error) {
	if cur == nil {
		return s.trackCreate(req, obj, manager)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(cur.meta.GetManagedFields()) == 0 {
		m.SetManagedFields(nil)
		return obj, nil
	}
	fm, err := s.managers.get(req.kind, part)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	live, err := req.live(cur)
	if err != nil {
		return nil, err
	}
	return s.untyped(fm.UpdateNoErrors(live, withKind(obj, req.kind.GroupVersionKind), req.managerName(manager))), nil
}

// live is cur in the served version, with its kind, owned by the caller.
func (req *request) live(cur *entry) (runtime.Object, error) {
	served, err := req.kind.served(cur.obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return withKind(served.DeepCopyObject(), req.kind.GroupVersionKind), nil
}

// applier returns how a server-side apply changes an object.
func (s *Server) applier(req *request, part resource.Change, body []byte, opts metav1.PatchOptions) (func(*entry) (runtime.Object, error), error) {
	k := req.kind
	wanted := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(body, &wanted.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	directive, err := req.fieldValidation()
	if err != nil {
		return nil, err
	}
	doubled := yaml.UnmarshalStrict(body, &map[string]any{})
	fm, err := s.managers.get(k, part)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return func(cur *entry) (runtime.Object, error) {
		live := withKind(k.New(), k.GroupVersionKind)
		if cur != nil {
			if live, err = req.live(cur); err != nil {
				return nil, err
			}
		} else if err := checkUID(req, wanted); err != nil {
			return nil, err
		}
		force := opts.Force != nil && *opts.Force
		obj, err := fm.Apply(live, wanted.DeepCopy(), opts.FieldManager, force)
		if err != nil {
			return nil, err
		}
		// What a doubled key means is unclear only after all else is right.
		if doubled != nil && directive == metav1.FieldValidationStrict {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", doubled))
		}
		if doubled != nil && directive == metav1.FieldValidationWarn {
			req.warn(doubled.Error())
		}
		resource.Scheme.Default(obj)
		if cur != nil {
			if err := req.checkIdentity(obj); err != nil {
				return nil, err
			}
		} else {
			m, err := meta.Accessor(obj)
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			if m.GetName() == "" {
				m.SetName(req.path.name)
			}
			if err := req.checkIdentity(obj); err != nil {
				return nil, err
			}
		}
		return s.untyped(obj), nil
	}, nil
}

func checkUID(req *request, wanted *unstructured.Unstructured) error {
	if uid := wanted.GetUID(); uid != "" {
		return apierrors.NewConflict(req.kind.GR(), req.path.name,
			fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	return nil
}
