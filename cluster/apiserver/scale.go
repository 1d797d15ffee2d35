package apiserver

import (
	"fmt"
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"gantry/cluster/resource"
)

var scaleGVK = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleOf is the scale of a workload, of its stored version.
func scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	sc := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{
		Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(),
		ResourceVersion: m.GetResourceVersion(), CreationTimestamp: m.GetCreationTimestamp(),
	}}
	var selector *metav1.LabelSelector
	switch o := obj.(type) {
	case *appsv1.Deployment:
		sc.Spec.Replicas, sc.Status.Replicas, selector = *replicasOf(obj), o.Status.Replicas, o.Spec.Selector
	case *appsv1.ReplicaSet:
		sc.Spec.Replicas, sc.Status.Replicas, selector = *replicasOf(obj), o.Status.Replicas, o.Spec.Selector
	default:
		return nil, fmt.Errorf("%T has no scale", obj)
	}
	sel, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, err
	}
	sc.Status.Selector = sel.String()
	return sc, nil
}

// replicasOf is where a workload keeps its wanted number.
func replicasOf(obj runtime.Object) *int32 {
	var at **int32
	switch o := obj.(type) {
	case *appsv1.Deployment:
		at = &o.Spec.Replicas
	case *appsv1.ReplicaSet:
		at = &o.Spec.Replicas
	default:
		return nil
	}
	if *at == nil {
		one := int32(1)
		*at = &one
	}
	return *at
}

func (s *Server) serveScale(req *request) error {
	switch req.path.verb {
	case "get":
		if err := s.atLeast(req.r.Context(), req.query.Get("resourceVersion")); err != nil {
			return err
		}
		e := req.kind.cache.get(req.key(req.path.name))
		if e == nil {
			return apierrors.NewNotFound(req.kind.GR(), req.path.name)
		}
		return req.sendScale(e)
	case "update", "patch":
		return s.changeScale(req)
	}
	return methodNotAllowed(req)
}

func (req *request) sendScale(e *entry) error {
	sc, err := scaleOf(e.obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	req.out.shape = shapeObject
	return req.sendObject(http.StatusOK, sc, scaleGVK)
}

// changeScale writes spec.replicas of the workload.
func (s *Server) changeScale(req *request) error {
	var opts metav1.PatchOptions // the update's are the same but for force
	if err := metav1.Convert_url_Values_To_v1_PatchOptions(&req.query, &opts, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	body, err := req.readBody()
	if err != nil {
		return err
	}
	e, _, err := s.change(req, change{
		part:         resource.Main,
		writeOptions: writeOptions{dryRun: isDryRun(opts.DryRun), manager: opts.FieldManager},
		produce: func(cur *entry) (runtime.Object, error) {
			want, err := s.wantedScale(req, cur, body)
			if err != nil {
				return nil, err
			}
			obj := cur.obj.DeepCopyObject()
			m, err := meta.Accessor(obj)
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			m.SetResourceVersion(want.ResourceVersion)
			if want.UID != "" {
				m.SetUID(want.UID)
			}
			*replicasOf(obj) = want.Spec.Replicas
			return s.trackUpdate(req, "scale", cur, obj, opts.FieldManager)
		},
	})
	if err != nil {
		return err
	}
	return req.sendScale(e)
}

// wantedScale is the body of an update, or the current scale patched by it.
func (s *Server) wantedScale(req *request, cur *entry, body []byte) (*autoscalingv1.Scale, error) {
	contentType := req.r.Header.Get("Content-Type")
	if req.path.verb == "patch" {
		sc, err := scaleOf(cur.obj)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		sc.ResourceVersion = ""
		if body, err = patchScale(sc, types.PatchType(contentType), body); err != nil {
			return nil, err
		}
		contentType = typeJSON
	}
	obj, err := s.decode(req, body, contentType, scaleGVK)
	if err != nil {
		return nil, err
	}
	want := obj.(*autoscalingv1.Scale)
	if want.Name != "" && want.Name != req.path.name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", want.Name, req.path.name))
	}
	if want.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(scaleGVK.GroupKind(), req.path.name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), want.Spec.Replicas, "must be greater than or equal to 0").WithOrigin("minimum")})
	}
	return want, nil
}

// patchScale applies a patch to the current scale and returns its encoding.
func patchScale(sc *autoscalingv1.Scale, t types.PatchType, patch []byte) ([]byte, error) {
	before, err := encodeObject(formatJSON, sc, scaleGVK)
	if err != nil {
		return nil, err
	}
	var after []byte
	switch t {
	case types.JSONPatchType:
		after, _, err = applyJSONPatch(before, patch)
	case types.MergePatchType:
		after, _, err = applyMergePatch(before, patch)
	case types.StrategicMergePatchType:
		merged, _, _, mergeErr := mergeStrategic(sc, patch, &autoscalingv1.Scale{})
		if mergeErr != nil {
			return nil, mergeErr
		}
		return encodeObject(formatJSON, merged, scaleGVK)
	default:
		return nil, unsupportedMedia(patchTypes[:3]...)
	}
	return after, err
}
