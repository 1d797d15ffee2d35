package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/utils/ptr"
)

const (
	defaultAccount  = "default"
	tokenVolume     = "kube-api-access-"
	tokenMountPath  = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenLifetime   = 60*60 + 7 // seconds, upstream's own odd number
	rootCAConfigMap = "kube-root-ca.crt"
	mirrorPod       = "kubernetes.io/config.mirror"
)

// admitServiceAccount gives a pod its account, and its containers the account's
// token, as the reference's admission plug-in does.
func (s *Server) admitServiceAccount(req *request, pod *core.Pod) error {
	if _, mirror := pod.Annotations[mirrorPod]; mirror {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	sa, err := s.awaitAccount(req.r.Context(), req.path.namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if sa == nil {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found",
			req.path.namespace, pod.Spec.ServiceAccountName, pod.Spec.ServiceAccountName))
	}
	mount := ptr.Deref(sa.AutomountServiceAccountToken, true)
	if pod.Spec.AutomountServiceAccountToken != nil {
		mount = *pod.Spec.AutomountServiceAccountToken
	}
	if mount {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		for _, ref := range sa.ImagePullSecrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, core.LocalObjectReference{Name: ref.Name})
		}
	}
	return nil
}

// accountWait is how long the first pod of a new namespace waits for the
// controller that makes its default account.
const accountWait = time.Second

// awaitAccount returns a ServiceAccount, nil if there is none.
func (s *Server) awaitAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa := s.account(namespace, name); sa != nil {
		return sa, nil
	}
	if err := s.fresh(ctx); err != nil {
		return nil, err
	}
	c := s.kinds.serviceAccounts.cache
	ctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	for {
		_, cur := c.snapshot()
		sa := s.account(namespace, name)
		if sa != nil || name != defaultAccount {
			return sa, nil
		}
		_, more, _ := c.since(cur)
		if more == nil {
			continue // something has changed meanwhile
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

func (s *Server) account(namespace, name string) *corev1.ServiceAccount {
	c := s.kinds.serviceAccounts.cache
	e := c.get(c.prefix + namespace + "/" + name)
	if e == nil {
		return nil
	}
	sa, _ := e.obj.(*corev1.ServiceAccount)
	return sa
}

// mountToken adds the projected volume, and mounts it where nothing else is.
func mountToken(pod *core.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolume) {
			name = v.Name
		}
	}
	fresh := name == ""
	if fresh {
		name = tokenVolume + utilrand.String(randomSuffix)
	}
	used := false
	podutil.VisitContainers(&pod.Spec, podutil.AllContainers, func(c *core.Container, _ podutil.ContainerType) bool {
		taken := slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool { return m.MountPath == tokenMountPath })
		if !taken {
			c.VolumeMounts = append(c.VolumeMounts, core.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			used = true
		}
		return true
	})
	if used && fresh {
		pod.Spec.Volumes = append(pod.Spec.Volumes, core.Volume{Name: name, VolumeSource: tokenSource()})
	}
}

func tokenSource() core.VolumeSource {
	return core.VolumeSource{Projected: &core.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []core.VolumeProjection{
			{ServiceAccountToken: &core.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: tokenLifetime}},
			{ConfigMap: &core.ConfigMapProjection{
				LocalObjectReference: core.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []core.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &core.DownwardAPIProjection{Items: []core.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &core.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}
}
