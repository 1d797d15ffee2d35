package cri

import (
	"context"

	devents "github.com/moby/moby/api/types/events"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"gantry/engine"
)

// eventTypes are the events that CRI has, of all that the engine tells.
var eventTypes = map[devents.Action]runtimeapi.ContainerEventType{
	devents.ActionCreate:  runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
	devents.ActionStart:   runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	devents.ActionDie:     runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	devents.ActionDestroy: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// GetContainerEvents sends an event for each change of a pod's container until
// ctx ends. established, which may be nil, is called (with nil) once no event
// is missed any more. An event names container and pod; who needs their state
// asks for it.
func (s *Service) GetContainerEvents(ctx context.Context, events chan *runtimeapi.ContainerEventResponse,
	established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	opts := engine.EventsOptions{Filters: engine.Filters{"type": {string(devents.ContainerEventType)}}}
	registered := func() {
		if established != nil {
			established(nil)
		}
	}
	return s.cfg.Engine.Events(ctx, opts, registered, func(ev engine.Event) error {
		e := containerEvent(ev)
		if e == nil {
			return nil
		}
		select {
		case events <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// containerEvent translates an event, or returns nil where CRI has none.
func containerEvent(ev engine.Event) *runtimeapi.ContainerEventResponse {
	kind, ok := eventTypes[ev.Action]
	labels := ev.Actor.Attributes
	uid := labels[kubelettypes.KubernetesPodUIDLabel]
	if !ok || uid == "" {
		return nil
	}
	return &runtimeapi.ContainerEventResponse{
		ContainerId: ev.Actor.ID, ContainerEventType: kind, CreatedAt: ev.TimeNano,
		PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{
			Name: labels[kubelettypes.KubernetesPodNameLabel], Namespace: labels[kubelettypes.KubernetesPodNamespaceLabel], Uid: uid}},
	}
}
