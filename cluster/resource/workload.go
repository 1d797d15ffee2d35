package resource

import (
	"context"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
)

var template = field.NewPath("spec", "template")

// warnTemplate returns what is unwise about a workload's pods. old is nil on
// creation.
func warnTemplate(ctx context.Context, name string, t, old *core.PodTemplateSpec) []string {
	var out []string
	if msgs := validation.IsDNS1123Label(name); old == nil && len(msgs) > 0 {
		out = append(out, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(out, podutil.GetWarningsForPodTemplate(ctx, template, t, old)...)
}

func deployments() *Kind {
	return &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("Deployment"),
		Plural:           "deployments", Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Namespaced: true, Storage: appsv1.SchemeGroupVersion, Prefix: "deployments",
		UnconditionalUpdate: true, HasStatus: true, HasScale: true,
		rules: typed[apps.Deployment, appsv1.Deployment]{
			group: apps.GroupName,
			prepareCreate: func(d *apps.Deployment) {
				d.Status, d.Generation = apps.DeploymentStatus{}, 1
				podutil.DropDisabledTemplateFields(&d.Spec.Template, nil)
			},
			validateCreate: create(func(d *apps.Deployment) field.ErrorList {
				return appsvalidation.ValidateDeployment(d, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, nil))
			}),
			warnCreate: func(ctx context.Context, d *apps.Deployment) []string {
				return warnTemplate(ctx, d.Name, &d.Spec.Template, nil)
			},
			changes: map[Change]typedChange[apps.Deployment]{
				Main: {
					prepare: func(obj, old *apps.Deployment) {
						obj.Status = old.Status
						podutil.DropDisabledTemplateFields(&obj.Spec.Template, &old.Spec.Template)
						// Annotations count because they are copied to the ReplicaSets.
						if !apiequality.Semantic.DeepEqual(obj.Spec, old.Spec) || !apiequality.Semantic.DeepEqual(obj.Annotations, old.Annotations) {
							obj.Generation = old.Generation + 1
						}
					},
					validate: update(func(obj, old *apps.Deployment) field.ErrorList {
						return appsvalidation.ValidateDeploymentUpdate(obj, old, podutil.GetValidationOptionsFromPodTemplate(&obj.Spec.Template, &old.Spec.Template))
					}),
					warn: func(ctx context.Context, obj, old *apps.Deployment) []string {
						if obj.Generation == old.Generation {
							return nil
						}
						return warnTemplate(ctx, obj.Name, &obj.Spec.Template, &old.Spec.Template)
					},
				},
				Status: {
					prepare:  func(obj, old *apps.Deployment) { obj.Spec, obj.Labels = old.Spec, old.Labels },
					validate: update(appsvalidation.ValidateDeploymentStatusUpdate),
				},
			},
		}.rules(),
	}
}

func replicaSets() *Kind {
	return &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Plural:           "replicasets", Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"},
		Namespaced: true, Storage: appsv1.SchemeGroupVersion, Prefix: "replicasets",
		UnconditionalUpdate: true, HasStatus: true, HasScale: true,
		rules: typed[apps.ReplicaSet, appsv1.ReplicaSet]{
			group: apps.GroupName,
			prepareCreate: func(rs *apps.ReplicaSet) {
				rs.Status, rs.Generation = apps.ReplicaSetStatus{}, 1
				podutil.DropDisabledTemplateFields(&rs.Spec.Template, nil)
			},
			validateCreate: create(func(rs *apps.ReplicaSet) field.ErrorList {
				return appsvalidation.ValidateReplicaSet(rs, podutil.GetValidationOptionsFromPodTemplate(&rs.Spec.Template, nil))
			}),
			warnCreate: func(ctx context.Context, rs *apps.ReplicaSet) []string {
				return warnTemplate(ctx, rs.Name, &rs.Spec.Template, nil)
			},
			changes: map[Change]typedChange[apps.ReplicaSet]{
				Main: {
					prepare: func(obj, old *apps.ReplicaSet) {
						obj.Status = old.Status
						podutil.DropDisabledTemplateFields(&obj.Spec.Template, &old.Spec.Template)
						if !apiequality.Semantic.DeepEqual(obj.Spec, old.Spec) {
							obj.Generation = old.Generation + 1
						}
					},
					validate: update(func(obj, old *apps.ReplicaSet) field.ErrorList {
						return appsvalidation.ValidateReplicaSetUpdate(obj, old, podutil.GetValidationOptionsFromPodTemplate(&obj.Spec.Template, &old.Spec.Template))
					}),
					warn: func(ctx context.Context, obj, old *apps.ReplicaSet) []string {
						if obj.Generation == old.Generation {
							return nil
						}
						return warnTemplate(ctx, obj.Name, &obj.Spec.Template, &old.Spec.Template)
					},
				},
				Status: {
					prepare:  func(obj, old *apps.ReplicaSet) { obj.Spec = old.Spec },
					validate: update(appsvalidation.ValidateReplicaSetStatusUpdate),
				},
			},
			selectable: map[string]func(*appsv1.ReplicaSet) string{
				"status.replicas": func(rs *appsv1.ReplicaSet) string { return strconv.Itoa(int(rs.Status.Replicas)) },
			},
		}.rules(),
	}
}
