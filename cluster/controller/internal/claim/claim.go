// Package claim decides which objects belong to a controller object: a
// selector adopts orphans that match and releases children that no longer do.
// Deciding is pure; the patches are made here and sent by the caller.
package claim

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Verdict is what to do with one object.
type Verdict int

// The verdicts.
const (
	Ignore  Verdict = iota // another's, or nobody's business
	Keep                   // ours already
	Adopt                  // an orphan that matches: add the owner reference
	Release                // ours, but it no longer matches: take the reference off
)

// Decide returns what owner, with its selector, does with obj.
func Decide(owner metav1.Object, selector labels.Selector, obj metav1.Object) Verdict {
	matches := selector.Matches(labels.Set(obj.GetLabels()))
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		switch {
		case ref.UID != owner.GetUID():
			return Ignore
		case matches:
			return Keep
		case owner.GetDeletionTimestamp() != nil:
			// The garbage collector decides over the children of a dying owner.
			return Ignore
		}
		return Release
	}
	if owner.GetDeletionTimestamp() != nil || !matches || obj.GetDeletionTimestamp() != nil {
		return Ignore
	}
	return Adopt
}

// AdoptPatch is the strategic merge patch that makes owner the controller of
// the object with this UID.
func AdoptPatch(owner metav1.Object, kind schema.GroupVersionKind, child types.UID) ([]byte, error) {
	ref := metav1.NewControllerRef(owner, kind)
	return marshal(map[string]any{"metadata": map[string]any{"uid": child, "ownerReferences": []any{ref}}})
}

// ReleasePatch is the strategic merge patch that takes owner's references off
// the object with this UID.
func ReleasePatch(owner, child types.UID) ([]byte, error) {
	ref := map[string]any{"$patch": "delete", "uid": owner}
	return marshal(map[string]any{"metadata": map[string]any{"uid": child, "ownerReferences": []any{ref}}})
}

func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	return b, nil
}
