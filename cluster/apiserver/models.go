package apiserver

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/generated/openapi"

	"gantry/cluster/resource"
)

// Where a document keeps its schemas.
const (
	refsV3 = "#/components/schemas/"
	refsV2 = "#/definitions/"
)

// models picks from upstream's 1400 schemas those that a document refers to.
// All are built at once, which takes 13 ms and 6 MB; nothing keeps them.
type models struct {
	refs    string
	all     map[string]common.OpenAPIDefinition
	schemas map[string]*spec.Schema
}

func newModels(refs string) *models {
	return &models{
		refs:    refs,
		all:     openapi.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef(refs + name) }),
		schemas: map[string]*spec.Schema{},
	}
}

// modelName is what the schemas call a kind.
func modelName(gvk schema.GroupVersionKind) string {
	if gvk == patchModel {
		return metav1.Patch{}.OpenAPIModelName()
	}
	obj, err := resource.Scheme.New(gvk)
	if err != nil {
		return ""
	}
	if named, ok := obj.(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	return ""
}

// add takes in the schema of a kind and all that it refers to, and returns a
// reference to it; nil if there is none.
func (m *models) add(gvk schema.GroupVersionKind) *spec.Schema {
	name := modelName(gvk)
	if _, ok := m.all[name]; name == "" || !ok {
		return nil
	}
	m.take(name)
	s := m.schemas[name]
	if gvk == patchModel {
		return m.ref(name) // a body, but not an object
	}
	if s.Extensions == nil {
		s.Extensions = spec.Extensions{}
	}
	s.Extensions["x-kubernetes-group-version-kind"] = []any{gvkExtension(gvk)}
	return m.ref(name)
}

func (m *models) ref(name string) *spec.Schema {
	return &spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(m.refs + name)}}
}

func (m *models) take(name string) {
	def, ok := m.all[name]
	if m.schemas[name] != nil || !ok {
		return
	}
	s := def.Schema
	if m.refs == refsV2 {
		if v2, ok := def.Schema.Extensions[common.ExtensionV2Schema].(spec.Schema); ok {
			s = v2
		}
	}
	m.schemas[name] = &s
	for _, dep := range def.Dependencies {
		m.take(dep)
	}
}

func gvkExtension(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// Models that bodies and answers use beside the kinds.
var (
	statusModel        = schema.GroupVersionKind{Version: "v1", Kind: "Status"}
	deleteOptionsModel = schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	patchModel         = schema.GroupVersionKind{Version: "v1", Kind: "Patch"} // not in the scheme
)

// schemas is the typed schema of every stored kind, for server-side apply, made
// on the first request that needs it.
var schemas = sync.OnceValues(func() (managedfields.TypeConverter, error) {
	m := newModels(refsV3)
	for _, k := range resource.Kinds() {
		m.add(k.GroupVersionKind)
	}
	return managedfields.NewTypeConverter(m.schemas, false)
})
