package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"gantry/cluster/kubelet/plan"
	"gantry/cluster/kubelet/podspec"
	"gantry/cluster/kubelet/probe"
)

// minimumGrace is what a container gets to stop even where nothing is left of
// the pod's grace period.
const minimumGrace = 2 * time.Second

// stopping is a container on its way to its end.
type stopping struct {
	deadline time.Time
	cancel   context.CancelFunc
	hooked   bool // the preStop hook has been run, or is running
}

// stop begins to stop a container, or hastens it where it is being stopped
// already. The end is reported by the runtime's events.
func (k *Kubelet) stop(ctx context.Context, st *podState, pod *v1.Pod, kl plan.Kill) {
	deadline := time.Now().Add(kl.Grace)
	st.mu.Lock()
	old := st.stopping[kl.ID]
	if old != nil && !deadline.Before(old.deadline.Add(-time.Second)) {
		st.mu.Unlock()
		return
	}
	stopCtx, cancel := context.WithCancel(ctx)
	now := &stopping{deadline: deadline, cancel: cancel, hooked: old != nil || kl.Grace == 0}
	st.stopping[kl.ID] = now
	st.mu.Unlock()

	c := podspec.FindContainer(pod, kl.Name)
	if old != nil {
		old.cancel()
	} else if c != nil {
		message := kl.Message
		if message == "" {
			message = "Stopping container " + kl.Name
		}
		k.recorder.Event(containerRef(pod, c), v1.EventTypeNormal, "Killing", message)
	}
	k.wg.Go(func() {
		defer cancel()
		err := k.stopNow(stopCtx, pod, c, kl, now)
		st.mu.Lock()
		superseded := st.stopping[kl.ID] != now
		if !superseded {
			delete(st.stopping, kl.ID)
		}
		st.mu.Unlock()
		if superseded || ctx.Err() != nil {
			return
		}
		if err != nil {
			k.recorder.Eventf(pod, v1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
			k.log.Warn("container not stopped", "container", kl.ID, "err", err)
			k.queue.AddAfter(st.uid, observeRetry)
			return
		}
		k.queue.Add(st.uid)
	})
}

func (k *Kubelet) stopNow(ctx context.Context, pod *v1.Pod, c *v1.Container, kl plan.Kill, now *stopping) error {
	if c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && !now.hooked {
		hookCtx, cancel := context.WithDeadline(ctx, now.deadline)
		if err := k.hook(hookCtx, pod, c, kl.ID, c.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
			k.recorder.Event(containerRef(pod, c), v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			k.log.Info("preStop hook failed", "container", kl.ID, "pod", pod.Name, "err", err)
		}
		cancel()
	}
	left := time.Until(now.deadline)
	if kl.Grace > 0 && left < minimumGrace {
		left = minimumGrace
	}
	return k.cfg.Runtime.StopContainer(ctx, kl.ID, max(int64((left+time.Second-1)/time.Second), 0))
}

// postStart runs a container's postStart hook; where that fails the container
// is stopped. Deleting the pod ends the hook.
func (k *Kubelet) postStart(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed, c *v1.Container, id string) {
	hookCtx, cancel := context.WithCancel(ctx)
	st.mu.Lock()
	st.interrupt = cancel
	if st.gone || st.pod.DeletionTimestamp != nil {
		cancel()
	}
	st.mu.Unlock()
	err := k.hookAt(hookCtx, pod, c, id, c.Lifecycle.PostStart, k.hookIP(pod, seen))
	st.mu.Lock()
	st.interrupt = nil
	st.mu.Unlock()
	interrupted := hookCtx.Err() != nil
	cancel()
	if err == nil || interrupted {
		return
	}
	k.recorder.Event(containerRef(pod, c), v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	k.log.Info("postStart hook failed", "container", id, "pod", pod.Name, "err", err)
	k.fail(st, c.Name, "PostStartHookError", "PostStartHook failed", time.Millisecond)
	k.stop(ctx, st, pod, plan.Kill{ID: id, Name: c.Name, Message: "FailedPostStartHook", Grace: plan.GracePeriod(pod)})
}

func (k *Kubelet) hookIP(pod *v1.Pod, seen *plan.Observed) string {
	if sb := seen.Sandbox(); sb != nil && !pod.Spec.HostNetwork {
		return sb.Network.GetIp()
	}
	return k.cfg.NodeIP.String()
}

// hook runs a hook of a pod whose address is asked from the API's status.
func (k *Kubelet) hook(ctx context.Context, pod *v1.Pod, c *v1.Container, id string, h *v1.LifecycleHandler) error {
	ip := pod.Status.PodIP
	if pod.Spec.HostNetwork || ip == "" {
		ip = k.cfg.NodeIP.String()
	}
	return k.hookAt(ctx, pod, c, id, h, ip)
}

func (k *Kubelet) hookAt(ctx context.Context, pod *v1.Pod, c *v1.Container, id string, h *v1.LifecycleHandler, ip string) error {
	switch {
	case h.Exec != nil:
		out, _, err := k.cfg.Runtime.ExecSync(ctx, id, h.Exec.Command, 0)
		if err != nil {
			//lint:ignore ST1005 the reference's wording
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %w, message: %q", h.Exec.Command, c.Name, podspec.Format(pod), err, out)
		}
		return nil
	case h.HTTPGet != nil:
		timeout := 30 * time.Second
		if deadline, ok := ctx.Deadline(); ok {
			timeout = time.Until(deadline)
		}
		return probe.HTTPGet(ctx, h.HTTPGet, c, ip, timeout)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("lifecycle handler without an action")
}

// probeExec runs an exec probe's command.
func (k *Kubelet) probeExec(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
	stdout, stderr, err := k.cfg.Runtime.ExecSync(ctx, id, command, timeout)
	return append(stdout, stderr...), err
}

// probed is told that the health of a container changed.
func (k *Kubelet) probed(t probe.Target) { k.queue.Add(t.Pod.UID) }

func (k *Kubelet) probeFailed(t probe.Target, kind probe.Kind, output string) {
	k.recorder.Eventf(containerRef(t.Pod, t.Container), v1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", kind, output)
}

// tellBackoff records an event for each container that newly has to wait
// before it is restarted.
func (k *Kubelet) tellBackoff(st *podState, pod *v1.Pod, holds map[string]plan.Hold) {
	for name, h := range holds {
		if h.Reason != "CrashLoopBackOff" || st.held[name].Equal(h.Until) {
			continue
		}
		st.held[name] = h.Until
		k.recorder.Eventf(containerRef(pod, podspec.FindContainer(pod, name)), v1.EventTypeWarning, "BackOff",
			"Back-off restarting failed container %s in pod %s", name, podspec.Format(pod))
	}
}
