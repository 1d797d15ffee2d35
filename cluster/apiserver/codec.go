package apiserver

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"gantry/cluster/resource"
	"gantry/cluster/store"
)

// codec decodes and encodes objects outside of the shared encodings.
type codec struct {
	json, strict *json.Serializer
	yaml         *json.Serializer
	strictYAML   *json.Serializer
	proto        *protobuf.Serializer
	versions     map[schema.GroupKind]schema.GroupVersion // in storage
}

func newCodec() *codec {
	serializer := func(o json.SerializerOptions) *json.Serializer {
		return json.NewSerializerWithOptions(json.DefaultMetaFactory, resource.Scheme, resource.Scheme, o)
	}
	return &codec{
		json:       serializer(json.SerializerOptions{}),
		strict:     serializer(json.SerializerOptions{Strict: true}),
		yaml:       serializer(json.SerializerOptions{Yaml: true}),
		strictYAML: serializer(json.SerializerOptions{Yaml: true, Strict: true}),
		proto:      protobuf.NewSerializer(resource.Scheme, resource.Scheme),
		versions:   map[schema.GroupKind]schema.GroupVersion{},
	}
}

// entry decodes a record. Values that upstream or an older server left in JSON
// are read too.
func (c *codec) entry(r store.Record) (*entry, error) {
	var obj runtime.Object
	var gvk *schema.GroupVersionKind
	var err error
	if bytes.HasPrefix(r.Value, protoMagic) {
		obj, gvk, err = c.proto.Decode(r.Value, nil, nil)
	} else {
		obj, gvk, err = c.json.Decode(r.Value, nil, nil)
	}
	if err != nil {
		return nil, err
	}
	resource.Scheme.Default(obj)
	if want, ok := c.versions[gvk.GroupKind()]; ok && want != gvk.GroupVersion() {
		if obj, err = resource.Scheme.ConvertToVersion(obj, want); err != nil {
			return nil, fmt.Errorf("convert %s to %s: %w", gvk, want, err)
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return newEntry(r.Key, r.Revision, obj)
}

// stored encodes obj, a stored-version object without a resourceVersion, as
// upstream stores it.
func (c *codec) stored(k *kind, obj runtime.Object) ([]byte, error) {
	raw, err := encodeProto(obj)
	if err != nil {
		return nil, err
	}
	head := k.protoHead
	if k.Storage != k.GroupVersion() {
		head = protoHead(k.Storage.String(), k.Kind.Kind)
	}
	return appendUnknown(make([]byte, 0, len(head)+len(raw)+16), head, raw), nil
}
