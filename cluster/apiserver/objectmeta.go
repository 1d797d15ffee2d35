package apiserver

import (
	"crypto/rand"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	genericvalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// optimisticLock is the reference's message for a lost race.
const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

const (
	maxName      = 63
	randomSuffix = 5
)

func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

func validateMeta(m metav1.Object, namespaced bool) field.ErrorList {
	return genericvalidation.ValidateObjectMetaAccessor(m, namespaced, pathSegment, field.NewPath("metadata"))
}

func validateMetaUpdate(m, old metav1.Object) field.ErrorList {
	return genericvalidation.ValidateObjectMetaAccessorUpdate(m, old, field.NewPath("metadata"))
}

func badFieldValidation(value string) field.ErrorList {
	return field.ErrorList{field.NotSupported(field.NewPath("fieldValidation"), value,
		[]string{"", metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict})}
}

// setNamespace makes the object's namespace that of the request.
func (req *request) setNamespace(m metav1.Object) error {
	want := ""
	if req.kind.Namespaced {
		want = req.path.namespace
	}
	switch {
	case m.GetNamespace() == want:
	case m.GetNamespace() == "":
		m.SetNamespace(want)
	case want == "":
		m.SetNamespace("") // upstream clears it from objects that have none
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// generateName appends a random suffix, cutting the base if need be.
func generateName(base string) string {
	if len(base) > maxName-randomSuffix {
		base = base[:maxName-randomSuffix]
	}
	return base + utilrand.String(randomSuffix)
}

// newUID returns a random UUID.
func newUID() types.UID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// now is the time as objects hold it.
func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }
