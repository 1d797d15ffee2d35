package loop

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
)

// maxPending bounds the events that wait to be written: those of a burst of
// a few hundred pods. More are dropped.
const maxPending = 1000

// Recorder writes Events in the name of a component, as kubectl describe
// shows them: in the background, like ones merged into one with a count, and
// the 26th of a type in a short time about one object dropped, as the reference does.
//
// client-go's own broadcaster does not end with its owner: it may write, and
// wait to write, after Shutdown.
type Recorder struct {
	client     kubernetes.Interface
	source     corev1.EventSource
	correlator *record.EventCorrelator
	pending    chan *corev1.Event
}

// NewRecorder starts a Recorder. stop ends it and must be called; it waits for
// the write under way and drops what is left.
func NewRecorder(ctx context.Context, client kubernetes.Interface, component string) (_ *Recorder, stop func()) {
	r := &Recorder{
		client:     client,
		source:     corev1.EventSource{Component: component},
		correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{}),
		pending:    make(chan *corev1.Event, maxPending),
	}
	ctx, cancel := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-r.pending:
				r.write(ctx, e)
			}
		}
	})
	return r, func() { cancel(); writer.Wait() }
}

// Event records that something happened to object. It does not block.
func (r *Recorder) Event(object runtime.Object, kind, reason, message string) {
	ref, err := reference.GetReference(scheme.Scheme, object)
	if err != nil {
		return // not an API object: nothing to attach it to
	}
	now := metav1.NewTime(time.Now())
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: ref.Name + "." + strconv.FormatInt(now.UnixNano(), 16),
		},
		InvolvedObject: *ref, Type: kind, Reason: reason, Message: message,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: r.source, ReportingController: r.source.Component,
	}
	select {
	case r.pending <- e:
	default:
	}
}

// Eventf is Event with a formatted message.
func (r *Recorder) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	r.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

// write writes one event. Errors are not reported: an event is a courtesy, and
// what it tells is in the object's status too.
func (r *Recorder) write(ctx context.Context, e *corev1.Event) {
	result, err := r.correlator.EventCorrelate(e)
	if err != nil || result.Skip {
		return
	}
	e = result.Event
	events := r.client.CoreV1().Events(e.Namespace)
	var written *corev1.Event
	if e.Count > 1 {
		written, err = events.Patch(ctx, e.Name, types.StrategicMergePatchType, result.Patch, metav1.PatchOptions{})
	}
	if e.Count == 1 || apierrors.IsNotFound(err) {
		e.ResourceVersion = ""
		written, err = events.Create(ctx, e, metav1.CreateOptions{})
	}
	if err == nil {
		r.correlator.UpdateState(written)
	}
}
