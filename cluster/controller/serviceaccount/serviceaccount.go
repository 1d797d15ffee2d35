// Package serviceaccount gives every namespace what its pods run with: the
// ServiceAccount "default" and the ConfigMap "kube-root-ca.crt", by which they
// know the API server. Both come back when they are deleted or changed.
//
// It starts no goroutines but those of its loop and of its informer over the
// ConfigMaps of that one name.
package serviceaccount

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
)

const (
	accountName   = "default"
	bundleName    = "kube-root-ca.crt"
	bundleKey     = "ca.crt"
	describeKey   = "kubernetes.io/description"
	describeValue = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	CA        []byte                          // PEM certificates that verify the API server
	Logger    *slog.Logger                    // nil discards
}

// Controller reconciles namespaces.
type Controller struct {
	client     kubernetes.Interface
	ca         string
	namespaces cache.SharedIndexInformer
	nsList     corelisters.NamespaceLister
	accounts   cache.SharedIndexInformer
	saList     corelisters.ServiceAccountLister
	bundles    cache.SharedIndexInformer // kube-root-ca.crt of every namespace, nothing else
	loop       *loop.Loop[string]
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	core := cfg.Informers.Core().V1()
	c := &Controller{
		client:     cfg.Client,
		ca:         string(cfg.CA),
		namespaces: core.Namespaces().Informer(),
		nsList:     core.Namespaces().Lister(),
		accounts:   core.ServiceAccounts().Informer(),
		saList:     core.ServiceAccounts().Lister(),
		bundles: coreinformers.NewFilteredConfigMapInformer(cfg.Client, metav1.NamespaceAll, 0, cache.Indexers{},
			func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector("metadata.name", bundleName).String()
			}),
	}
	c.loop = loop.New(loop.Config[string]{Name: "serviceaccount", Reconcile: c.reconcile, Logger: cfg.Logger})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var own sync.WaitGroup
	defer own.Wait()
	own.Go(func() { c.bundles.RunWithContext(ctx) })
	return c.loop.Run(ctx,
		loop.Watch{Informer: c.namespaces, Handler: loop.Latest(func(ns *corev1.Namespace) { c.loop.Add(ns.Name) })},
		loop.Watch{Informer: c.accounts, Handler: loop.Latest(func(sa *corev1.ServiceAccount) {
			if sa.Name == accountName {
				c.loop.Add(sa.Namespace)
			}
		})},
		loop.Watch{Informer: c.bundles, Handler: loop.Latest(func(cm *corev1.ConfigMap) { c.loop.Add(cm.Namespace) })},
	)
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	ns, err := c.nsList.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return nil
	}
	if _, err := c.saList.ServiceAccounts(name).Get(accountName); apierrors.IsNotFound(err) {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: accountName}}
		_, err := c.client.CoreV1().ServiceAccounts(name).Create(ctx, sa, metav1.CreateOptions{})
		if err := settled(err); err != nil {
			return fmt.Errorf("create service account: %w", err)
		}
	}
	return c.ensureBundle(ctx, name)
}

func (c *Controller) ensureBundle(ctx context.Context, namespace string) error {
	maps := c.client.CoreV1().ConfigMaps(namespace)
	data := map[string]string{bundleKey: c.ca}
	obj, found, err := c.bundles.GetStore().GetByKey(namespace + "/" + bundleName)
	if err != nil {
		return err
	}
	have, ok := obj.(*corev1.ConfigMap)
	if !found || !ok {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: bundleName,
				Annotations: map[string]string{describeKey: describeValue},
			},
			Data: data,
		}, metav1.CreateOptions{})
		if err := settled(err); err != nil {
			return fmt.Errorf("create config map %s: %w", bundleName, err)
		}
		return nil
	}
	if len(have.Data) == 1 && have.Data[bundleKey] == c.ca && have.Annotations[describeKey] != "" {
		return nil
	}
	next := have.DeepCopy()
	next.Data = data
	next.BinaryData = nil
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[describeKey] = describeValue
	if _, err := maps.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update config map %s: %w", bundleName, err)
	}
	return nil
}

// settled drops the errors of a creation that leave nothing to do.
func settled(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
