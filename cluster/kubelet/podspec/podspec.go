// Package podspec translates a Pod into what the Container Runtime Interface
// is told: sandbox and container configurations, environment, resources,
// security context, name resolution. It is pure: every value it needs from
// elsewhere (ConfigMaps, Secrets, Services, addresses, mounted volumes) is
// passed in, and it reads and writes nothing.
//
// The labels and annotations put on sandboxes and containers are the
// reference's own (io.kubernetes.pod.uid ...), so that crictl and a restarted
// kubelet recognise them.
package podspec

import (
	"fmt"
	"hash/fnv"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// Annotations on containers, from which a restarted kubelet learns what it
// must know about a container whose Pod may be gone.
const (
	AnnotationRestartCount      = "io.kubernetes.container.restartCount"
	AnnotationHash              = "io.kubernetes.container.hash"
	AnnotationTerminationPath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationGracePeriod       = "io.kubernetes.pod.terminationGracePeriod"
)

// ContainerLabels are the labels of a container of pod.
func ContainerLabels(pod *v1.Pod, name string) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:       pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel:  pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:        string(pod.UID),
		kubelettypes.KubernetesContainerNameLabel: name,
	}
}

// SandboxLabels are the labels of pod's sandbox: the pod's own and its identity.
func SandboxLabels(pod *v1.Pod) map[string]string {
	labels := make(map[string]string, len(pod.Labels)+3)
	for k, v := range pod.Labels {
		labels[k] = v
	}
	labels[kubelettypes.KubernetesPodNameLabel] = pod.Name
	labels[kubelettypes.KubernetesPodNamespaceLabel] = pod.Namespace
	labels[kubelettypes.KubernetesPodUIDLabel] = string(pod.UID)
	return labels
}

func containerAnnotations(pod *v1.Pod, c *v1.Container, attempt uint32) map[string]string {
	a := map[string]string{
		AnnotationRestartCount:      strconv.FormatUint(uint64(attempt), 10),
		AnnotationHash:              Hash(c),
		AnnotationTerminationPath:   c.TerminationMessagePath,
		AnnotationTerminationPolicy: string(c.TerminationMessagePolicy),
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		a[AnnotationGracePeriod] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	return a
}

// Hash identifies the part of a container's definition that a running
// container cannot take over when it changes: its image.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(c.Name + "\x00" + c.Image)) // never fails
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// Format names a pod as the reference's messages do: name_namespace(uid).
func Format(pod *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// LogDir is the directory of pod's container logs below root.
func LogDir(root, namespace, name, uid string) string {
	return filepath.Join(root, namespace+"_"+name+"_"+uid)
}

// LogPath is a container's log below its pod's log directory.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}

// IsSidecar tells whether init container c keeps running beside the others.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}
