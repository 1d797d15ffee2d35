package resource

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	serviceapi "k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/utils/ptr"
)

func services() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Service"),
		Plural:           "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
		Namespaced: true, Storage: corev1.SchemeGroupVersion, Prefix: "services/specs",
		CreateOnUpdate: true, UnconditionalUpdate: true, ReturnDeleted: true, HasStatus: true,
		rules: typed[core.Service, corev1.Service]{
			prepareCreate:  func(s *core.Service) { s.Status = core.ServiceStatus{} },
			validateCreate: create(validation.ValidateServiceCreate),
			warnCreate: func(_ context.Context, s *core.Service) []string {
				return serviceapi.GetWarningsForService(s, nil)
			},
			changes: map[Change]typedChange[core.Service]{
				Main: {
					prepare: func(obj, old *core.Service) {
						obj.Status = old.Status
						dropTypeFields(obj, old)
					},
					validate: update(validation.ValidateServiceUpdate),
					warn: func(_ context.Context, obj, old *core.Service) []string {
						return serviceapi.GetWarningsForService(obj, old)
					},
				},
				Status: {
					prepare:  func(obj, old *core.Service) { obj.Spec = old.Spec },
					validate: update(validation.ValidateServiceStatusUpdate),
				},
			},
			selectable: map[string]func(*corev1.Service) string{
				"spec.clusterIP": func(s *corev1.Service) string { return s.Spec.ClusterIP },
				"spec.type":      func(s *corev1.Service) string { return string(s.Spec.Type) },
			},
		}.rules(),
	}
}

// dropTypeFields clears what was filled in for the old type of a service and
// has no meaning for its new one, unless the client changed that as well: then
// validation shall say so.
func dropTypeFields(obj, old *core.Service) {
	if NeedsClusterIP(old) && !NeedsClusterIP(obj) {
		if SameClusterIPs(old, obj) {
			obj.Spec.ClusterIP, obj.Spec.ClusterIPs = "", nil
		}
		if slices.Equal(old.Spec.IPFamilies, obj.Spec.IPFamilies) {
			obj.Spec.IPFamilies = nil
		}
		if ptr.Deref(old.Spec.IPFamilyPolicy, "") == ptr.Deref(obj.Spec.IPFamilyPolicy, "") {
			obj.Spec.IPFamilyPolicy = nil
		}
	}
	if hasNodePorts(old) && !hasNodePorts(obj) && noNewNodePorts(old, obj) {
		obj.Spec.Ports = slices.Clone(obj.Spec.Ports)
		for i := range obj.Spec.Ports {
			obj.Spec.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckPort(old) && !NeedsHealthCheckPort(obj) && old.Spec.HealthCheckNodePort == obj.Spec.HealthCheckNodePort {
		obj.Spec.HealthCheckNodePort = 0
	}
	wasBalanced, balanced := old.Spec.Type == core.ServiceTypeLoadBalancer, obj.Spec.Type == core.ServiceTypeLoadBalancer
	if wasBalanced && !balanced {
		if a, b := old.Spec.AllocateLoadBalancerNodePorts, obj.Spec.AllocateLoadBalancerNodePorts; a != nil && b != nil && *a == *b {
			obj.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(old.Spec.LoadBalancerClass, obj.Spec.LoadBalancerClass) {
			obj.Spec.LoadBalancerClass = nil
		}
	}
	if serviceapi.ExternallyAccessible(old) && !serviceapi.ExternallyAccessible(obj) && old.Spec.ExternalTrafficPolicy == obj.Spec.ExternalTrafficPolicy {
		obj.Spec.ExternalTrafficPolicy = ""
	}
	if !balanced {
		obj.Status.LoadBalancer = core.LoadBalancerStatus{}
	}
}

// NeedsClusterIP reports whether a service of its type has addresses; None counts.
func NeedsClusterIP(s *core.Service) bool { return s.Spec.Type != core.ServiceTypeExternalName }

// SameClusterIPs compares both fields that hold the addresses.
func SameClusterIPs(a, b *core.Service) bool {
	return a.Spec.ClusterIP == b.Spec.ClusterIP && slices.Equal(a.Spec.ClusterIPs, b.Spec.ClusterIPs)
}

// NeedsNodePort reports whether every port of the service gets a node port.
func NeedsNodePort(s *core.Service) bool {
	return s.Spec.Type == core.ServiceTypeNodePort ||
		s.Spec.Type == core.ServiceTypeLoadBalancer && ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
}

// NeedsHealthCheckPort reports whether the service gets a health check node port.
func NeedsHealthCheckPort(s *core.Service) bool {
	return s.Spec.Type == core.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal
}

func hasNodePorts(s *core.Service) bool {
	return s.Spec.Type == core.ServiceTypeNodePort || s.Spec.Type == core.ServiceTypeLoadBalancer
}

func noNewNodePorts(old, obj *core.Service) bool {
	for _, p := range obj.Spec.Ports {
		known := slices.ContainsFunc(old.Spec.Ports, func(o core.ServicePort) bool { return o.NodePort == p.NodePort })
		if p.NodePort != 0 && !known {
			return false
		}
	}
	return true
}
