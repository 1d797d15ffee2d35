package volume

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	v1 "k8s.io/api/core/v1"

	"gantry/cluster/kubelet/podspec"
)

// file is one file of a volume that the kubelet fills.
type file struct {
	data []byte
	mode fs.FileMode
}

// builder collects the files of one volume.
type builder struct {
	ctx    context.Context //nolint:containedctx // lives for one call of setUp
	source Source
	pod    *v1.Pod
	fields podspec.FieldContext
	files  map[string]file
	renew  time.Time
}

func mode(item, def *int32) fs.FileMode {
	switch {
	case item != nil:
		return fs.FileMode(*item) & fs.ModePerm
	case def != nil:
		return fs.FileMode(*def) & fs.ModePerm
	}
	return 0o644
}

func isTrue(b *bool) bool { return b != nil && *b }

func (b *builder) configMap(name string, items []v1.KeyToPath, def *int32, optional *bool) error {
	cm, err := b.source.ConfigMap(b.pod.Namespace, name)
	if err != nil {
		if isTrue(optional) && b.source.NotFound(err) {
			return nil
		}
		return err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return b.keys("configmap", data, items, def, isTrue(optional))
}

func (b *builder) secret(name string, items []v1.KeyToPath, def *int32, optional *bool) error {
	s, err := b.source.Secret(b.pod.Namespace, name)
	if err != nil {
		if isTrue(optional) && b.source.NotFound(err) {
			return nil
		}
		return err
	}
	return b.keys("secret", s.Data, items, def, isTrue(optional))
}

func (b *builder) keys(what string, data map[string][]byte, items []v1.KeyToPath, def *int32, optional bool) error {
	if len(items) == 0 {
		for k, v := range data {
			b.files[k] = file{data: v, mode: mode(nil, def)}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s references non-existent %s key: %s", what, what, item.Key)
		}
		b.files[item.Path] = file{data: v, mode: mode(item.Mode, def)}
	}
	return nil
}

func (b *builder) downward(items []v1.DownwardAPIVolumeFile, def *int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = podspec.Field(b.pod, item.FieldRef.FieldPath, b.fields)
		case item.ResourceFieldRef != nil:
			value, err = podspec.ResourceField(item.ResourceFieldRef, b.pod, nil, b.fields.Allocatable)
		}
		if err != nil {
			return err
		}
		b.files[item.Path] = file{data: []byte(value), mode: mode(item.Mode, def)}
	}
	return nil
}

func (b *builder) projected(v *v1.ProjectedVolumeSource) error {
	for i := range v.Sources {
		src := &v.Sources[i]
		var err error
		switch {
		case src.ConfigMap != nil:
			err = b.configMap(src.ConfigMap.Name, src.ConfigMap.Items, v.DefaultMode, src.ConfigMap.Optional)
		case src.Secret != nil:
			err = b.secret(src.Secret.Name, src.Secret.Items, v.DefaultMode, src.Secret.Optional)
		case src.DownwardAPI != nil:
			err = b.downward(src.DownwardAPI.Items, v.DefaultMode)
		case src.ServiceAccountToken != nil:
			err = b.token(src.ServiceAccountToken, v.DefaultMode)
		case src.ClusterTrustBundle != nil:
			err = fmt.Errorf("projected clusterTrustBundle sources are not supported")
		case src.PodCertificate != nil:
			err = fmt.Errorf("projected podCertificate sources are not supported")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// defaultTokenSeconds is what a projected token lives when the pod does not say.
const defaultTokenSeconds = 3600

func (b *builder) token(t *v1.ServiceAccountTokenProjection, def *int32) error {
	seconds := int64(defaultTokenSeconds)
	if t.ExpirationSeconds != nil {
		seconds = *t.ExpirationSeconds
	}
	token, renew, err := b.source.Token(b.ctx, b.pod, t.Audience, seconds)
	if err != nil {
		return fmt.Errorf("failed to fetch token: %w", err)
	}
	if b.renew.IsZero() || renew.Before(b.renew) {
		b.renew = renew
	}
	m := mode(nil, def)
	if fsGroup(b.pod) != nil {
		m = 0o600 // the group is added when the file is written
	}
	b.files[t.Path] = file{data: []byte(token), mode: m}
	return nil
}
