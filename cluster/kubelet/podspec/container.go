package podspec

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerInput is all that a container's configuration derives from.
type ContainerInput struct {
	Pod            *v1.Pod
	Container      *v1.Container
	Attempt        uint32
	ImageID        string
	ImageUser      ImageUser
	Env            *Env
	Mounts         []*runtimeapi.Mount
	MemoryCapacity int64
}

// Container is the configuration of one container of a pod.
func Container(in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	c := in.Container
	if err := unsupported(c); err != nil {
		return nil, err
	}
	if err := VerifyNonRoot(in.Pod, c, in.ImageUser); err != nil {
		return nil, err
	}
	config := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageID, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, in.Env.Lookup),
		Args:        expandAll(c.Args, in.Env.Lookup),
		WorkingDir:  c.WorkingDir,
		Mounts:      in.Mounts,
		Labels:      ContainerLabels(in.Pod, c.Name),
		Annotations: containerAnnotations(in.Pod, c, in.Attempt),
		LogPath:     LogPath(c.Name, in.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       Resources(in.Pod, c, in.MemoryCapacity),
			SecurityContext: securityContext(in.Pod, c, in.ImageUser),
		},
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		config.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value[string(*c.Lifecycle.StopSignal)])
	}
	for _, name := range in.Env.Names {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(in.Env.Values[name])})
	}
	return config, nil
}

// unsupported names what this kubelet cannot give a container.
func unsupported(c *v1.Container) error {
	switch {
	case len(c.VolumeDevices) > 0:
		return fmt.Errorf("raw block volumes (volumeDevices) are not supported")
	case len(c.Resources.Claims) > 0:
		return fmt.Errorf("resource claims are not supported")
	}
	return nil
}
