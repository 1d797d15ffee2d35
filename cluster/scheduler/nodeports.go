package scheduler

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
)

// hostPort is a port that a pod takes on its node.
type hostPort struct {
	ip       string // "0.0.0.0": all
	protocol corev1.Protocol
	port     int32
}

const anyIP = "0.0.0.0"

func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, hostPort{cmp.Or(p.HostIP, anyIP), cmp.Or(p.Protocol, corev1.ProtocolTCP), p.HostPort})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// portsFilter keeps pods off nodes where a host port of theirs is taken.
func portsFilter(_ *cluster, pod *podInfo) func(*nodeInfo) []string {
	if len(pod.ports) == 0 {
		return nil
	}
	return func(n *nodeInfo) []string {
		for _, want := range pod.ports {
			for used := range n.ports {
				if used.port == want.port && used.protocol == want.protocol &&
					(used.ip == want.ip || used.ip == anyIP || want.ip == anyIP) {
					return []string{"node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
		return nil
	}
}
