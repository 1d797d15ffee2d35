package apiserver

import (
	"errors"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"gantry/internal/problem"
)

// result is an answer: an entry in its shared encoding, or any other object.
type result struct {
	code  int
	entry *entry // of the request's kind
	obj   runtime.Object
	gvk   schema.GroupVersionKind // of obj
}

// send writes the result of a request about one object.
func (req *request) send(res result) error {
	if res.code == 0 {
		res.code = http.StatusOK
	}
	if res.entry == nil {
		return req.sendObject(res.code, res.obj, res.gvk)
	}
	switch req.out.shape {
	case shapeTable:
		t, err := req.tableOf(res.entry, true)
		if err != nil {
			return err
		}
		return req.sendObject(res.code, t, tableGVK)
	case shapePartial:
		return req.sendObject(res.code, partialOf(res.entry), partialGVK)
	}
	body, err := req.wholeEncoding(res.entry)
	if err != nil {
		return err
	}
	req.sendBytes(res.code, body)
	return nil
}

// wholeEncoding is e as a document of its own.
func (req *request) wholeEncoding(e *entry) ([]byte, error) {
	raw, err := e.encoded(req.kind, req.out.format)
	if err != nil {
		return nil, err
	}
	switch req.out.format {
	case formatProto:
		return appendUnknown(make([]byte, 0, len(raw)+64), req.kind.protoHead, raw), nil
	case formatYAML:
		return yaml.JSONToYAML(raw)
	}
	return append(raw[:len(raw):len(raw)], '\n'), nil
}

// encodeObject encodes an object that no entry holds.
func encodeObject(f format, obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	if f == formatProto {
		raw, err := encodeProto(obj)
		if err != nil {
			return nil, err
		}
		return appendUnknown(nil, protoHead(apiVersion, kind), raw), nil
	}
	head := jsonHead(apiVersion, kind)
	obj = shallowCopy(obj)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	body, err := encodeJSON(obj, head)
	if err != nil {
		return nil, err
	}
	if f == formatYAML {
		return yaml.JSONToYAML(body)
	}
	return append(body, '\n'), nil
}

func (req *request) sendObject(code int, obj runtime.Object, gvk schema.GroupVersionKind) error {
	body, err := encodeObject(req.out.format, obj, gvk)
	if err != nil {
		return err
	}
	req.sendBytes(code, body)
	return nil
}

func (req *request) sendBytes(code int, body []byte) {
	h := req.w.Header()
	h.Set("Content-Type", req.out.format.mediaType())
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	req.w.WriteHeader(code)
	if w, ok := req.w.(interface{ give([]byte) }); ok {
		w.give(body)
		return
	}
	_, _ = req.w.Write(body) // the client is gone if this fails
}

// fail writes err as the Status that clients know.
func (req *request) fail(err error) {
	status := statusOf(err)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		req.w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	body, err := encodeObject(req.out.format, status, statusGVK)
	if err != nil {
		http.Error(req.w, err.Error(), http.StatusInternalServerError)
		return
	}
	req.sendBytes(int(status.Code), body)
}

// statusOf maps errors to the API's Status, the one place where that is done.
func statusOf(err error) *metav1.Status {
	if s := apierrors.APIStatus(nil); errors.As(err, &s) {
		status := s.Status()
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
		}
		if status.Status == "" {
			status.Status = metav1.StatusFailure
		}
		return &status
	}
	code, reason := http.StatusInternalServerError, metav1.StatusReasonUnknown
	switch {
	case errors.Is(err, problem.Unavailable):
		code, reason = http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	case errors.Is(err, problem.NotFound):
		code, reason = http.StatusNotFound, metav1.StatusReasonNotFound
	case errors.Is(err, problem.NoSpace):
		code, reason = http.StatusInsufficientStorage, metav1.StatusReasonStoreReadError
	}
	return &metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: err.Error()}
}

// success is the Status of a removal.
func success(req *request, e *entry) result {
	return result{gvk: statusGVK, obj: &metav1.Status{
		Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{
			Name: e.meta.GetName(), Group: req.kind.Group, Kind: req.kind.Plural, UID: e.meta.GetUID(),
		},
	}}
}
