package resource

import (
	"strconv"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/coordination"
	coordinationvalidation "k8s.io/kubernetes/pkg/apis/coordination/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func nodes() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Node"),
		Plural:           "nodes", Singular: "node", ShortNames: []string{"no"},
		Storage: corev1.SchemeGroupVersion, Prefix: "minions",
		UnconditionalUpdate: true, HasStatus: true,
		rules: typed[core.Node, corev1.Node]{
			prepareCreate: func(n *core.Node) {
				//lint:ignore SA1019 the field has no meaning any more, and must not be stored
				n.Spec.ConfigSource = nil
				n.Status.Config = nil
			},
			validateCreate: create(validation.ValidateNode),
			changes: map[Change]typedChange[core.Node]{
				Main: {
					prepare: func(obj, old *core.Node) {
						obj.Status = old.Status
						//lint:ignore SA1019 see above
						if old.Spec.ConfigSource == nil {
							//lint:ignore SA1019 see above
							obj.Spec.ConfigSource = nil
						}
					},
					validate: valid(validation.ValidateNode, validation.ValidateNodeUpdate),
				},
				Status: {
					prepare: func(obj, old *core.Node) {
						obj.Spec = old.Spec
						if old.Status.Config == nil {
							obj.Status.Config = nil
						}
					},
					validate: update(validation.ValidateNodeUpdate),
				},
			},
			selectable: map[string]func(*corev1.Node) string{
				"spec.unschedulable": func(n *corev1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) },
			},
		}.rules(),
	}
}

func leases() *Kind {
	return &Kind{
		GroupVersionKind: coordinationv1.SchemeGroupVersion.WithKind("Lease"),
		Plural:           "leases", Singular: "lease",
		Namespaced: true, Storage: coordinationv1.SchemeGroupVersion, Prefix: "leases",
		CreateOnUpdate: true,
		rules: typed[coordination.Lease, coordinationv1.Lease]{
			group: coordination.GroupName,
			prepareCreate: func(l *coordination.Lease) {
				// They belong to a feature of upstream that is off by default.
				l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil
			},
			validateCreate: create(coordinationvalidation.ValidateLease),
			changes: map[Change]typedChange[coordination.Lease]{
				Main: {
					prepare: func(obj, old *coordination.Lease) {
						if old.Spec.Strategy == nil {
							obj.Spec.Strategy = nil
						}
						if old.Spec.PreferredHolder == nil {
							obj.Spec.PreferredHolder = nil
						}
					},
					validate: update(coordinationvalidation.ValidateLeaseUpdate),
				},
			},
		}.rules(),
	}
}
