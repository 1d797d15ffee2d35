package apiserver

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"gantry/cluster/resource"
)

// maxBody is upstream's bound of a request body.
const maxBody = 3 << 20

// maxStrictErrors is how many unknown fields are named at once.
const maxStrictErrors = 20

func (req *request) readBody() ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(req.r.Body, maxBody+1))
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error reading body: %v", err))
	}
	if len(body) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return body, nil
}

// bodyDecoder picks the decoder of the request's content type.
func (s *Server) bodyDecoder(contentType string, strict bool) (runtime.Decoder, error) {
	c := s.feed.codec
	media, _, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		media, err = typeJSON, nil
	}
	switch {
	case err == nil && media == typeJSON && strict:
		return c.strict, nil
	case err == nil && media == typeJSON:
		return c.json, nil
	case err == nil && media == typeYAML && strict:
		return c.strictYAML, nil
	case err == nil && media == typeYAML:
		return c.yaml, nil
	case err == nil && media == typeProto:
		return c.proto, nil
	}
	return nil, unsupportedMedia(typeJSON, typeYAML, typeProto)
}

func unsupportedMedia(accepted ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusUnsupportedMediaType,
		Reason:  metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + strings.Join(accepted, ", "),
	}}
}

// decodeBody decodes the body as an object of want, with defaults.
func (s *Server) decodeBody(req *request, want schema.GroupVersionKind) (runtime.Object, error) {
	body, err := req.readBody()
	if err != nil {
		return nil, err
	}
	return s.decode(req, body, req.r.Header.Get("Content-Type"), want)
}

func (s *Server) decode(req *request, body []byte, contentType string, want schema.GroupVersionKind) (runtime.Object, error) {
	directive, err := req.fieldValidation()
	if err != nil {
		return nil, err
	}
	decoder, err := s.bodyDecoder(contentType, directive != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, err
	}
	obj, gvk, err := decoder.Decode(body, &want, nil)
	if err != nil {
		strict, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict || obj == nil || directive != metav1.FieldValidationWarn {
			return nil, decodeError(err, want, gvk, body)
		}
		for i, e := range strict.Errors() {
			if i == maxStrictErrors {
				break
			}
			req.warn(e.Error())
		}
	}
	if gvk.GroupVersion() != want.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			gvk.GroupVersion(), want.GroupVersion()))
	}
	if gvk.Kind != want.Kind {
		return nil, decodeError(fmt.Errorf("converting (%s) to (%s): unknown conversion", gvk.Kind, want.Kind), want, gvk, body)
	}
	resource.Scheme.Default(obj)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return obj, nil
}

// fieldValidation is what to do about fields that the kind does not have.
func (req *request) fieldValidation() (string, error) {
	switch v := req.query.Get("fieldValidation"); v {
	case "":
		return metav1.FieldValidationWarn, nil
	case metav1.FieldValidationWarn, metav1.FieldValidationStrict, metav1.FieldValidationIgnore:
		return v, nil
	default:
		kind := map[string]string{"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}[req.path.verb]
		return "", apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", badFieldValidation(v))
	}
}

// decodeError words a failed decoding as the reference does.
func decodeError(err error, want schema.GroupVersionKind, gvk *schema.GroupVersionKind, body []byte) error {
	if gvk != nil && gvk.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, want.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(body)))
}

// summary shows the beginning of a body that is not understood.
func summary(body []byte) string {
	const shown = 30
	binary := false
	for _, b := range body[:min(len(body), shown)] {
		binary = binary || b < ' ' && b != '\n' && b != '\r' && b != '\t' || b >= 0x7f
	}
	switch {
	case len(body) == 0:
		return "<empty>"
	case binary && len(body) > shown:
		return fmt.Sprintf("%x ...", body[:shown])
	case binary:
		return fmt.Sprintf("%x", body)
	case len(body) > shown:
		return fmt.Sprintf("%s ...", body[:shown])
	}
	return string(body)
}
