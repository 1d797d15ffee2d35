package apiserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/utils/ptr"

	"gantry/cluster/resource"
)

// Node ports, as upstream's default of --service-node-port-range.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

var (
	errIPAllocated   = errors.New("provided IP is already allocated")
	errPortAllocated = errors.New("provided port is already allocated")
	errRangeFull     = errors.New("range is full")
)

// allocator gives Services their addresses and node ports. It is filled from
// the stored Services at start; what a request takes is given back if the
// request fails.
type allocator struct {
	subnet netip.Prefix

	mu    sync.Mutex
	ips   map[netip.Addr]bool
	ports map[int32]bool
}

func newAllocator(subnet netip.Prefix) *allocator {
	return &allocator{subnet: subnet.Masked(), ips: map[netip.Addr]bool{}, ports: map[int32]bool{}}
}

// take takes a certain address.
func (a *allocator) take(ip netip.Addr) error {
	if !a.subnet.Contains(ip) || ip == a.subnet.Addr() || ip == lastAddr(a.subnet) {
		return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, a.subnet)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ips[ip] {
		return errIPAllocated
	}
	a.ips[ip] = true
	return nil
}

// next takes a free address, from above the low band if it can: people pick
// fixed addresses there.
func (a *allocator) next() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := hosts(a.subnet)
	low := min(max(16, size/16), 256, size/2)
	for _, band := range [][2]int{{low, size}, {1, low}} {
		n := band[1] - band[0]
		if n <= 0 {
			continue
		}
		start := rand.IntN(n)
		for i := range n {
			ip := offset(a.subnet.Addr(), band[0]+(start+i)%n)
			if !a.ips[ip] {
				a.ips[ip] = true
				return ip, nil
			}
		}
	}
	return netip.Addr{}, errRangeFull
}

// hosts is the number above the last usable address's offset, bounded to what
// a search can visit.
func hosts(p netip.Prefix) int {
	bits := min(p.Addr().BitLen()-p.Bits(), 16)
	return 1<<bits - 1
}

func offset(base netip.Addr, n int) netip.Addr {
	b := base.AsSlice()
	for i := len(b) - 1; n > 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

func (a *allocator) takePort(port int32) error {
	if port < firstNodePort || port > lastNodePort {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", firstNodePort, lastNodePort)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ports[port] {
		return errPortAllocated
	}
	a.ports[port] = true
	return nil
}

func (a *allocator) nextPort() (int32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	const n = lastNodePort - firstNodePort + 1
	start := rand.Int32N(n)
	for i := range int32(n) {
		port := firstNodePort + (start+i)%n
		if !a.ports[port] {
			a.ports[port] = true
			return port, nil
		}
	}
	return 0, errRangeFull
}

func (a *allocator) release(g grant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ip := range g.ips {
		delete(a.ips, ip)
	}
	for _, port := range g.ports {
		delete(a.ports, port)
	}
}

// grant is what one Service holds, or what one request has taken.
type grant struct {
	ips   []netip.Addr
	ports []int32
}

// held is what a stored Service holds.
func held(ips []string, ports []int32) grant {
	var g grant
	for _, s := range ips {
		if ip, err := netip.ParseAddr(s); err == nil {
			g.ips = append(g.ips, ip)
		}
	}
	for _, p := range ports {
		if p != 0 {
			g.ports = append(g.ports, p)
		}
	}
	return g
}

func heldBy(s *corev1.Service) grant {
	ports := []int32{s.Spec.HealthCheckNodePort}
	for _, p := range s.Spec.Ports {
		ports = append(ports, p.NodePort)
	}
	return held(s.Spec.ClusterIPs, ports)
}

func heldByInternal(s *core.Service) grant {
	ports := []int32{s.Spec.HealthCheckNodePort}
	for _, p := range s.Spec.Ports {
		ports = append(ports, p.NodePort)
	}
	return held(s.Spec.ClusterIPs, ports)
}

// restore marks what a stored Service holds.
func (a *allocator) restore(s *corev1.Service) {
	g := heldBy(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ip := range g.ips {
		a.ips[ip] = true
	}
	for _, p := range g.ports {
		a.ports[p] = true
	}
}

// allocateCreate fills in a new Service's addresses and ports.
func (s *Server) allocateCreate(k *kind, obj runtime.Object, _ bool) (undo func(), err error) {
	svc, ok := obj.(*core.Service)
	if !ok {
		return func() {}, nil
	}
	if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	taken, err := s.alloc.fill(svc, nil)
	if err != nil {
		s.alloc.release(taken)
		return nil, err
	}
	return func() { s.alloc.release(taken) }, nil
}

// allocation is what an update of a Service has taken, and what it gives up.
type allocation struct{ undo, commit func() }

func (s *Server) allocateUpdate(_ *request, part resource.Change, obj, oldObj runtime.Object, _ bool) (allocation, error) {
	nothing := allocation{func() {}, func() {}}
	svc, ok := obj.(*core.Service)
	if !ok || part != resource.Main {
		return nothing, nil
	}
	old := oldObj.(*core.Service)
	keepAllocated(svc, old)
	syncClusterIPs(svc, old)
	before := heldByInternal(old)
	taken, err := s.alloc.fill(svc, old)
	if err != nil {
		s.alloc.release(taken)
		return nothing, err
	}
	return allocation{
		undo: func() { s.alloc.release(taken) },
		commit: func() {
			after := heldByInternal(svc)
			s.alloc.release(grant{
				ips:   slices.DeleteFunc(before.ips, func(ip netip.Addr) bool { return slices.Contains(after.ips, ip) }),
				ports: slices.DeleteFunc(before.ports, func(p int32) bool { return slices.Contains(after.ports, p) }),
			})
		},
	}, nil
}

// release gives back what a removed Service held.
func (s *Server) release(e *entry) {
	if svc, ok := e.obj.(*corev1.Service); ok {
		s.alloc.release(heldBy(svc))
	}
}

// fill sets families, addresses and ports of svc; old is nil on creation. It
// returns what it took even when it fails.
func (a *allocator) fill(svc, old *core.Service) (grant, error) {
	var taken grant
	if !resource.NeedsClusterIP(svc) {
		return taken, nil
	}
	if err := a.setFamilies(svc, old); err != nil {
		return taken, err
	}
	if err := a.fillAddress(svc, old, &taken); err != nil {
		return taken, err
	}
	return taken, a.fillPorts(svc, old, &taken)
}

// family is that of the one range there is.
func (a *allocator) family() core.IPFamily {
	if a.subnet.Addr().Is4() {
		return core.IPv4Protocol
	}
	return core.IPv6Protocol
}

func (a *allocator) setFamilies(svc, old *core.Service) error {
	headless := svc.Spec.ClusterIP == core.ClusterIPNone
	if svc.Spec.IPFamilyPolicy == nil {
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			svc.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		case headless && len(svc.Spec.Selector) == 0:
			svc.Spec.IPFamilyPolicy = ptr.To(core.IPFamilyPolicyRequireDualStack)
		default:
			svc.Spec.IPFamilyPolicy = ptr.To(core.IPFamilyPolicySingleStack)
		}
	}
	if errs := corevalidation.ValidateServiceClusterIPsRelatedFields(svc, old); len(errs) > 0 {
		return invalidService(svc, errs...)
	}
	if len(svc.Spec.IPFamilies) == 0 {
		svc.Spec.IPFamilies = []core.IPFamily{a.family()}
	}
	if headless && len(svc.Spec.Selector) == 0 {
		if *svc.Spec.IPFamilyPolicy != core.IPFamilyPolicySingleStack && len(svc.Spec.IPFamilies) == 1 {
			svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, other(svc.Spec.IPFamilies[0]))
		}
		return nil
	}
	if *svc.Spec.IPFamilyPolicy == core.IPFamilyPolicyRequireDualStack {
		return invalidService(svc, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), svc.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range svc.Spec.IPFamilies {
		if f != a.family() {
			return invalidService(svc, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return nil
}

func other(f core.IPFamily) core.IPFamily {
	if f == core.IPv4Protocol {
		return core.IPv6Protocol
	}
	return core.IPv4Protocol
}

func invalidService(svc *core.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(core.Kind("Service"), svc.Name, errs)
}

func (a *allocator) fillAddress(svc, old *core.Service, taken *grant) error {
	if svc.Spec.ClusterIP == core.ClusterIPNone {
		return nil
	}
	if old != nil && resource.NeedsClusterIP(old) && len(old.Spec.ClusterIPs) > 0 && old.Spec.ClusterIP != core.ClusterIPNone {
		return nil // it has one; validation refuses to change it
	}
	path := field.NewPath("spec", "clusterIPs")
	if len(svc.Spec.ClusterIPs) == 0 || svc.Spec.ClusterIPs[0] == "" {
		ip, err := a.next()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", svc.Name, err))
		}
		taken.ips = append(taken.ips, ip)
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = ip.String(), []string{ip.String()}
		return nil
	}
	want := svc.Spec.ClusterIPs[0]
	ip, err := netip.ParseAddr(want)
	if err != nil {
		return nil // validation names it
	}
	if err := a.take(ip); err != nil {
		return invalidService(svc, field.Invalid(path, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", want, err)))
	}
	taken.ips = append(taken.ips, ip)
	return nil
}

// fillPorts gives every port its node port. Ports that share a number (TCP and
// UDP) share the node port as well.
func (a *allocator) fillPorts(svc, old *core.Service, taken *grant) error {
	if svc.Spec.Type != core.ServiceTypeNodePort && svc.Spec.Type != core.ServiceTypeLoadBalancer {
		return nil
	}
	var had []int32
	if old != nil {
		had = heldByInternal(old).ports
	}
	byPort := map[int32]int32{}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort == 0 {
			p.NodePort = byPort[p.Port]
		}
		if p.NodePort == 0 && !resource.NeedsNodePort(svc) {
			continue
		}
		switch {
		case p.NodePort == 0:
			port, err := a.nextPort()
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
			p.NodePort = port
			taken.ports = append(taken.ports, port)
		case slices.Contains(had, p.NodePort) || slices.Contains(taken.ports, p.NodePort):
		default:
			if err := a.takePort(p.NodePort); err != nil {
				return invalidService(svc, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
			}
			taken.ports = append(taken.ports, p.NodePort)
		}
		byPort[p.Port] = p.NodePort
	}
	return a.fillHealthCheckPort(svc, had, taken)
}

func (a *allocator) fillHealthCheckPort(svc *core.Service, had []int32, taken *grant) error {
	if !resource.NeedsHealthCheckPort(svc) || slices.Contains(had, svc.Spec.HealthCheckNodePort) {
		return nil
	}
	want := svc.Spec.HealthCheckNodePort
	var err error
	if want == 0 {
		want, err = a.nextPort()
	} else {
		err = a.takePort(want)
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", want, err))
	}
	svc.Spec.HealthCheckNodePort = want
	taken.ports = append(taken.ports, want)
	return nil
}
