package resource

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper/qos"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
)

func pods() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Pod"),
		Plural:           "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		Namespaced: true, Storage: corev1.SchemeGroupVersion, Prefix: "pods",
		UnconditionalUpdate: true, ReturnDeleted: true, HasStatus: true,
		rules: typed[core.Pod, corev1.Pod]{
			prepareCreate:  preparePod,
			validateCreate: create(validatePod),
			warnCreate:     warnPod,
			grace:          podGrace,
			changes: map[Change]typedChange[core.Pod]{
				Main: {
					prepare: func(obj, old *core.Pod) {
						obj.Status = old.Status
						podutil.DropDisabledPodFields(obj, old)
						raisePodGeneration(obj, old)
					},
					validate: update(podUpdate(corevalidation.ValidatePodUpdate)),
				},
				Status: {
					prepare:  preparePodStatus,
					validate: update(podUpdate(corevalidation.ValidatePodStatusUpdate)),
				},
			},
			selectable: podFields(),
		}.rules(),
	}
}

func podFields() map[string]func(*corev1.Pod) string {
	return map[string]func(*corev1.Pod) string{
		"spec.nodeName":            func(p *corev1.Pod) string { return p.Spec.NodeName },
		"spec.restartPolicy":       func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) },
		"spec.schedulerName":       func(p *corev1.Pod) string { return p.Spec.SchedulerName },
		"spec.serviceAccountName":  func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
		"spec.hostNetwork":         func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) },
		"status.phase":             func(p *corev1.Pod) string { return string(p.Status.Phase) },
		"status.podIP":             func(p *corev1.Pod) string { return p.Status.PodIP },
		"status.nominatedNodeName": func(p *corev1.Pod) string { return p.Status.NominatedNodeName },
	}
}

func preparePod(p *core.Pod) {
	p.Generation = 1
	p.Status = core.PodStatus{Phase: core.PodPending, QOSClass: qos.GetPodQOS(p)}
	podutil.DropDisabledPodFields(p, nil)
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = append(p.Status.Conditions, core.PodCondition{
			Type:               core.PodScheduled,
			Status:             core.ConditionFalse,
			Reason:             corev1.PodReasonSchedulingGated,
			Message:            "Scheduling is blocked due to non-empty scheduling gates",
			ObservedGeneration: p.Generation,
		})
	}
	matchLabelKeys(p)
}

// matchLabelKeys resolves matchLabelKeys of topology spread constraints and pod
// affinity into their selectors, so that later label changes have no effect.
func matchLabelKeys(p *core.Pod) {
	extend := func(sel *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		for _, key := range keys {
			if value, ok := p.Labels[key]; ok && sel != nil {
				sel.MatchExpressions = append(sel.MatchExpressions,
					metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
			}
		}
	}
	term := func(t *core.PodAffinityTerm) {
		extend(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		extend(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		extend(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
	a := p.Spec.Affinity
	if a == nil {
		return
	}
	if a.PodAffinity != nil {
		for i := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			term(&a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i])
		}
		for i := range a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			term(&a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i].PodAffinityTerm)
		}
	}
	if a.PodAntiAffinity != nil {
		for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			term(&a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i])
		}
		for i := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			term(&a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i].PodAffinityTerm)
		}
	}
}

func validatePod(p *core.Pod) field.ErrorList {
	opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&p.Spec, nil, &p.ObjectMeta, nil)
	opts.ResourceIsPod = true
	return corevalidation.ValidatePodCreate(p, opts)
}

type podValidation func(obj, old *core.Pod, opts corevalidation.PodValidationOptions) field.ErrorList

func podUpdate(f podValidation) func(obj, old *core.Pod) field.ErrorList {
	return func(obj, old *core.Pod) field.ErrorList {
		opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&obj.Spec, &old.Spec, &obj.ObjectMeta, &old.ObjectMeta)
		opts.ResourceIsPod = true
		return f(obj, old, opts)
	}
}

func warnPod(ctx context.Context, p *core.Pod) []string {
	var out []string
	if msgs := validation.IsDNS1123Label(p.Name); len(msgs) > 0 {
		out = append(out, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(out, podutil.GetWarningsForPod(ctx, p, nil)...)
}

// raisePodGeneration counts changes of the spec.
func raisePodGeneration(obj, old *core.Pod) {
	obj.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(obj.Spec, old.Spec) {
		obj.Generation++
	}
}

func preparePodStatus(obj, old *core.Pod) {
	obj.Spec = old.Spec
	obj.DeletionTimestamp = nil
	obj.OwnerReferences = old.OwnerReferences
	if obj.Status.QOSClass == "" {
		obj.Status.QOSClass = old.Status.QOSClass
	}
	keepObservedGeneration(obj, old)
	podutil.DropDisabledPodFields(obj, old)
}

// keepObservedGeneration restores what a client that does not know
// observedGeneration has cleared.
func keepObservedGeneration(obj, old *core.Pod) {
	if obj.Status.ObservedGeneration == 0 {
		obj.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	seen := map[core.PodConditionType]int{} // validation allows a type to repeat
	for i := range obj.Status.Conditions {
		c := &obj.Status.Conditions[i]
		nth := seen[c.Type]
		seen[c.Type]++
		if c.ObservedGeneration != 0 {
			continue
		}
		for _, o := range old.Status.Conditions {
			if o.Type != c.Type {
				continue
			}
			if nth == 0 {
				c.ObservedGeneration = o.ObservedGeneration
				break
			}
			nth--
		}
	}
}

// podGrace gives pods that run somewhere the time to end.
func podGrace(p *core.Pod, o *metav1.DeleteOptions) bool {
	var seconds int64
	switch {
	case o.GracePeriodSeconds != nil:
		seconds = *o.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	ended := p.Status.Phase == core.PodFailed || p.Status.Phase == core.PodSucceeded
	if p.Spec.NodeName == "" || ended {
		seconds = 0
	}
	if seconds < 0 {
		seconds = 1
	}
	o.GracePeriodSeconds = &seconds
	return true
}
