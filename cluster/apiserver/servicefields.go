package apiserver

import (
	"slices"

	"k8s.io/kubernetes/pkg/apis/core"

	"gantry/cluster/resource"
)

// keepAllocated copies to obj what old was given and the client left out, so
// that a manifest can be sent again.
func keepAllocated(obj, old *core.Service) {
	if resource.NeedsClusterIP(old) && resource.NeedsClusterIP(obj) {
		if obj.Spec.ClusterIP == "" {
			obj.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(obj.Spec.ClusterIPs) == 0 {
			obj.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
		if len(obj.Spec.IPFamilies) == 0 {
			obj.Spec.IPFamilies = old.Spec.IPFamilies
		}
	}
	if resource.NeedsNodePort(old) && resource.NeedsNodePort(obj) {
		keepNodePorts(obj, old)
	}
	if resource.NeedsHealthCheckPort(old) && resource.NeedsHealthCheckPort(obj) && obj.Spec.HealthCheckNodePort == 0 {
		obj.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts keeps node ports by the ports' names, unless another port of
// obj claims the number.
func keepNodePorts(obj, old *core.Service) {
	claimed := func(number int32) bool {
		return slices.ContainsFunc(obj.Spec.Ports, func(p core.ServicePort) bool { return p.NodePort == number })
	}
	for i := range obj.Spec.Ports {
		p := &obj.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		for _, o := range old.Spec.Ports {
			if o.Name == p.Name && o.NodePort != 0 && !claimed(o.NodePort) {
				p.NodePort = o.NodePort
				break
			}
		}
	}
}

// syncClusterIPs follows a client that changes only the older of the two
// fields.
func syncClusterIPs(obj, old *core.Service) {
	if len(old.Spec.ClusterIPs) > 0 && len(obj.Spec.ClusterIPs) == 0 && old.Spec.ClusterIP == obj.Spec.ClusterIP {
		obj.Spec.ClusterIPs = old.Spec.ClusterIPs
	}
	if old.Spec.ClusterIP == obj.Spec.ClusterIP || !slices.Equal(old.Spec.ClusterIPs, obj.Spec.ClusterIPs) {
		return
	}
	if obj.Spec.ClusterIP == "" {
		obj.Spec.ClusterIPs = nil
		return
	}
	obj.Spec.ClusterIPs = []string{obj.Spec.ClusterIP}
}
