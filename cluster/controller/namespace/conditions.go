package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions returns the namespace's conditions after a pass, in the
// reference's words. A namespace that is emptied at once gets none.
func conditions(was []corev1.NamespaceCondition, found *contents, now metav1.Time) []corev1.NamespaceCondition {
	verdicts := []struct {
		kind         corev1.NamespaceConditionType
		bad          string // reason and message while something is wrong
		message      string
		good, allSet string
	}{
		{corev1.NamespaceDeletionDiscoveryFailure, "DiscoveryFailed", text(found.discovery),
			"ResourcesDiscovered", "All resources successfully discovered"},
		{corev1.NamespaceDeletionContentFailure, "ContentDeletionFailed", deletionText(found.deletion),
			"ContentDeleted", "All content successfully deleted, may be waiting on finalization"},
		{corev1.NamespaceContentRemaining, "SomeResourcesRemain", remainingText(found),
			"ContentRemoved", "All content successfully removed"},
		{corev1.NamespaceFinalizersRemaining, "SomeFinalizersRemain", finalizerText(found),
			"ContentHasNoFinalizers", "All content-preserving finalizers finished"},
	}
	next := slices.Clone(was)
	clean := found.err() == nil && len(found.remaining) == 0
	for _, v := range verdicts {
		c := corev1.NamespaceCondition{Type: v.kind, Status: corev1.ConditionFalse, Reason: v.good, Message: v.allSet, LastTransitionTime: now}
		if v.message != "" {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, v.bad, v.message
		}
		i := slices.IndexFunc(next, func(o corev1.NamespaceCondition) bool { return o.Type == v.kind })
		switch {
		case i >= 0:
			if next[i].Status == c.Status {
				c.LastTransitionTime = next[i].LastTransitionTime
			}
			next[i] = c
		case !clean:
			next = append(next, c)
		}
	}
	return next
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return "Discovery failed for some groups, " + err.Error()
}

func deletionText(errs []error) string {
	if len(errs) == 0 {
		return ""
	}
	return "Failed to delete all resource types, " + fmt.Sprintf("%d remaining: ", len(errs)) + errors.Join(errs...).Error()
}

func remainingText(found *contents) string {
	var parts []string
	for gr, n := range found.remaining {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", gr.Resource, gr.Group, n))
	}
	if len(parts) == 0 {
		return ""
	}
	slices.Sort(parts)
	return "Some resources are remaining: " + strings.Join(parts, ", ")
}

func finalizerText(found *contents) string {
	var parts []string
	for f, n := range found.finalizers {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	if len(parts) == 0 {
		return ""
	}
	slices.Sort(parts)
	return "Some content in the namespace has finalizers remaining: " + strings.Join(parts, ", ")
}
