package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func configMaps() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		Plural:           "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
		Namespaced: true, Storage: corev1.SchemeGroupVersion, Prefix: "configmaps",
		UnconditionalUpdate: true,
		rules: typed[core.ConfigMap, corev1.ConfigMap]{
			validateCreate: create(validation.ValidateConfigMap),
			changes: map[Change]typedChange[core.ConfigMap]{
				Main: {validate: update(validation.ValidateConfigMapUpdate)},
			},
		}.rules(),
	}
}

func secrets() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Secret"),
		Plural:           "secrets", Singular: "secret",
		Namespaced: true, Storage: corev1.SchemeGroupVersion, Prefix: "secrets",
		UnconditionalUpdate: true,
		rules: typed[core.Secret, corev1.Secret]{
			validateCreate: create(validation.ValidateSecret),
			changes: map[Change]typedChange[core.Secret]{
				Main: {
					prepare: func(obj, old *core.Secret) {
						if obj.Type == "" {
							obj.Type = old.Type
						}
					},
					validate: update(validation.ValidateSecretUpdate),
				},
			},
			selectable: map[string]func(*corev1.Secret) string{
				"type": func(s *corev1.Secret) string { return string(s.Type) },
			},
		}.rules(),
	}
}

func serviceAccounts() *Kind {
	clean := func(sa *core.ServiceAccount) {
		for i, s := range sa.Secrets {
			sa.Secrets[i] = core.ObjectReference{Name: s.Name}
		}
	}
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		Plural:           "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
		Namespaced: true, Storage: corev1.SchemeGroupVersion, Prefix: "serviceaccounts",
		UnconditionalUpdate: true, ReturnDeleted: true,
		rules: typed[core.ServiceAccount, corev1.ServiceAccount]{
			prepareCreate:  clean,
			validateCreate: create(validation.ValidateServiceAccount),
			warnCreate: func(_ context.Context, sa *core.ServiceAccount) []string {
				const mountable = "kubernetes.io/enforce-mountable-secrets"
				if _, ok := sa.Annotations[mountable]; ok {
					return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", mountable)}
				}
				return nil
			},
			changes: map[Change]typedChange[core.ServiceAccount]{
				Main: {
					prepare:  func(obj, _ *core.ServiceAccount) { clean(obj) },
					validate: update(validation.ValidateServiceAccountUpdate),
				},
			},
		}.rules(),
	}
}
