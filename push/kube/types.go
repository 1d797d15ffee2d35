package kube

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The structures below hold of each kind the fields that are read or written
// here, under their names in the Kubernetes API. Pointers tell absent from zero
// where zero has a meaning.

// Meta is an object's metadata.
type Meta struct {
	Name              string            `json:"name,omitempty"`
	Namespace         string            `json:"namespace,omitempty"`
	UID               string            `json:"uid,omitempty"`
	ResourceVersion   string            `json:"resourceVersion,omitempty"`
	Generation        int64             `json:"generation,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
	CreationTimestamp *time.Time        `json:"creationTimestamp,omitempty"`
	DeletionTimestamp *time.Time        `json:"deletionTimestamp,omitempty"`
	OwnerReferences   []Owner           `json:"ownerReferences,omitempty"`
}

// Owner names the object that another belongs to.
type Owner struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// List is a list of objects of one kind.
type List[T any] struct {
	Items []T `json:"items"`
}

// Deployment is a Deployment of apps/v1.
type Deployment struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   Meta              `json:"metadata"`
	Spec       DeploymentSpec    `json:"spec"`
	Status     *DeploymentStatus `json:"status,omitempty"`
}

// DeploymentSpec is what is wanted of a Deployment.
type DeploymentSpec struct {
	Replicas *int32    `json:"replicas,omitempty"`
	Selector Selector  `json:"selector"`
	Strategy *Strategy `json:"strategy,omitempty"`
	Template Template  `json:"template"`
}

// Selector selects by labels.
type Selector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// Strategy is how a Deployment replaces its pods.
type Strategy struct {
	Type          string         `json:"type"`
	RollingUpdate *RollingUpdate `json:"rollingUpdate,omitempty"`
}

// RollingUpdate bounds a rolling update; each value is a number or a percentage.
type RollingUpdate struct {
	MaxUnavailable any `json:"maxUnavailable"`
	MaxSurge       any `json:"maxSurge"`
}

// Template is what a Deployment's pods are made from.
type Template struct {
	Metadata Meta    `json:"metadata"`
	Spec     PodSpec `json:"spec"`
}

// PodSpec is what is wanted of a pod.
type PodSpec struct {
	Containers []Container `json:"containers"`
	NodeName   string      `json:"nodeName,omitempty"`
}

// Container is one container of a pod.
type Container struct {
	Name            string          `json:"name"`
	Image           string          `json:"image"`
	ImagePullPolicy string          `json:"imagePullPolicy,omitempty"`
	Env             []EnvVar        `json:"env,omitempty"`
	Ports           []ContainerPort `json:"ports,omitempty"`
	ReadinessProbe  *Probe          `json:"readinessProbe,omitempty"`
}

// EnvVar is one environment variable; ValueFrom is kept as it is.
type EnvVar struct {
	Name      string `json:"name"`
	Value     string `json:"value,omitempty"`
	ValueFrom any    `json:"valueFrom,omitempty"`
}

// ContainerPort is a port that a container listens on.
type ContainerPort struct {
	Name          string `json:"name,omitempty"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
}

// Probe asks whether a container is ready.
type Probe struct {
	TCPSocket        *TCPSocket `json:"tcpSocket,omitempty"`
	PeriodSeconds    int32      `json:"periodSeconds,omitempty"`
	FailureThreshold int32      `json:"failureThreshold,omitempty"`
}

// TCPSocket is a probe that connects.
type TCPSocket struct {
	Port int `json:"port"`
}

// DeploymentStatus is how far a Deployment is.
type DeploymentStatus struct {
	ObservedGeneration int64       `json:"observedGeneration"`
	Replicas           int32       `json:"replicas"`
	UpdatedReplicas    int32       `json:"updatedReplicas"`
	ReadyReplicas      int32       `json:"readyReplicas"`
	AvailableReplicas  int32       `json:"availableReplicas"`
	Conditions         []Condition `json:"conditions"`
}

// Condition is one observation about an object.
type Condition struct {
	Type               string     `json:"type"`
	Status             string     `json:"status"`
	Reason             string     `json:"reason"`
	Message            string     `json:"message"`
	LastTransitionTime *time.Time `json:"lastTransitionTime"`
}

// Pod is a Pod of v1.
type Pod struct {
	Metadata Meta      `json:"metadata"`
	Spec     PodSpec   `json:"spec"`
	Status   PodStatus `json:"status"`
}

// PodStatus is what a pod is doing.
type PodStatus struct {
	Phase             string            `json:"phase"`
	PodIP             string            `json:"podIP"`
	Reason            string            `json:"reason"`
	Message           string            `json:"message"`
	StartTime         *time.Time        `json:"startTime"`
	Conditions        []Condition       `json:"conditions"`
	ContainerStatuses []ContainerStatus `json:"containerStatuses"`
}

// Ready reports whether the pod takes traffic.
func (p Pod) Ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// ContainerStatus is what one container is doing.
type ContainerStatus struct {
	Name         string         `json:"name"`
	Ready        bool           `json:"ready"`
	RestartCount int32          `json:"restartCount"`
	ContainerID  string         `json:"containerID"`
	State        ContainerState `json:"state"`
	LastState    ContainerState `json:"lastState"`
}

// ContainerState is one of three states.
type ContainerState struct {
	Waiting    *Waiting    `json:"waiting"`
	Running    *Running    `json:"running"`
	Terminated *Terminated `json:"terminated"`
}

// Waiting is the state of a container that is not running yet, or again.
type Waiting struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Running is the state of a container that runs.
type Running struct {
	StartedAt *time.Time `json:"startedAt"`
}

// Terminated is the state of a container that ended.
type Terminated struct {
	ExitCode   int        `json:"exitCode"`
	Reason     string     `json:"reason"`
	Message    string     `json:"message"`
	FinishedAt *time.Time `json:"finishedAt"`
}

// Service is a Service of v1.
type Service struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Metadata   Meta        `json:"metadata"`
	Spec       ServiceSpec `json:"spec"`
}

// ServiceSpec is what is wanted of a Service.
type ServiceSpec struct {
	Selector  map[string]string `json:"selector,omitempty"`
	ClusterIP string            `json:"clusterIP,omitempty"`
	Ports     []ServicePort     `json:"ports"`
}

// ServicePort maps a port of the Service to one of its pods.
type ServicePort struct {
	Name       string `json:"name,omitempty"`
	Port       int    `json:"port"`
	TargetPort any    `json:"targetPort,omitempty"`
	Protocol   string `json:"protocol,omitempty"`
}

// Ingress is an Ingress of networking.k8s.io/v1.
type Ingress struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Metadata   Meta        `json:"metadata"`
	Spec       IngressSpec `json:"spec"`
}

// IngressSpec is what is wanted of an Ingress.
type IngressSpec struct {
	Rules []IngressRule `json:"rules"`
}

// IngressRule sends the requests for a host to Services.
type IngressRule struct {
	Host string       `json:"host,omitempty"`
	HTTP *IngressHTTP `json:"http,omitempty"`
}

// IngressHTTP lists the paths of a rule.
type IngressHTTP struct {
	Paths []IngressPath `json:"paths"`
}

// IngressPath sends the requests below a path to a Service.
type IngressPath struct {
	Path     string         `json:"path"`
	PathType string         `json:"pathType"`
	Backend  IngressBackend `json:"backend"`
}

// IngressBackend is where an IngressPath sends to.
type IngressBackend struct {
	Service *IngressService `json:"service,omitempty"`
}

// IngressService names a Service and its port.
type IngressService struct {
	Name string      `json:"name"`
	Port BackendPort `json:"port"`
}

// BackendPort names a Service's port by number or name.
type BackendPort struct {
	Number int    `json:"number,omitempty"`
	Name   string `json:"name,omitempty"`
}

// EventObject is an Event of v1: something noteworthy about another object.
type EventObject struct {
	InvolvedObject struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"involvedObject"`
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Node is a Node of v1.
type Node struct {
	Metadata Meta `json:"metadata"`
	Status   struct {
		Conditions []Condition `json:"conditions"`
	} `json:"status"`
}

// Collection is where the objects of a kind are.
type Collection string

// The collections that are used here.
const (
	Deployments Collection = "/apis/apps/v1/namespaces/%s/deployments"
	Services    Collection = "/api/v1/namespaces/%s/services"
	Ingresses   Collection = "/apis/networking.k8s.io/v1/namespaces/%s/ingresses"
	Pods        Collection = "/api/v1/namespaces/%s/pods"
	Events      Collection = "/api/v1/namespaces/%s/events"
)

// In returns the path of the collection in a namespace.
func (c Collection) In(namespace string) string { return fmt.Sprintf(string(c), namespace) }

// Object returns the path of the object called name.
func (c Collection) Object(namespace, name string) string { return c.In(namespace) + "/" + name }

// Selected returns the path of the collection's objects that have the label.
func (c Collection) Selected(namespace string, labels map[string]string) string {
	var terms []string
	for key, value := range labels {
		terms = append(terms, key+"="+value)
	}
	slices.Sort(terms)
	return c.In(namespace) + "?labelSelector=" + url.QueryEscape(strings.Join(terms, ","))
}
