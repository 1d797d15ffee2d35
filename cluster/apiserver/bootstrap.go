package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// kubernetesName names the Service of the API server itself.
const kubernetesName = "kubernetes"

// bootstrap makes the objects that every cluster has. It is idempotent.
func (s *Server) bootstrap(ctx context.Context) error {
	c, err := s.client(corev1.SchemeGroupVersion, "/api")
	if err != nil {
		return err
	}
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault} {
		if s.namespaceOf(nil, name) != nil {
			continue
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := ensure(c.Post().Resource("namespaces").Body(ns).Do(ctx).Error()); err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		// Its controller would make it soon; pods that come first need it now.
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultAccount}}
		if err := ensure(c.Post().Namespace(name).Resource("serviceaccounts").Body(sa).Do(ctx).Error()); err != nil {
			return fmt.Errorf("service account of %s: %w", name, err)
		}
	}
	return s.bootstrapService(ctx, c)
}

// ensure accepts that an object exists.
func ensure(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// client is a client of this server for one group.
func (s *Server) client(gv schema.GroupVersion, apiPath string) (*rest.RESTClient, error) {
	cfg := s.Loopback()
	cfg.APIPath, cfg.GroupVersion = apiPath, &gv
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	return rest.RESTClientFor(cfg)
}

// bootstrapService points the Service "kubernetes" at this server.
func (s *Server) bootstrapService(ctx context.Context, c *rest.RESTClient) error {
	port, addr, ok := s.advertised()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"provider": kubernetesName, "component": "apiserver"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.serviceAddress().String(),
			Ports:     []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}},
		},
	}
	key := s.kinds.services.cache.prefix + metav1.NamespaceDefault + "/" + kubernetesName
	if s.kinds.services.cache.get(key) == nil {
		if err := ensure(c.Post().Namespace(metav1.NamespaceDefault).Resource("services").Body(svc).Do(ctx).Error()); err != nil {
			return fmt.Errorf("service kubernetes: %w", err)
		}
	}
	if !ok {
		return nil // Loopback alone: nothing to point at
	}
	return s.bootstrapSlice(ctx, addr, port)
}

func (s *Server) bootstrapSlice(ctx context.Context, addr netip.Addr, port int32) error {
	c, err := s.client(discoveryv1.SchemeGroupVersion, "/apis")
	if err != nil {
		return err
	}
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesName},
		},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("https"), Protocol: ptr.To(corev1.ProtocolTCP), Port: &port}},
	}
	in := func(r *rest.Request) *rest.Request {
		return r.Namespace(metav1.NamespaceDefault).Resource("endpointslices")
	}
	err = in(c.Post()).Body(slice).Do(ctx).Error()
	if apierrors.IsAlreadyExists(err) {
		err = in(c.Put()).Name(slice.Name).Body(slice).Do(ctx).Error()
	}
	if err != nil {
		return fmt.Errorf("endpoints of kubernetes: %w", err)
	}
	return nil
}

// serviceAddress is the first of the Service range.
func (s *Server) serviceAddress() netip.Addr { return s.cfg.ServiceSubnet.Masked().Addr().Next() }

// advertised is where pods reach this server.
func (s *Server) advertised() (port int32, addr netip.Addr, ok bool) {
	host, portText, err := net.SplitHostPort(s.Addr())
	if err != nil {
		return 443, netip.Addr{}, false
	}
	n, err := strconv.ParseInt(portText, 10, 32)
	if err != nil {
		return 443, netip.Addr{}, false
	}
	addr = s.cfg.AdvertiseAddress
	if !addr.IsValid() {
		addr, err = netip.ParseAddr(host)
	}
	// Validation refuses endpoints on loopback: pods could not reach them.
	return int32(n), addr, err == nil && !addr.IsLoopback() && !addr.IsUnspecified()
}
