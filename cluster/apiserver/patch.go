package apiserver

import (
	"errors"
	"fmt"
	"mime"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"gantry/cluster/resource"
)

// maxPatchOperations is upstream's bound of a JSON patch.
const maxPatchOperations = 10000

// patchTypes are the accepted content types, in the order of the reference's message.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType),
	string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}

func (s *Server) servePatch(req *request, part resource.Change) error {
	var opts metav1.PatchOptions
	if err := metav1.Convert_url_Values_To_v1_PatchOptions(&req.query, &opts, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	media, _, err := mime.ParseMediaType(req.r.Header.Get("Content-Type"))
	patchType := types.PatchType(media)
	if err != nil || !knownPatch(patchType) {
		return unsupportedMedia(patchTypes...)
	}
	if errs := validation.ValidatePatchOptions(&opts, patchType); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", errs)
	}
	body, err := req.readBody()
	if err != nil {
		return err
	}
	ch := change{part: part, patch: true, writeOptions: writeOptions{dryRun: isDryRun(opts.DryRun), manager: opts.FieldManager}}
	if patchType == types.ApplyYAMLPatchType {
		ch.create = part == resource.Main
		ch.produce, err = s.applier(req, part, body, opts)
	} else {
		ch.produce, err = s.patcher(req, part, patchType, body, opts)
	}
	if err != nil {
		return err
	}
	e, created, err := s.change(req, ch)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return req.send(result{code: code, entry: e})
}

func knownPatch(t types.PatchType) bool {
	for _, known := range patchTypes {
		if string(t) == known {
			return true
		}
	}
	return false
}

// patcher returns how the three kinds of patches change an object.
func (s *Server) patcher(req *request, part resource.Change, t types.PatchType, patch []byte, opts metav1.PatchOptions) (func(*entry) (runtime.Object, error), error) {
	directive, err := req.fieldValidation()
	if err != nil {
		return nil, err
	}
	return func(cur *entry) (runtime.Object, error) {
		var obj runtime.Object
		var strict []error
		var shown string // what an error shows as the patch
		var err error
		if t == types.StrategicMergePatchType {
			obj, strict, shown, err = s.patchedStrategic(req, cur, patch)
		} else {
			obj, strict, shown, err = s.patchedJSON(req, cur, t, patch)
		}
		if err != nil {
			return nil, err
		}
		switch directive {
		case metav1.FieldValidationWarn:
			for i := range strict[:min(len(strict), maxStrictErrors)] {
				req.warn(strict[i].Error())
			}
		case metav1.FieldValidationStrict:
			if len(strict) > 0 {
				return nil, invalidPatch(shown, runtime.NewStrictDecodingError(strict))
			}
		}
		resource.Scheme.Default(obj)
		if err := req.checkIdentity(obj); err != nil {
			return nil, err
		}
		return s.trackUpdate(req, part, cur, s.untyped(obj), opts.FieldManager)
	}, nil
}

// checkIdentity refuses a patch that moves an object.
func (req *request) checkIdentity(obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if err := req.setNamespace(m); err != nil {
		return err
	}
	if m.GetName() != req.path.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), req.path.name))
	}
	return nil
}

// patchedJSON applies a JSON or a merge patch to the encoding of cur.
func (s *Server) patchedJSON(req *request, cur *entry, t types.PatchType, patch []byte) (obj runtime.Object, strict []error, shown string, err error) {
	before, err := cur.encoded(req.kind, formatJSON)
	if err != nil {
		return nil, nil, "", err
	}
	var after []byte
	if t == types.JSONPatchType {
		after, strict, err = applyJSONPatch(before, patch)
	} else {
		after, strict, err = applyMergePatch(before, patch)
	}
	if err != nil {
		return nil, nil, "", err
	}
	obj, gvk, err := s.feed.codec.strict.Decode(after, &req.kind.GroupVersionKind, nil)
	if unknown, ok := runtime.AsStrictDecodingError(err); ok && obj != nil {
		strict, err = append(strict, unknown.Errors()...), nil
	}
	if err == nil && *gvk != req.kind.GroupVersionKind {
		err = fmt.Errorf("unable to decode %s: no kind %q is registered for version %q", req.kind.GroupVersionKind, gvk.Kind, gvk.GroupVersion())
	}
	if err != nil {
		return nil, nil, "", invalidPatch(string(after), err)
	}
	return obj, strict, string(after), nil
}

func invalidPatch(shown string, why error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{
		field.Invalid(field.NewPath("patch"), shown, why.Error())})
}

func applyJSONPatch(doc, patch []byte) (after []byte, strict []error, err error) {
	var operations []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		From  string `json:"from"`
		Value any    `json:"value"`
	}
	unknown, err := kjson.UnmarshalStrict(patch, &operations)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	for _, e := range unknown {
		strict = append(strict, fmt.Errorf("json patch %v", e))
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(p) > maxPatchOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(p)))
	}
	out, err := p.Apply(doc)
	if err != nil {
		return nil, nil, unprocessable(err)
	}
	return out, strict, nil
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

func applyMergePatch(doc, patch []byte) (after []byte, strict []error, err error) {
	var m map[string]any
	strict, err = kjson.UnmarshalStrict(patch, &m)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	out, err := jsonpatch.MergePatch(doc, patch)
	if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return out, strict, err
}

// patchedStrategic merges patch into the fields of cur, without a detour over
// text: controllers and kubelets send little else.
func (s *Server) patchedStrategic(req *request, cur *entry, patch []byte) (obj runtime.Object, strict []error, shown string, err error) {
	served, err := req.kind.served(cur.obj)
	if err != nil {
		return nil, nil, "", apierrors.NewInternalError(err)
	}
	return mergeStrategic(served, patch, req.kind.New())
}

// mergeStrategic merges patch into cur, writing the result to obj.
func mergeStrategic(cur runtime.Object, patch []byte, obj runtime.Object) (_ runtime.Object, strict []error, shown string, err error) {
	change := map[string]any{}
	if strict, err = kjson.UnmarshalStrict(patch, &change); err != nil {
		return nil, nil, "", apierrors.NewBadRequest(err.Error())
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(cur)
	if err != nil {
		return nil, nil, "", apierrors.NewInternalError(err)
	}
	shown = fmt.Sprintf("%+v", change)
	merged, err := strategicpatch.StrategicMergeMapPatch(fields, change, obj)
	if err != nil {
		return nil, nil, "", patchError(err)
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, obj, true)
	if unknown, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = append(strict, unknown.Errors()...), nil
	}
	if err != nil {
		return nil, nil, "", invalidPatch(shown, err)
	}
	return obj, strict, shown, nil
}

// patchError tells a bad patch from one that does not fit the object.
func patchError(err error) error {
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return apierrors.NewBadRequest(err.Error())
	case errors.Is(err, mergepatch.ErrNoListOfLists), errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys):
		return unprocessable(err)
	}
	return err
}
