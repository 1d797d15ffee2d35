package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gantry/cluster/resource"
)

func podKind(t testing.TB) (*Server, *kind) {
	for _, row := range resource.Kinds() {
		if row.Plural == "pods" {
			f := newFeed(nil, newCodec())
			return &Server{feed: f}, newKind(row, f.cacheOf(row.Prefix))
		}
	}
	t.Fatal("no pods in the table")
	return nil, nil
}

// FuzzDecodeBody: whatever a client sends is an object or a Status, never a
// panic, and an object can be validated.
func FuzzDecodeBody(f *testing.F) {
	f.Add([]byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`), "application/json")
	f.Add([]byte("kind: Pod\napiVersion: v1\nspec: {foo: 1}\n"), "application/yaml")
	f.Add(append([]byte("k8s\x00\n\x09\n\x02v1\x12\x03Pod\x12"), 0), "application/vnd.kubernetes.protobuf")
	f.Add([]byte("\xff\x00"), "")
	s, k := podKind(f)
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		req := &request{kind: k, w: httptest.NewRecorder(), query: url.Values{}}
		obj, err := s.decode(req, body, contentType, k.GroupVersionKind)
		if err != nil {
			if status := statusOf(err); status.Code < 400 || status.Message == "" {
				t.Errorf("%q: %+v", body, status)
			}
			return
		}
		internal, err := k.Internal(obj)
		if err != nil {
			t.Fatalf("%q decodes but does not convert: %v", body, err)
		}
		k.PrepareCreate(internal)
		k.ValidateCreate(internal)
	})
}

func FuzzSelectors(f *testing.F) {
	f.Add("a=b,c!=d,e in (f,g)", "metadata.name=x,status.phase!=Running", "")
	f.Add("!a", "spec.nodeName=", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJ4In0")
	_, k := podKind(f)
	e, err := newEntry("/registry/pods/default/p", 1, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, label, field, cont string) {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
		req := &request{kind: k, r: r, query: url.Values{"labelSelector": {label}, "fieldSelector": {field}, "continue": {cont}}}
		sel, err := req.selection()
		if err == nil {
			sel.match(e)
		}
		if rev, after, err := decodeToken(cont, "/registry/pods/"); err == nil && (rev == 0 || !strings.HasPrefix(after, "/registry/pods/")) {
			t.Errorf("token %q leads to %d %q", cont, rev, after)
		}
	})
}

func FuzzPatches(f *testing.F) {
	f.Add([]byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`))
	f.Add([]byte(`{"metadata":{"labels":{"a":null}},"spec":{"containers":[{"name":"c","$patch":"delete"}]}}`))
	f.Add([]byte(`{"spec":{"$setElementOrder/containers":[{"name":"c"}],"$retainKeys":["x"]}}`))
	s, k := podKind(f)
	cur, err := newEntry("/registry/pods/default/p", 1, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		req := &request{kind: k, query: url.Values{}}
		if _, _, _, err := s.patchedStrategic(req, cur, patch); err != nil {
			statusOf(err)
		}
		for _, typ := range []types.PatchType{types.JSONPatchType, types.MergePatchType} {
			if _, _, _, err := s.patchedJSON(req, cur, typ, patch); err != nil {
				statusOf(err)
			}
		}
		if pod := cur.obj.(*corev1.Pod); pod.Spec.Containers[0].Image != "i" || len(pod.Labels) != 0 {
			t.Fatalf("patch %q changed the cached object: %+v", patch, pod)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/api/v1/namespaces/default/pods/p/exec", "/apis/apps/v1/deployments", "/api/v1/namespaces/x/finalize", "/api//", "/apis"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if out, ok := parsePath(p); ok && out.version == "" && !strings.Contains(p, "//") {
			t.Errorf("%q has no version: %+v", p, out)
		}
	})
}

func FuzzAccept(f *testing.F) {
	f.Add("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	f.Add("application/vnd.kubernetes.protobuf,application/json;q=0.5")
	f.Fuzz(func(t *testing.T, accept string) {
		if out, err := negotiate(accept); err == nil && out.format == formatProto && out.shape == shapeTable {
			t.Errorf("%q asks for a table in protobuf, which does not exist", accept)
		}
	})
}
