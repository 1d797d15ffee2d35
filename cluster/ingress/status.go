package ingress

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// component is who our events are from.
const component = "gantry-ingress"

// status writes what users see on their Ingresses: the address, and what of
// them is not served.
type status struct {
	cfg   Config
	log   *slog.Logger
	again func()         // has update called once more
	tasks errgroup.Group // writes under way, a few at a time

	mu   sync.Mutex
	told map[types.UID]string // versions that were written about
}

// concurrentWrites bounds the writes under way.
const concurrentWrites = 4

func newStatus(cfg Config, log *slog.Logger, again func()) *status {
	s := &status{cfg: cfg, log: log, again: again, told: make(map[types.UID]string)}
	s.tasks.SetLimit(concurrentWrites)
	return s
}

func (s *status) wait() { _ = s.tasks.Wait() } // tasks return no errors

// writeTimeout bounds one write; a failed one is tried again after retryPause.
const (
	writeTimeout = 5 * time.Second
	retryPause   = 2 * time.Second
)

// update writes to those that changed since they were last written about.
func (s *status) update(ctx context.Context, ours []*networkingv1.Ingress) {
	for _, in := range s.changed(ours) {
		want, notes := s.address(), unsupported(in)
		if sameStatus(in, want) && len(notes) == 0 {
			continue
		}
		s.tasks.Go(func() error {
			write, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			if err := s.write(write, in, want, notes); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot write the status of an Ingress", "namespace", in.Namespace, "ingress", in.Name, "err", err)
				s.mu.Lock()
				delete(s.told, in.UID)
				s.mu.Unlock()
				time.AfterFunc(retryPause, s.again)
			}
			return nil
		})
	}
}

// changed returns those of another version than last time, and remembers all.
func (s *status) changed(ours []*networkingv1.Ingress) []*networkingv1.Ingress {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := make(map[types.UID]string, len(ours))
	var list []*networkingv1.Ingress
	for _, in := range ours {
		told[in.UID] = in.ResourceVersion
		if before, known := s.told[in.UID]; !known || before != in.ResourceVersion {
			list = append(list, in)
		}
	}
	s.told = told
	return list
}

// sameStatus tells whether the address needs no write.
func sameStatus(in *networkingv1.Ingress, want []networkingv1.IngressLoadBalancerIngress) bool {
	return len(want) == 0 || slices.EqualFunc(in.Status.LoadBalancer.Ingress, want, sameAddress)
}

func sameAddress(a, b networkingv1.IngressLoadBalancerIngress) bool {
	return a.IP == b.IP && a.Hostname == b.Hostname
}

func (s *status) address() []networkingv1.IngressLoadBalancerIngress {
	if s.cfg.Address == "" {
		return nil
	}
	if _, err := netip.ParseAddr(s.cfg.Address); err == nil {
		return []networkingv1.IngressLoadBalancerIngress{{IP: s.cfg.Address}}
	}
	return []networkingv1.IngressLoadBalancerIngress{{Hostname: s.cfg.Address}}
}

// note is something that an Ingress asks for and does not get.
type note struct{ reason, message string }

// unsupported lists what of an Ingress is not served.
func unsupported(in *networkingv1.Ingress) []note {
	var notes []note
	if len(in.Spec.TLS) > 0 {
		notes = append(notes, note{"TLSNotServed", "spec.tls is not supported yet: the hosts of this Ingress are served by plain HTTP"})
	}
	backends := []*networkingv1.IngressBackend{in.Spec.DefaultBackend}
	for _, rule := range in.Spec.Rules {
		if rule.HTTP != nil {
			for i := range rule.HTTP.Paths {
				backends = append(backends, &rule.HTTP.Paths[i].Backend)
			}
		}
	}
	if slices.ContainsFunc(backends, func(b *networkingv1.IngressBackend) bool { return b != nil && b.Resource != nil }) {
		notes = append(notes, note{"BackendNotSupported", "backends other than Services are not supported: requests to them get 503"})
	}
	return notes
}

func (s *status) write(ctx context.Context, in *networkingv1.Ingress, want []networkingv1.IngressLoadBalancerIngress, notes []note) error {
	for _, n := range notes {
		if err := s.tell(ctx, in, n); err != nil {
			return err
		}
	}
	if sameStatus(in, want) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": networkingv1.IngressLoadBalancerStatus{Ingress: want}}})
	if err != nil {
		return err
	}
	_, err = s.cfg.Client.NetworkingV1().Ingresses(in.Namespace).Patch(ctx, in.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil // deleted meanwhile
	}
	return err
}

// tell makes an event, once for each generation of the object.
func (s *status) tell(ctx context.Context, in *networkingv1.Ingress, n note) error {
	now := metav1.Now()
	_, err := s.cfg.Client.CoreV1().Events(in.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: in.Namespace, Name: fmt.Sprintf("%s.%.8s.%d.%s", in.Name, in.UID, in.Generation, strings.ToLower(n.reason))},
		InvolvedObject: corev1.ObjectReference{Kind: "Ingress", APIVersion: networkingv1.SchemeGroupVersion.String(),
			Namespace: in.Namespace, Name: in.Name, UID: in.UID, ResourceVersion: in.ResourceVersion},
		Type: corev1.EventTypeWarning, Reason: n.reason, Message: n.message,
		Source: corev1.EventSource{Component: component}, ReportingController: component,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
