package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// typed is rules with the kind's own types: T internal, S as stored.
type typed[T, S any] struct {
	group          string
	prepareCreate  func(*T)
	validateCreate func(*T, schema.GroupVersion) field.ErrorList
	warnCreate     func(context.Context, *T) []string
	canonicalize   func(*T)
	changes        map[Change]typedChange[T]
	selectable     map[string]func(*S) string
	grace          func(*T, *metav1.DeleteOptions) bool
}

type typedChange[T any] struct {
	prepare  func(obj, old *T)
	validate func(obj, old *T, gv schema.GroupVersion) field.ErrorList
	warn     func(ctx context.Context, obj, old *T) []string
}

// as returns obj as its concrete type. Every object of a kind was converted by
// the scheme before it gets here, so a mismatch is a broken table.
func as[T any](obj runtime.Object) *T { return any(obj).(*T) }

// rules erases the types.
func (t typed[T, S]) rules() rules {
	r := rules{group: t.group, changes: map[Change]changeRules{}, selectable: map[string]func(runtime.Object) string{}}
	if f := t.prepareCreate; f != nil {
		r.prepareCreate = func(obj runtime.Object) { f(as[T](obj)) }
	}
	r.validateCreate = func(obj runtime.Object, gv schema.GroupVersion) field.ErrorList {
		return t.validateCreate(as[T](obj), gv)
	}
	if f := t.warnCreate; f != nil {
		r.warnCreate = func(ctx context.Context, obj runtime.Object) []string { return f(ctx, as[T](obj)) }
	}
	if f := t.canonicalize; f != nil {
		r.canonicalize = func(obj runtime.Object) { f(as[T](obj)) }
	}
	if f := t.grace; f != nil {
		r.grace = func(obj runtime.Object, o *metav1.DeleteOptions) bool { return f(as[T](obj), o) }
	}
	for name, f := range t.selectable {
		r.selectable[name] = func(obj runtime.Object) string { return f(as[S](obj)) }
	}
	for part, c := range t.changes {
		r.changes[part] = c.rules()
	}
	return r
}

func (c typedChange[T]) rules() changeRules {
	var r changeRules
	if f := c.prepare; f != nil {
		r.prepare = func(obj, old runtime.Object) { f(as[T](obj), as[T](old)) }
	}
	if f := c.validate; f != nil {
		r.validate = func(obj, old runtime.Object, gv schema.GroupVersion) field.ErrorList {
			return f(as[T](obj), as[T](old), gv)
		}
	}
	if f := c.warn; f != nil {
		r.warn = func(ctx context.Context, obj, old runtime.Object) []string {
			return f(ctx, as[T](obj), as[T](old))
		}
	}
	return r
}

// create and update fit upstream's validation functions, most of which do not
// ask for the version, to the hooks.
func create[T any](f func(*T) field.ErrorList) func(*T, schema.GroupVersion) field.ErrorList {
	return func(obj *T, _ schema.GroupVersion) field.ErrorList { return f(obj) }
}

func update[T any](f func(obj, old *T) field.ErrorList) func(obj, old *T, _ schema.GroupVersion) field.ErrorList {
	return func(obj, old *T, _ schema.GroupVersion) field.ErrorList { return f(obj, old) }
}

// valid joins the checks of an object itself with those of its change.
func valid[T any](self func(*T) field.ErrorList, change func(obj, old *T) field.ErrorList) func(obj, old *T, _ schema.GroupVersion) field.ErrorList {
	return func(obj, old *T, _ schema.GroupVersion) field.ErrorList {
		return append(self(obj), change(obj, old)...)
	}
}
