package apiserver

import (
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type format int

const (
	formatJSON format = iota
	formatYAML
	formatProto
)

const (
	typeJSON  = "application/json"
	typeYAML  = "application/yaml"
	typeProto = "application/vnd.kubernetes.protobuf"
)

func (f format) mediaType() string {
	return [...]string{typeJSON, typeYAML, typeProto}[f]
}

// shape is what an answer's objects are turned into.
type shape int

const (
	shapeObject shape = iota
	shapeTable
	shapePartial
)

// output is what the Accept header asks for.
type output struct {
	format format
	shape  shape
}

// negotiate picks the first acceptable answer. watch answers are streams.
func negotiate(accept string) (output, error) {
	if accept == "" {
		return output{}, nil
	}
	for clause := range strings.SplitSeq(accept, ",") {
		name, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		var out output
		switch name {
		case typeJSON, "*/*", "application/*":
		case typeYAML:
			out.format = formatYAML
		case typeProto:
			out.format = formatProto
		default:
			continue
		}
		as := params["as"]
		if as == "" {
			return out, nil
		}
		if params["g"] != metav1.GroupName || params["v"] != "v1" {
			continue
		}
		switch as {
		case "Table":
			if out.format == formatProto {
				continue
			}
			out.shape = shapeTable
		case "PartialObjectMetadata", "PartialObjectMetadataList":
			out.shape = shapePartial
		default:
			continue
		}
		return out, nil
	}
	return output{}, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure,
		Code:   http.StatusNotAcceptable,
		Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " +
			strings.Join([]string{typeJSON, typeYAML, typeProto}, ", "),
	}}
}

var statusGVK = schema.GroupVersionKind{Version: "v1", Kind: "Status"}
