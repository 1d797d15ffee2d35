package resource

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func namespaces() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Namespace"),
		Plural:           "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
		Storage: corev1.SchemeGroupVersion, Prefix: "namespaces",
		UnconditionalUpdate: true, NoBulkDelete: true, HasStatus: true, ReturnDeleted: true,
		rules: typed[core.Namespace, corev1.Namespace]{
			prepareCreate: func(ns *core.Namespace) {
				ns.Status = core.NamespaceStatus{Phase: core.NamespaceActive}
				if !slices.Contains(ns.Spec.Finalizers, core.FinalizerKubernetes) {
					ns.Spec.Finalizers = append(ns.Spec.Finalizers, core.FinalizerKubernetes)
				}
			},
			validateCreate: create(validation.ValidateNamespace),
			canonicalize: func(ns *core.Namespace) {
				if ns.Labels == nil {
					ns.Labels = map[string]string{}
				}
				ns.Labels[corev1.LabelMetadataName] = ns.Name
			},
			changes: map[Change]typedChange[core.Namespace]{
				Main: {
					prepare: func(obj, old *core.Namespace) {
						obj.Spec.Finalizers, obj.Status = old.Spec.Finalizers, old.Status
					},
					validate: valid(validation.ValidateNamespace, validation.ValidateNamespaceUpdate),
				},
				Status: {
					prepare:  func(obj, old *core.Namespace) { obj.Spec = old.Spec },
					validate: update(validation.ValidateNamespaceStatusUpdate),
				},
				Finalize: {
					prepare:  func(obj, old *core.Namespace) { obj.Status = old.Status },
					validate: update(validation.ValidateNamespaceFinalizeUpdate),
				},
			},
			selectable: map[string]func(*corev1.Namespace) string{
				"status.phase": func(ns *corev1.Namespace) string { return string(ns.Status.Phase) },
			},
		}.rules(),
	}
}
