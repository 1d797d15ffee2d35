package resource

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// FieldSelector parses a field selector for the kind, with the reference's
// words for a field that cannot be selected by.
func (k *Kind) FieldSelector(s string) (fields.Selector, error) {
	sel, err := fields.ParseSelector(s)
	if err != nil {
		return nil, err
	}
	return sel.Transform(func(label, value string) (string, string, error) {
		return Scheme.ConvertFieldLabel(k.GroupVersionKind, label, value)
	})
}

// MatchFields reports whether a stored object meets sel.
func (k *Kind) MatchFields(sel fields.Selector, obj runtime.Object) bool {
	return sel.Matches(fieldView{k, obj})
}

// fieldView reads selectable fields one by one; a map of all would be built
// for every object and watcher.
type fieldView struct {
	kind *Kind
	obj  runtime.Object
}

func (v fieldView) Has(name string) bool {
	return name == "metadata.name" || name == "metadata.namespace" || v.kind.rules.selectable[name] != nil
}

func (v fieldView) Get(name string) string {
	switch name {
	case "metadata.name", "metadata.namespace":
		m, err := meta.Accessor(v.obj)
		if err != nil {
			return ""
		}
		if name == "metadata.name" {
			return m.GetName()
		}
		return m.GetNamespace()
	}
	if f := v.kind.rules.selectable[name]; f != nil {
		return f(v.obj)
	}
	return ""
}

// SelectableFields lists what FieldSelector accepts beyond name and namespace.
func (k *Kind) SelectableFields() []string {
	var out []string
	for name := range k.rules.selectable {
		out = append(out, name)
	}
	return out
}
