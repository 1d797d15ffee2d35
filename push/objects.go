package push

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strconv"

	"gantry/push/kube"
)

const (
	fieldManager = "gantry-push"

	nameLabel    = "app.kubernetes.io/name"
	managedLabel = "app.kubernetes.io/managed-by"
	managedValue = "gantry"

	// portAnnotation on a Deployment keeps where the port is known from.
	portAnnotation = "gantry.dev/port-from"
	// portNumber keeps an observed port, which the pods do not declare.
	portNumber = "gantry.dev/port"
)

// origin is where a port is known from. A stronger one wins over a weaker.
type origin string

const (
	given    origin = "given"    // --port
	exposed  origin = "exposed"  // the image's EXPOSE
	observed origin = "observed" // the process listens on it
)

// settings are all that the objects of an app are made from.
type settings struct {
	name     string
	image    string
	replicas int32
	env      []kube.EnvVar
	port     int // 0: not known
	portFrom origin
	probed   bool // the pods have a readiness probe and declare their port
	host     string
}

// merge decides the settings of a push from those before it, the image's
// exposed ports and the request. It is pure.
func merge(had settings, name, image string, ports []int, req Request) settings {
	want := settings{
		name:     name,
		image:    image,
		replicas: DefaultReplicas,
		env:      slices.Clone(had.env),
		host:     cmp.Or(req.Host, had.host, name+".localhost"),
	}
	if had.name != "" {
		want.replicas = had.replicas
	}
	if req.Replicas != nil {
		want.replicas = *req.Replicas
	}
	switch {
	case req.Port != 0:
		want.port, want.portFrom = req.Port, given
	case had.portFrom == given:
		want.port, want.portFrom = had.port, given
	case len(ports) > 0:
		want.port, want.portFrom = preferred(ports), exposed
	default:
		want.port, want.portFrom = had.port, had.portFrom
	}
	for _, key := range slices.Sorted(maps.Keys(req.Env)) {
		want.env = setEnv(want.env, key, req.Env[key])
	}
	if want.portFrom == given {
		want.env = setEnv(want.env, "PORT", strconv.Itoa(want.port))
	}
	// A port that was observed after the roll-out is not declared by the pods
	// that run: that alone is no reason to replace them.
	sameRun := had.image == want.image && had.portFrom == observed && want.portFrom == observed
	want.probed = want.port != 0 && (!sameRun || had.probed)
	return want
}

func setEnv(env []kube.EnvVar, name, value string) []kube.EnvVar {
	for i := range env {
		if env[i].Name == name {
			env[i] = kube.EnvVar{Name: name, Value: value}
			return env
		}
	}
	return append(env, kube.EnvVar{Name: name, Value: value})
}

// preferred picks the port that serves HTTP, most likely, out of several.
func preferred(ports []int) int {
	for _, usual := range []int{80, 8080, 8000, 3000, 5000} {
		if slices.Contains(ports, usual) {
			return usual
		}
	}
	return slices.Min(ports)
}

// read is the inverse of settings.deployment; host is not in a Deployment.
func read(d kube.Deployment) settings {
	s := settings{name: d.Metadata.Name, replicas: 1, portFrom: origin(d.Metadata.Annotations[portAnnotation])}
	if d.Spec.Replicas != nil {
		s.replicas = *d.Spec.Replicas
	}
	s.port, _ = strconv.Atoi(d.Metadata.Annotations[portNumber]) // absent: not known
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name == s.name {
			s.image, s.env, s.probed = c.Image, c.Env, c.ReadinessProbe != nil
		}
	}
	return s
}

// object is something to apply.
type object struct {
	path  string
	value any
}

// objects returns what the settings stand for, in the order of application.
func (s settings) objects() []any {
	all := []any{s.deployment().value}
	if s.port != 0 {
		all = append(all, s.service().value, s.ingress().value)
	}
	return all
}

func (s settings) labels() map[string]string { return map[string]string{nameLabel: s.name} }

func (s settings) meta() kube.Meta {
	return kube.Meta{
		Name: s.name, Namespace: Namespace,
		Labels: map[string]string{nameLabel: s.name, managedLabel: managedValue},
	}
}

// probePeriod is how often, in seconds, a replica is asked whether it is
// ready; the first time is when it starts.
const probePeriod = 1

func (s settings) deployment() object {
	meta := s.meta()
	container := kube.Container{Name: s.name, Image: s.image, ImagePullPolicy: "IfNotPresent", Env: s.env}
	if s.port != 0 {
		meta.Annotations = map[string]string{portAnnotation: string(s.portFrom), portNumber: strconv.Itoa(s.port)}
	}
	if s.probed {
		container.Ports = []kube.ContainerPort{{Name: "http", ContainerPort: s.port, Protocol: "TCP"}}
		container.ReadinessProbe = &kube.Probe{TCPSocket: &kube.TCPSocket{Port: s.port}, PeriodSeconds: probePeriod, FailureThreshold: 3}
	}
	d := kube.Deployment{
		APIVersion: "apps/v1", Kind: "Deployment", Metadata: meta,
		Spec: kube.DeploymentSpec{
			Replicas: &s.replicas,
			Selector: kube.Selector{MatchLabels: s.labels()},
			// A replica goes only when its successor is ready.
			Strategy: &kube.Strategy{Type: "RollingUpdate", RollingUpdate: &kube.RollingUpdate{MaxUnavailable: 0, MaxSurge: "50%"}},
			Template: kube.Template{Metadata: kube.Meta{Labels: s.labels()}, Spec: kube.PodSpec{Containers: []kube.Container{container}}},
		},
	}
	return object{kube.Deployments.Object(Namespace, s.name), d}
}

// service offers the app at port 80 and, for those who know it, at its own.
func (s settings) service() object {
	ports := []kube.ServicePort{{Name: "http", Port: 80, TargetPort: s.port, Protocol: "TCP"}}
	if s.port != 80 {
		ports = append(ports, kube.ServicePort{Name: "app", Port: s.port, TargetPort: s.port, Protocol: "TCP"})
	}
	return object{kube.Services.Object(Namespace, s.name), kube.Service{
		APIVersion: "v1", Kind: "Service", Metadata: s.meta(),
		Spec: kube.ServiceSpec{Selector: s.labels(), Ports: ports},
	}}
}

func (s settings) ingress() object {
	backend := kube.IngressBackend{Service: &kube.IngressService{Name: s.name, Port: kube.BackendPort{Number: 80}}}
	rule := kube.IngressRule{Host: s.host, HTTP: &kube.IngressHTTP{Paths: []kube.IngressPath{{Path: "/", PathType: "Prefix", Backend: backend}}}}
	return object{kube.Ingresses.Object(Namespace, s.name), kube.Ingress{
		APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Metadata: s.meta(),
		Spec: kube.IngressSpec{Rules: []kube.IngressRule{rule}},
	}}
}

// address is the URL of host behind an ingress that listens at listen.
func address(host, listen string) string {
	_, port, err := net.SplitHostPort(listen)
	if err != nil || port == "80" {
		return "http://" + host + "/"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}
