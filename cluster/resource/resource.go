// Package resource is the table of the built-in kinds: what they are called,
// how they are stored, what a client may set, what is valid, what may be
// selected by, and which columns kubectl shows.
//
// Types, defaults, conversion, validation and columns are upstream's own
// packages; the rules around them (what a create or an update may change, when
// the generation rises, how status and spec are kept apart) are written here
// after upstream's registry strategies. There is no I/O.
//
// Objects have two forms. The versioned form (k8s.io/api) is what is decoded,
// stored, cached and sent. The internal form (k8s.io/kubernetes/pkg/apis) is
// what the rules work on. Convert changes one to the other; both share memory
// afterwards, so that an object from a cache may be converted but not changed.
package resource

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/networking/install" // the others come with the columns
)

// Scheme knows every version of every built-in kind.
var Scheme = legacyscheme.Scheme

// Dependents is what a delete does with an object's dependents by default.
type Dependents int

// The ways to treat dependents.
const (
	DeleteDependents Dependents = iota // in the background
	NoDependents                       // the kind cannot own
)

// Kind is one row of the table: a kind as served under one group and version.
type Kind struct {
	schema.GroupVersionKind        // as served
	Plural, Singular        string // resource names
	Namespaced              bool
	ShortNames, Categories  []string
	Storage                 schema.GroupVersion // in which it is encoded in etcd
	Prefix                  string              // of its keys, below /registry/
	TTL                     time.Duration       // 0 keeps forever

	CreateOnUpdate      bool // PUT of what does not exist creates it
	UnconditionalUpdate bool // PUT without a resourceVersion overwrites
	ReturnDeleted       bool // DELETE answers with the object instead of a Status
	Dependents          Dependents
	NoBulkDelete        bool // the verb deletecollection is not served
	HasStatus           bool
	HasScale            bool

	rules rules
}

// GVR is the resource as it appears in paths.
func (k *Kind) GVR() schema.GroupVersionResource {
	return k.GroupVersion().WithResource(k.Plural)
}

// GR is the resource as errors name it.
func (k *Kind) GR() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Plural}
}

// ListKind is the kind of lists.
func (k *Kind) ListKind() schema.GroupVersionKind {
	return k.GroupVersion().WithKind(k.Kind + "List")
}

// New returns an empty object of the served version.
func (k *Kind) New() runtime.Object { return must(Scheme.New(k.GroupVersionKind)) }

// NewStored returns an empty object of the version in storage.
func (k *Kind) NewStored() runtime.Object { return must(Scheme.New(k.Storage.WithKind(k.Kind))) }

func must(obj runtime.Object, err error) runtime.Object {
	if err != nil {
		panic("the table names a kind that upstream's scheme does not have: " + err.Error())
	}
	return obj
}

// Internal converts obj to the internal form. The result shares memory with obj.
func (k *Kind) Internal(obj runtime.Object) (runtime.Object, error) {
	gv := schema.GroupVersion{Group: k.rules.group, Version: runtime.APIVersionInternal}
	if k.Storage != k.GroupVersion() {
		// Both groups have the same internal type, each under its own name.
		kinds, _, err := Scheme.ObjectKinds(obj)
		if err != nil {
			return nil, err
		}
		gv.Group = kinds[0].Group
	}
	return Scheme.UnsafeConvertToVersion(obj, gv)
}

// ToServed converts obj, internal or stored, to the served version.
func (k *Kind) ToServed(obj runtime.Object) (runtime.Object, error) {
	return convert(obj, k.GroupVersion())
}

// ToStored converts obj, internal or served, to the version in storage.
func (k *Kind) ToStored(obj runtime.Object) (runtime.Object, error) {
	return convert(obj, k.Storage)
}

func convert(obj runtime.Object, gv schema.GroupVersion) (runtime.Object, error) {
	out, err := Scheme.UnsafeConvertToVersion(obj, gv)
	if err != nil {
		return nil, err
	}
	// Objects are kept without their kind: lists carry it once.
	out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return out, nil
}

// Change names the part of an object that a request may change.
type Change string

// The parts. The empty one is the object without its status.
const (
	Main     Change = ""
	Status   Change = "status"
	Finalize Change = "finalize" // namespaces: spec.finalizers
)

// rules are the hooks of a kind, on internal objects. A nil hook does nothing.
type rules struct {
	group          string // of the internal version
	prepareCreate  func(obj runtime.Object)
	validateCreate func(obj runtime.Object, gv schema.GroupVersion) field.ErrorList
	warnCreate     func(ctx context.Context, obj runtime.Object) []string
	canonicalize   func(obj runtime.Object)
	changes        map[Change]changeRules
	selectable     map[string]func(runtime.Object) string // on the stored version
	grace          func(obj runtime.Object, o *metav1.DeleteOptions) bool
}

type changeRules struct {
	prepare  func(obj, old runtime.Object)
	validate func(obj, old runtime.Object, gv schema.GroupVersion) field.ErrorList
	warn     func(ctx context.Context, obj, old runtime.Object) []string
}

// PrepareCreate clears what a client may not set on creation.
func (k *Kind) PrepareCreate(obj runtime.Object) {
	if k.rules.prepareCreate != nil {
		k.rules.prepareCreate(obj)
	}
}

// ValidateCreate returns what is wrong with a new object.
func (k *Kind) ValidateCreate(obj runtime.Object) field.ErrorList {
	return k.rules.validateCreate(obj, k.GroupVersion())
}

// WarnCreate returns what is unwise about a new object.
func (k *Kind) WarnCreate(ctx context.Context, obj runtime.Object) []string {
	if k.rules.warnCreate == nil {
		return nil
	}
	return k.rules.warnCreate(ctx, obj)
}

// Canonicalize brings a valid object into its stored shape.
func (k *Kind) Canonicalize(obj runtime.Object) {
	if k.rules.canonicalize != nil {
		k.rules.canonicalize(obj)
	}
}

// Allows reports whether the kind has a subresource that changes part c.
func (k *Kind) Allows(c Change) bool {
	_, ok := k.rules.changes[c]
	return ok
}

// PrepareUpdate resets in obj all that part c does not cover to what old has,
// and raises the generation where the kind's rules say so.
func (k *Kind) PrepareUpdate(c Change, obj, old runtime.Object) {
	if r := k.rules.changes[c]; r.prepare != nil {
		r.prepare(obj, old)
	}
}

// ValidateUpdate returns what is wrong with the change from old to obj.
func (k *Kind) ValidateUpdate(c Change, obj, old runtime.Object) field.ErrorList {
	if r := k.rules.changes[c]; r.validate != nil {
		return r.validate(obj, old, k.GroupVersion())
	}
	return nil
}

// WarnUpdate returns what is unwise about the change from old to obj.
func (k *Kind) WarnUpdate(ctx context.Context, c Change, obj, old runtime.Object) []string {
	if r := k.rules.changes[c]; r.warn != nil {
		return r.warn(ctx, obj, old)
	}
	return nil
}

// Grace decides whether obj is deleted gracefully, and sets the seconds in o.
func (k *Kind) Grace(obj runtime.Object, o *metav1.DeleteOptions) (graceful bool) {
	return k.rules.grace != nil && k.rules.grace(obj, o)
}
