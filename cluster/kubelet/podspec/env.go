package podspec

import (
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Objects gives what a container's environment refers to. A missing object is
// an apierrors NotFound error.
type Objects interface {
	ConfigMap(namespace, name string) (*v1.ConfigMap, error)
	Secret(namespace, name string) (*v1.Secret, error)
}

// EnvInput is all that a container's environment derives from.
type EnvInput struct {
	Pod       *v1.Pod
	Container *v1.Container
	Objects   Objects
	NotFound  func(error) bool // tells a missing object from a failure to read it
	Services  []*v1.Service    // candidates for service variables
	Fields    FieldContext
	// Invalid is told the keys of a source that are no variable names; may be nil.
	Invalid func(kind, name string, keys []string)
}

// Env is a container's environment: declared variables in order of declaration,
// then service variables.
type Env struct {
	Names  []string
	Values map[string]string
}

// Lookup finds a variable.
func (e *Env) Lookup(name string) (string, bool) {
	v, ok := e.Values[name]
	return v, ok
}

func (e *Env) set(name, value string) {
	if _, known := e.Values[name]; !known {
		e.Names = append(e.Names, name)
	}
	e.Values[name] = value
}

// BuildEnv resolves the environment of in.Container.
func BuildEnv(in EnvInput) (*Env, error) {
	env := &Env{Values: map[string]string{}}
	service := serviceEnv(in.Pod, in.Services)
	for _, from := range in.Container.EnvFrom {
		if err := in.addFrom(env, from); err != nil {
			return nil, err
		}
	}
	lookup := func(name string) (string, bool) {
		if v, ok := env.Values[name]; ok {
			return v, true
		}
		v, ok := service[name]
		return v, ok
	}
	for _, e := range in.Container.Env {
		value := e.Value
		switch {
		case value != "":
			value = Expand(value, lookup)
		case e.ValueFrom != nil:
			v, ok, err := in.valueFrom(e.ValueFrom)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			value = v
		}
		env.set(e.Name, value)
	}
	names := make([]string, 0, len(service))
	for name := range service {
		if _, declared := env.Values[name]; !declared {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		env.set(name, service[name])
	}
	return env, nil
}

func (in *EnvInput) addFrom(env *Env, from v1.EnvFromSource) error {
	var (
		data       = map[string]string{}
		kind, name string
	)
	switch {
	case from.ConfigMapRef != nil:
		kind, name = "configMap", from.ConfigMapRef.Name
		cm, err := in.Objects.ConfigMap(in.Pod.Namespace, name)
		if err != nil {
			return in.missing(err, from.ConfigMapRef.Optional)
		}
		data = cm.Data
	case from.SecretRef != nil:
		kind, name = "secret", from.SecretRef.Name
		s, err := in.Objects.Secret(in.Pod.Namespace, name)
		if err != nil {
			return in.missing(err, from.SecretRef.Optional)
		}
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	keys := make([]string, 0, len(data))
	for k := range data {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var invalid []string
	for _, k := range keys {
		full := from.Prefix + k
		if len(validation.IsRelaxedEnvVarName(full)) > 0 {
			invalid = append(invalid, full)
			continue
		}
		env.set(full, data[k])
	}
	if len(invalid) > 0 && in.Invalid != nil {
		in.Invalid(kind, name, invalid)
	}
	return nil
}

// missing swallows err where the source is optional and does not exist.
func (in *EnvInput) missing(err error, optional *bool) error {
	if optional != nil && *optional && in.NotFound(err) {
		return nil
	}
	return err
}

// valueFrom resolves one source; ok is false for an absent optional one.
func (in *EnvInput) valueFrom(from *v1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = Field(in.Pod, from.FieldRef.FieldPath, in.Fields)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = ResourceField(from.ResourceFieldRef, in.Pod, in.Container, in.Fields.Allocatable)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := in.Objects.ConfigMap(in.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, in.missing(err, ref.Optional)
		}
		if value, ok = cm.Data[ref.Key]; ok || ref.Optional != nil && *ref.Optional {
			return value, ok, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := in.Objects.Secret(in.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, in.missing(err, ref.Optional)
		}
		if data, ok := s.Data[ref.Key]; ok || ref.Optional != nil && *ref.Optional {
			return string(data), ok, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
	case from.FileKeyRef != nil:
		return "", false, fmt.Errorf("environment variables from a file (fileKeyRef) are not supported")
	}
	return "", false, fmt.Errorf("environment variable source is empty")
}

// serviceEnv returns the variables that announce services to pod: those of its
// namespace where it wants them, and always the API server's.
func serviceEnv(pod *v1.Pod, services []*v1.Service) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	env := map[string]string{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		master := s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes"
		if master && pod.Namespace != v1.NamespaceDefault && links && hasOwn(services, pod.Namespace, s.Name) {
			continue // the pod's own namespace wins
		}
		if master || links && s.Namespace == pod.Namespace {
			addService(env, s)
		}
	}
	return env
}

func hasOwn(services []*v1.Service, namespace, name string) bool {
	for _, s := range services {
		if s.Namespace == namespace && s.Name == name && s.Spec.ClusterIP != v1.ClusterIPNone {
			return true
		}
	}
	return false
}

func addService(env map[string]string, s *v1.Service) {
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	env[prefix+"_SERVICE_HOST"] = ip
	env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
		}
		protocol := "tcp"
		if p.Protocol != "" {
			protocol = strings.ToLower(string(p.Protocol))
		}
		address := protocol + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			env[prefix+"_PORT"] = address
		}
		link := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		env[link] = address
		env[link+"_PROTO"] = protocol
		env[link+"_PORT"] = port
		env[link+"_ADDR"] = ip
	}
}
