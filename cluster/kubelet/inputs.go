package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"gantry/cluster/kubelet/plan"
	"gantry/cluster/kubelet/podspec"
	"gantry/cluster/kubelet/volume"
)

// source gives one pod's volumes and environment what they are filled from.
type source struct {
	k   *Kubelet
	ctx context.Context //nolint:containedctx // podspec and volume ask through interfaces without one; lives for one step
	st  *podState
}

func (s source) ConfigMap(namespace, name string) (*v1.ConfigMap, error) {
	o, err := s.k.objects.get(s.ctx, s.st.uid, objectKey{"configmaps", namespace, name})
	if err != nil {
		return nil, shorten(err, "configmap", name)
	}
	return o.(*v1.ConfigMap), nil
}

func (s source) Secret(namespace, name string) (*v1.Secret, error) {
	o, err := s.k.objects.get(s.ctx, s.st.uid, objectKey{"secrets", namespace, name})
	if err != nil {
		return nil, shorten(err, "secret", name)
	}
	return o.(*v1.Secret), nil
}

// notFound is a missing object in the words of the reference's events.
type notFound struct {
	err  error
	text string
}

func (e *notFound) Error() string { return e.text }
func (e *notFound) Unwrap() error { return e.err }

func shorten(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return &notFound{err: err, text: fmt.Sprintf("%s %q not found", kind, name)}
	}
	return err
}

func (s source) NotFound(err error) bool { return apierrors.IsNotFound(err) }

// token is a service account token that a pod has.
type token struct {
	value string
	renew time.Time
}

// maxTokenAge is after how long even a long-lived token is renewed.
const maxTokenAge = 24 * time.Hour

func (s source) Token(ctx context.Context, pod *v1.Pod, audience string, seconds int64) (string, time.Time, error) {
	key := fmt.Sprintf("%s/%d", audience, seconds)
	if t, ok := s.st.tokens[key]; ok && t.renew.After(time.Now()) {
		return t.value, t.renew, nil
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	asked := time.Now()
	res, err := s.k.cfg.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
	if err != nil {
		return "", time.Time{}, err
	}
	life := res.Status.ExpirationTimestamp.Sub(asked)
	t := token{value: res.Status.Token, renew: asked.Add(min(life*8/10, maxTokenAge))}
	s.st.tokens[key] = t
	return t.value, t.renew, nil
}

// fields is what downward API values of the pod derive from.
func (k *Kubelet) fields(pod *v1.Pod, seen *plan.Observed) podspec.FieldContext {
	f := podspec.FieldContext{HostIP: k.cfg.NodeIP.String(), NodeName: k.cfg.NodeName, Allocatable: k.node.Allocatable()}
	switch sb := seen.Sandbox(); {
	case pod.Spec.HostNetwork:
		f.PodIPs = []string{f.HostIP}
	case sb != nil && sb.Network.GetIp() != "":
		f.PodIPs = append(f.PodIPs, sb.Network.Ip)
		for _, more := range sb.Network.AdditionalIps {
			f.PodIPs = append(f.PodIPs, more.Ip)
		}
	}
	return f
}

// setUpVolumes makes or refreshes the pod's volumes and its /etc/hosts.
func (k *Kubelet) setUpVolumes(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed) error {
	fields := k.fields(pod, seen)
	store := volume.Store{Dir: k.volumes.Dir, RunDir: k.volumes.RunDir, Source: source{k: k, ctx: ctx, st: st}}
	mounted, renew, err := store.SetUp(ctx, pod, fields)
	if err != nil {
		return err
	}
	st.mounted, st.renew = mounted, renew
	addresses := strings.Join(fields.PodIPs, ",")
	if st.hosts == addresses && st.hosts != "" {
		return nil
	}
	if err := k.writeHosts(pod, fields.PodIPs); err != nil {
		return err
	}
	st.hosts = addresses
	return nil
}

// writeHosts writes the pod's /etc/hosts in place: containers have the file
// itself mounted. A torn one is written again after a crash.
func (k *Kubelet) writeHosts(pod *v1.Pod, ips []string) error {
	var host []byte
	if pod.Spec.HostNetwork {
		var err error
		if host, err = os.ReadFile("/etc/hosts"); err != nil {
			return err
		}
	}
	dir := k.podDir(pod.UID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	want := podspec.Hosts(pod, k.cluster.Domain, ips, host)
	path := filepath.Join(dir, "etc-hosts")
	if have, err := os.ReadFile(path); err == nil && string(have) == string(want) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(want); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// environment resolves a container's environment.
func (k *Kubelet) environment(ctx context.Context, st *podState, pod *v1.Pod, c *v1.Container, seen *plan.Observed) (*podspec.Env, error) {
	src := source{k: k, ctx: ctx, st: st}
	var services []*v1.Service
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		own, err := k.services.Services(pod.Namespace).List(labels.Everything())
		if err != nil {
			return nil, err
		}
		services = own
	}
	if master, err := k.services.Services(metav1.NamespaceDefault).Get("kubernetes"); err == nil {
		services = append(services, master)
	}
	return podspec.BuildEnv(podspec.EnvInput{
		Pod: pod, Container: c, Objects: src, NotFound: src.NotFound, Services: services, Fields: k.fields(pod, seen),
		Invalid: func(kind, name string, keys []string) {
			k.recorder.Eventf(pod, v1.EventTypeWarning, "InvalidEnvironmentVariableNames",
				"Keys [%s] from the EnvFrom %s %s/%s were skipped since they are considered invalid environment variable names.",
				strings.Join(keys, ", "), kind, pod.Namespace, name)
		},
	})
}

// localImage is an image that a container can be made from.
type localImage struct {
	id   string
	user podspec.ImageUser
}

// pull is the back-off of pulling one image for a pod.
type pull struct {
	plan.Backoff
	message string // of the last failure
}

// ensureImage sees to it that a container's image is here, as its pull policy says.
func (k *Kubelet) ensureImage(ctx context.Context, st *podState, pod *v1.Pod, c *v1.Container) (localImage, *startError) {
	ref := containerRef(pod, c)
	spec := &runtimeapi.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image}
	img, err := k.findImage(ctx, spec)
	if err != nil {
		k.recorder.Eventf(ref, v1.EventTypeWarning, "InspectFailed", "Failed to inspect image %q: %v", c.Image, err)
		k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: ImageInspectError")
		return localImage{}, &startError{reason: "ImageInspectError", message: fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)}
	}
	switch {
	case img != nil && c.ImagePullPolicy != v1.PullAlways:
		k.recorder.Eventf(ref, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return toLocal(img), nil
	case img == nil && c.ImagePullPolicy == v1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		k.recorder.Event(ref, v1.EventTypeWarning, "ErrImageNeverPull", message)
		k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: ErrImageNeverPull")
		return localImage{}, &startError{reason: "ErrImageNeverPull", message: message, wait: plan.InitialBackoff}
	}
	return k.pullImage(ctx, st, ref, pod, spec)
}

// pullTell is after how long the status of a failed pull turns from the error
// to the wait.
const pullTell = time.Second

func (k *Kubelet) pullImage(ctx context.Context, st *podState, ref *v1.ObjectReference, pod *v1.Pod, spec *runtimeapi.ImageSpec) (localImage, *startError) {
	name := spec.Image
	now := time.Now()
	p := st.pulls[name]
	if until := p.Until(p.At); until.After(now) {
		message := fmt.Sprintf("Back-off pulling image %q", name)
		k.recorder.Event(ref, v1.EventTypeNormal, "BackOff", message)
		k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		return localImage{}, &startError{reason: "ImagePullBackOff", message: message + ": ErrImagePull: " + p.message, wait: until.Sub(now)}
	}
	k.recorder.Eventf(ref, v1.EventTypeNormal, "Pulling", "Pulling image %q", name)
	var img *runtimeapi.Image
	err := k.pullWith(ctx, spec, k.pullCredentials(ctx, st, ref, pod, name))
	if err == nil {
		img, err = k.findImage(ctx, spec)
	}
	if err == nil && img == nil {
		err = fmt.Errorf("image %s vanished after it was pulled", name)
	}
	if err != nil {
		k.recorder.Eventf(ref, v1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", name, err)
		reason := "ErrImagePull"
		if strings.HasPrefix(err.Error(), crierrors.ErrSignatureValidationFailed.Error()) {
			reason = crierrors.ErrSignatureValidationFailed.Error()
		}
		k.recorder.Event(ref, v1.EventTypeWarning, "Failed", "Error: "+reason)
		now = time.Now()
		st.pulls[name] = pull{Backoff: p.Next(now, now), message: err.Error()}
		return localImage{}, &startError{reason: reason, message: err.Error(), wait: pullTell}
	}
	took := time.Since(now).Truncate(time.Millisecond)
	k.recorder.Eventf(ref, v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", name, took, took, img.Size)
	delete(st.pulls, name)
	return toLocal(img), nil
}

// pullCredentials returns what the pod's imagePullSecrets hold for an image.
// Secrets that are missing are said; the pull is tried without them.
func (k *Kubelet) pullCredentials(ctx context.Context, st *podState, ref *v1.ObjectReference, pod *v1.Pod, name string) []*runtimeapi.AuthConfig {
	var secrets []*v1.Secret
	var missing []string
	for _, s := range pod.Spec.ImagePullSecrets {
		secret, err := source{k, ctx, st}.Secret(pod.Namespace, s.Name)
		if err != nil {
			missing = append(missing, s.Name)
			continue
		}
		secrets = append(secrets, secret)
	}
	if len(missing) > 0 {
		k.recorder.Eventf(ref, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	list, err := podspec.PullCredentials(name, secrets)
	if err != nil {
		k.recorder.Eventf(ref, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to read image pull secrets: %v", err)
	}
	return list
}

// pullWith tries credentials in order, or none when there are none, and returns
// the error of the last.
func (k *Kubelet) pullWith(ctx context.Context, spec *runtimeapi.ImageSpec, list []*runtimeapi.AuthConfig) (err error) {
	if len(list) == 0 {
		list = []*runtimeapi.AuthConfig{nil}
	}
	for _, auth := range list {
		if _, err = k.cfg.Images.PullImage(ctx, spec, auth, nil); err == nil {
			return nil
		}
	}
	return err
}

func (k *Kubelet) findImage(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	r, err := k.cfg.Images.ImageStatus(ctx, spec, false)
	if err != nil {
		return nil, err
	}
	return r.Image, nil
}

func toLocal(img *runtimeapi.Image) localImage {
	l := localImage{id: img.Id, user: podspec.ImageUser{Name: img.Username}}
	if img.Uid != nil {
		uid := img.Uid.Value
		l.user.UID = &uid
	}
	return l
}
