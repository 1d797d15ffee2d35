package dns

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Indexes added to the shared informers; the prefix keeps them apart from
// other components'.
const (
	indexService = "dns/service" // slices by namespace/service
	indexAddress = "dns/address" // Services by ClusterIP, slices by endpoint
)

// objects is the source over the informers' indexes.
type objects struct {
	namespaces corelisters.NamespaceLister
	services   corelisters.ServiceLister
	serviceAt  cache.Indexer
	sliceAt    cache.Indexer
}

func newObjects(factory informers.SharedInformerFactory) (*objects, []cache.InformerSynced, error) {
	namespaces, services, endpoints := factory.Core().V1().Namespaces(), factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices()
	err := services.Informer().AddIndexers(cache.Indexers{indexAddress: serviceAddresses})
	if err != nil {
		return nil, nil, err
	}
	err = endpoints.Informer().AddIndexers(cache.Indexers{indexAddress: sliceAddresses, indexService: sliceService})
	if err != nil {
		return nil, nil, err
	}
	o := &objects{namespaces: namespaces.Lister(), services: services.Lister(),
		serviceAt: services.Informer().GetIndexer(), sliceAt: endpoints.Informer().GetIndexer()}
	synced := []cache.InformerSynced{namespaces.Informer().HasSynced, services.Informer().HasSynced, endpoints.Informer().HasSynced}
	return o, synced, nil
}

func serviceAddresses(obj any) ([]string, error) {
	s, ok := obj.(*corev1.Service)
	if !ok || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	if len(s.Spec.ClusterIPs) > 0 {
		return s.Spec.ClusterIPs, nil
	}
	return []string{s.Spec.ClusterIP}, nil
}

func sliceAddresses(obj any) ([]string, error) {
	var list []string
	if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
		for _, e := range s.Endpoints {
			list = append(list, e.Addresses...)
		}
	}
	return list, nil
}

func sliceService(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
}

func (o *objects) namespace(name string) bool {
	_, err := o.namespaces.Get(name)
	return err == nil // a lister's only error is that there is none
}

func (o *objects) service(namespace, name string) *corev1.Service {
	s, err := o.services.Services(namespace).Get(name)
	if err != nil {
		return nil
	}
	return s
}

func (o *objects) slices(namespace, service string) []*discoveryv1.EndpointSlice {
	return indexed[*discoveryv1.EndpointSlice](o.sliceAt, indexService, namespace+"/"+service)
}

func (o *objects) servicesAt(ip string) []*corev1.Service {
	return indexed[*corev1.Service](o.serviceAt, indexAddress, ip)
}

func (o *objects) slicesAt(ip string) []*discoveryv1.EndpointSlice {
	return indexed[*discoveryv1.EndpointSlice](o.sliceAt, indexAddress, ip)
}

func indexed[T any](from cache.Indexer, index, value string) []T {
	found, err := from.ByIndex(index, value)
	if err != nil {
		panic("dns: " + err.Error()) // New added the index
	}
	list := make([]T, 0, len(found))
	for _, o := range found {
		if t, ok := o.(T); ok {
			list = append(list, t)
		}
	}
	return list
}
