package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"gantry/cluster/resource"
)

// entry is one object at one revision. It never changes; all readers and
// watchers share it and its encodings.
type entry struct {
	key  string
	rev  int64
	obj  runtime.Object // stored version, resourceVersion set, no kind
	meta metav1.Object  // of obj

	json, proto atomic.Pointer[[]byte] // encodings of obj, made when first asked for
}

// newEntry takes over obj.
func newEntry(key string, rev int64, obj runtime.Object) (*entry, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(strconv.FormatInt(rev, 10))
	return &entry{key: key, rev: rev, obj: obj, meta: m}, nil
}

// encodeJSON returns {"kind":...,"apiVersion":...,rest of obj}.
func encodeJSON(obj runtime.Object, head string) ([]byte, error) {
	body, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	if len(body) < 2 || body[0] != '{' {
		return nil, fmt.Errorf("%T encodes to something other than an object", obj)
	}
	out := make([]byte, 0, len(head)+len(body))
	out = append(out, head...)
	if bytes.Equal(body, []byte("{}")) {
		out = out[:len(out)-1] // the comma
		return append(out, '}'), nil
	}
	return append(out, body[1:]...), nil
}

// jsonHead is how every encoding of kind begins; the rest is a list's item.
func jsonHead(apiVersion, kind string) string {
	return fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, kind, apiVersion)
}

type protoMessage interface{ Marshal() ([]byte, error) }

func encodeProto(obj runtime.Object) ([]byte, error) {
	m, ok := obj.(protoMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf encoding", obj)
	}
	return m.Marshal()
}

// encoded returns e in the served version of k, in format f, without wrapping.
func (e *entry) encoded(k *kind, f format) ([]byte, error) {
	cached := &e.json
	if f == formatProto {
		cached = &e.proto
	}
	shared := k.Storage == k.GroupVersion()
	if shared {
		if b := cached.Load(); b != nil {
			return *b, nil
		}
	}
	obj, err := k.served(e.obj)
	if err != nil {
		return nil, err
	}
	var b []byte
	if f == formatProto {
		b, err = encodeProto(obj)
	} else {
		b, err = encodeJSON(obj, k.jsonHead)
	}
	if err != nil {
		return nil, err
	}
	if shared {
		cached.Store(&b)
	}
	return b, nil
}

// forget drops the encodings, which the next reader makes again.
func (e *entry) forget() {
	e.json.Store(nil)
	e.proto.Store(nil)
}

// kind is a row of the table with what the server keeps beside it.
type kind struct {
	*resource.Kind
	jsonHead  string
	protoHead []byte // runtime.Unknown's type field, after the magic number
	cache     *cache // shared by the rows with the same storage
}

func newKind(k *resource.Kind, c *cache) *kind {
	return &kind{
		Kind:      k,
		jsonHead:  jsonHead(k.GroupVersion().String(), k.Kind),
		protoHead: protoHead(k.GroupVersion().String(), k.Kind),
		cache:     c,
	}
}

// served converts a stored object to the served version; it is the same one
// where both are the same.
func (k *kind) served(obj runtime.Object) (runtime.Object, error) {
	if k.Storage == k.GroupVersion() {
		return obj, nil
	}
	internal, err := k.Internal(obj)
	if err != nil {
		return nil, err
	}
	return k.ToServed(internal)
}
