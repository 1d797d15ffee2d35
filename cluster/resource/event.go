package resource

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// eventTTL is upstream's default of --event-ttl.
const eventTTL = time.Hour

func events() *Kind { return eventsAs(corev1.SchemeGroupVersion) }

func groupEvents() *Kind { return eventsAs(eventsv1.SchemeGroupVersion) }

// eventsAs is the one storage of events, served in two groups.
func eventsAs(gv schema.GroupVersion) *Kind {
	type text = func(*corev1.Event) string
	return &Kind{
		GroupVersionKind: gv.WithKind("Event"),
		Plural:           "events", Singular: "event", ShortNames: []string{"ev"},
		Namespaced: true, Storage: corev1.SchemeGroupVersion, Prefix: "events", TTL: eventTTL,
		CreateOnUpdate: true, UnconditionalUpdate: true, Dependents: NoDependents,
		rules: typed[core.Event, corev1.Event]{
			validateCreate: validation.ValidateEventCreate,
			changes: map[Change]typedChange[core.Event]{
				Main: {validate: validation.ValidateEventUpdate},
			},
			selectable: map[string]func(*corev1.Event) string{
				"involvedObject.kind":            text(func(e *corev1.Event) string { return e.InvolvedObject.Kind }),
				"involvedObject.namespace":       text(func(e *corev1.Event) string { return e.InvolvedObject.Namespace }),
				"involvedObject.name":            text(func(e *corev1.Event) string { return e.InvolvedObject.Name }),
				"involvedObject.uid":             text(func(e *corev1.Event) string { return string(e.InvolvedObject.UID) }),
				"involvedObject.apiVersion":      text(func(e *corev1.Event) string { return e.InvolvedObject.APIVersion }),
				"involvedObject.resourceVersion": text(func(e *corev1.Event) string { return e.InvolvedObject.ResourceVersion }),
				"involvedObject.fieldPath":       text(func(e *corev1.Event) string { return e.InvolvedObject.FieldPath }),
				"reason":                         text(func(e *corev1.Event) string { return e.Reason }),
				"reportingComponent":             text(func(e *corev1.Event) string { return e.ReportingController }),
				"type":                           text(func(e *corev1.Event) string { return e.Type }),
				"source": func(e *corev1.Event) string {
					if e.Source.Component != "" {
						return e.Source.Component
					}
					return e.ReportingController
				},
			},
		}.rules(),
	}
}
