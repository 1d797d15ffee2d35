package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/apis/discovery"
	discoveryvalidation "k8s.io/kubernetes/pkg/apis/discovery/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
)

func endpointSlices() *Kind {
	return &Kind{
		GroupVersionKind: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Plural:           "endpointslices", Singular: "endpointslice",
		Namespaced: true, Storage: discoveryv1.SchemeGroupVersion, Prefix: "endpointslices",
		UnconditionalUpdate: true,
		rules: typed[discovery.EndpointSlice, discoveryv1.EndpointSlice]{
			group: discovery.GroupName,
			prepareCreate: func(s *discovery.EndpointSlice) {
				s.Generation = 1
				dropTopology(s, nil)
			},
			validateCreate: create(discoveryvalidation.ValidateEndpointSliceCreate),
			warnCreate: func(_ context.Context, s *discovery.EndpointSlice) []string {
				if s.AddressType == discovery.AddressTypeFQDN {
					return []string{"spec.addressType: FQDN endpoints are deprecated"}
				}
				return nil
			},
			changes: map[Change]typedChange[discovery.EndpointSlice]{
				Main: {
					prepare:  prepareEndpointSlice,
					validate: update(discoveryvalidation.ValidateEndpointSliceUpdate),
				},
			},
		}.rules(),
	}
}

// prepareEndpointSlice raises the generation for all but changes of metadata.
func prepareEndpointSlice(obj, old *discovery.EndpointSlice) {
	a, b := *obj, *old
	a.ObjectMeta, b.ObjectMeta = metav1.ObjectMeta{}, metav1.ObjectMeta{}
	if !apiequality.Semantic.DeepEqual(a, b) || !apiequality.Semantic.DeepEqual(obj.Labels, old.Labels) {
		obj.Generation = old.Generation + 1
	}
	if !apiequality.Semantic.DeepEqual(obj.Endpoints, old.Endpoints) {
		dropTopology(obj, old)
	}
}

// dropTopology removes node names from the deprecated field, which v1 clients
// set through nodeName, except those that old already has there.
func dropTopology(obj, old *discovery.EndpointSlice) {
	had := map[string]bool{}
	if old != nil {
		for _, ep := range old.Endpoints {
			had[ep.DeprecatedTopology[corev1.LabelHostname]] = true
		}
	}
	for i := range obj.Endpoints {
		topology := obj.Endpoints[i].DeprecatedTopology
		if name, ok := topology[corev1.LabelHostname]; ok && !had[name] {
			delete(topology, corev1.LabelHostname)
		}
	}
}

func ingresses() *Kind {
	const classAnnotation = "kubernetes.io/ingress.class"
	return &Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("Ingress"),
		Plural:           "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
		Namespaced: true, Storage: networkingv1.SchemeGroupVersion, Prefix: "ingress",
		UnconditionalUpdate: true, HasStatus: true,
		rules: typed[networking.Ingress, networkingv1.Ingress]{
			group: networking.GroupName,
			prepareCreate: func(i *networking.Ingress) {
				i.Status, i.Generation = networking.IngressStatus{}, 1
			},
			validateCreate: create(networkingvalidation.ValidateIngressCreate),
			warnCreate: func(_ context.Context, i *networking.Ingress) []string {
				if _, set := i.Annotations[classAnnotation]; set && i.Spec.IngressClassName == nil {
					return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
				}
				return nil
			},
			changes: map[Change]typedChange[networking.Ingress]{
				Main: {
					prepare: func(obj, old *networking.Ingress) {
						obj.Status = old.Status
						if !apiequality.Semantic.DeepEqual(old.Spec, obj.Spec) {
							obj.Generation = old.Generation + 1
						}
					},
					validate: update(networkingvalidation.ValidateIngressUpdate),
				},
				Status: {
					prepare:  func(obj, old *networking.Ingress) { obj.Spec = old.Spec },
					validate: update(networkingvalidation.ValidateIngressStatusUpdate),
				},
			},
		}.rules(),
	}
}
