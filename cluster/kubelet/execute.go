package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/cluster/kubelet/plan"
	"gantry/cluster/kubelet/podspec"
)

// execute does what was decided and tells whether the situation is another now.
// A container being stopped is not waited for: its end is an event.
func (k *Kubelet) execute(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed, a *plan.Actions) (again bool, err error) {
	for _, id := range a.Remove {
		if err := k.removeAttempt(ctx, pod, seen, id); err != nil {
			return false, err
		}
	}
	for _, id := range a.RemoveSandbox {
		if err := k.cfg.Runtime.RemovePodSandbox(ctx, id); err != nil {
			return false, err
		}
	}
	for _, kl := range a.Kill {
		k.stop(ctx, st, pod, kl)
	}
	for _, id := range a.StopSandbox {
		if err := k.cfg.Runtime.StopPodSandbox(ctx, id); err != nil {
			return false, err
		}
		again = true
	}
	if a.CreateSandbox {
		return k.createSandbox(ctx, st, pod, a.Attempt), nil
	}
	if len(a.Start) > 0 && !k.volumesReady(ctx, st, pod, seen, a.Start) {
		return false, nil
	}
	for _, s := range a.Start {
		if interrupted(st) {
			return true, nil // deleted meanwhile: decide anew
		}
		again = k.start(ctx, st, pod, seen, s) || again
	}
	return again, nil
}

// interrupted tells whether the pod was deleted since the sync began.
func interrupted(st *podState) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return (st.gone || st.pod.DeletionTimestamp != nil) && st.terminate == nil
}

// removeAttempt removes a container that is not needed any more, and its log.
func (k *Kubelet) removeAttempt(ctx context.Context, pod *v1.Pod, seen *plan.Observed, id string) error {
	if err := k.cfg.Runtime.RemoveContainer(ctx, id); err != nil {
		return err
	}
	for name, list := range seen.Containers {
		for i := range list {
			if list[i].Id != id {
				continue
			}
			n := list[i].Metadata.GetAttempt()
			path := filepath.Join(k.podLogDir(pod), podspec.LogPath(name, n))
			older, _ := filepath.Glob(path + "*") // the pattern is well-formed
			for _, f := range older {
				if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			return os.RemoveAll(k.messageFile(pod.UID, name, n))
		}
	}
	return nil
}

// fail notes that a try to start something of the pod failed, and when to try
// again. name is "" for the sandbox.
func (k *Kubelet) fail(st *podState, name, reason, message string, wait time.Duration) {
	n := st.failures[name]
	st.failures[name] = n + 1
	if wait == 0 {
		wait = min(time.Second<<min(n, 16), plan.MaxBackoff)
	}
	st.failed[name] = plan.Hold{Reason: reason, Message: message, Until: time.Now().Add(wait)}
}

func (k *Kubelet) succeed(st *podState, name string) {
	delete(st.failed, name)
	delete(st.failures, name)
}

func (k *Kubelet) createSandbox(ctx context.Context, st *podState, pod *v1.Pod, attempt uint32) bool {
	if attempt > 0 {
		k.recorder.Event(pod, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	logDir := k.podLogDir(pod)
	err := os.MkdirAll(logDir, 0o755)
	if err == nil {
		err = k.starting.Acquire(ctx, 1)
	}
	if err == nil {
		handler := ""
		if pod.Spec.RuntimeClassName != nil {
			handler = *pod.Spec.RuntimeClassName
		}
		_, err = k.cfg.Runtime.RunPodSandbox(ctx, podspec.Sandbox(pod, attempt, logDir, k.cluster), handler)
		k.starting.Release(1)
	}
	if err != nil {
		if ctx.Err() == nil {
			k.recorder.Eventf(pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
			k.fail(st, "", "", err.Error(), 0)
			k.queue.AddAfter(st.uid, time.Until(st.failed[""].Until))
		}
		return false
	}
	k.succeed(st, "")
	st.hosts = ""
	return true
}

// containerRef is the object of a container's events.
func containerRef(pod *v1.Pod, c *v1.Container) *v1.ObjectReference {
	ref := &v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	field := "spec.containers"
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			field = "spec.initContainers"
		}
	}
	ref.FieldPath = fmt.Sprintf("%s{%s}", field, c.Name)
	return ref
}

// startError is why a container was not started, in the words of its status.
type startError struct {
	reason, message string
	wait            time.Duration // until the next try; 0: grows with each failure
}

// start makes and starts one container. It reports true if the runtime has a
// new container now, started or not.
func (k *Kubelet) start(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed, s plan.Start) bool {
	c := s.Container
	id, serr := k.create(ctx, st, pod, seen, s)
	if serr != nil {
		if ctx.Err() == nil {
			k.fail(st, c.Name, serr.reason, serr.message, serr.wait)
			k.queue.AddAfter(st.uid, time.Millisecond) // to tell it and to hold
		}
		return false
	}
	if last := seen.Newest(c.Name); last != nil && last.Exited() {
		st.backoff[c.Name] = st.backoff[c.Name].Next(time.Unix(0, last.FinishedAt), time.Now())
	}
	ref := containerRef(pod, c)
	k.recorder.Event(ref, v1.EventTypeNormal, "Created", "Container created")
	if err := k.startCreated(ctx, id); err != nil {
		if ctx.Err() == nil {
			k.recorder.Eventf(ref, v1.EventTypeWarning, "Failed", "Error: %v", err)
			k.fail(st, c.Name, "RunContainerError", err.Error(), 0)
		}
		return true
	}
	k.succeed(st, c.Name)
	k.recorder.Event(ref, v1.EventTypeNormal, "Started", "Container started")
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		k.postStart(ctx, st, pod, seen, c, id)
	}
	return true
}

func (k *Kubelet) startCreated(ctx context.Context, id string) error {
	if err := k.starting.Acquire(ctx, 1); err != nil {
		return err
	}
	defer k.starting.Release(1)
	return k.cfg.Runtime.StartContainer(ctx, id)
}

// volumesReady sets the pod's volumes up; the containers in list wait where
// that fails.
func (k *Kubelet) volumesReady(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed, list []plan.Start) bool {
	err := k.setUpVolumes(ctx, st, pod, seen)
	if err == nil {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	for _, e := range unjoin(err) {
		k.recorder.Event(pod, v1.EventTypeWarning, "FailedMount", e.Error())
	}
	reason := "ContainerCreating"
	if len(pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	for _, s := range list {
		k.fail(st, s.Container.Name, reason, "", 0)
	}
	k.queue.AddAfter(st.uid, time.Millisecond)
	return false
}

// create makes one container: image, environment, configuration.
func (k *Kubelet) create(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed, s plan.Start) (id string, serr *startError) {
	c, ref := s.Container, containerRef(pod, s.Container)
	failed := func(reason string, err error) *startError {
		k.recorder.Eventf(ref, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return &startError{reason: reason, message: err.Error()}
	}
	img, serr := k.ensureImage(ctx, st, pod, c)
	if serr != nil {
		return "", serr
	}
	env, err := k.environment(ctx, st, pod, c, seen)
	if err != nil {
		return "", failed("CreateContainerConfigError", err)
	}
	mounts, err := k.mounts(st, pod, c, s.Attempt, env)
	if err != nil {
		return "", failed("CreateContainerConfigError", err)
	}
	config, err := podspec.Container(podspec.ContainerInput{
		Pod: pod, Container: c, Attempt: s.Attempt, ImageID: img.id, ImageUser: img.user,
		Env: env, Mounts: mounts, MemoryCapacity: k.node.MemoryCapacity(),
	})
	if err != nil {
		return "", failed("CreateContainerConfigError", err)
	}
	logDir := k.podLogDir(pod)
	if err := os.MkdirAll(filepath.Join(logDir, c.Name), 0o755); err != nil {
		return "", failed("CreateContainerError", err)
	}
	if err := k.starting.Acquire(ctx, 1); err != nil {
		return "", &startError{}
	}
	sb := seen.Sandbox()
	id, err = k.cfg.Runtime.CreateContainer(ctx, sb.Id, config, podspec.Sandbox(pod, sb.Metadata.GetAttempt(), logDir, k.cluster))
	k.starting.Release(1)
	if err != nil {
		return "", failed("CreateContainerError", err)
	}
	return id, nil
}

// unjoin takes errors.Join apart, for one event each.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // exactly this error, not its chain
		return joined.Unwrap()
	}
	return []error{err}
}

// mounts lists what is mounted into a container.
func (k *Kubelet) mounts(st *podState, pod *v1.Pod, c *v1.Container, attempt uint32, env *podspec.Env) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	hostsTaken := false
	for i, vm := range c.VolumeMounts {
		v, ok := st.mounted[vm.Name]
		if !ok {
			return nil, fmt.Errorf("volume %q of container %s is not mounted", vm.Name, c.Name)
		}
		m := &runtimeapi.Mount{ContainerPath: vm.MountPath, HostPath: v.HostPath, Readonly: vm.ReadOnly || v.ReadOnly}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = expandStrict(vm.SubPathExpr, env); err != nil {
				return nil, err
			}
		}
		if sub != "" {
			path, err := k.volumes.SubPath(pod.UID, c.Name, i, v.HostPath, sub)
			if err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
			}
			m.HostPath = path
		}
		if !filepath.IsAbs(m.ContainerPath) {
			m.ContainerPath = "/" + m.ContainerPath
		}
		if p := vm.MountPropagation; p != nil {
			switch *p {
			case v1.MountPropagationHostToContainer:
				m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
			case v1.MountPropagationBidirectional:
				m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
			}
		}
		if r := vm.RecursiveReadOnly; r != nil && *r == v1.RecursiveReadOnlyEnabled {
			m.RecursiveReadOnly = true
		}
		hostsTaken = hostsTaken || vm.MountPath == "/etc/hosts"
		out = append(out, m)
	}
	if !hostsTaken {
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: filepath.Join(k.podDir(pod.UID), "etc-hosts")})
	}
	if c.TerminationMessagePath != "" {
		path := k.messageFile(pod.UID, c.Name, attempt)
		if err := emptyFile(path); err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path})
	}
	return out, nil
}

// expandStrict is Expand where an unknown variable is an error.
func expandStrict(text string, env *podspec.Env) (string, error) {
	var unknown []string
	out := podspec.Expand(text, func(name string) (string, bool) {
		v, ok := env.Lookup(name)
		if !ok {
			unknown = append(unknown, name)
		}
		return v, ok
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("missing value for %q", strings.Join(unknown, ", "))
	}
	return out, nil
}

// emptyFile makes the file that a container's user, whoever that is, writes its
// termination message to.
func emptyFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close())
}
