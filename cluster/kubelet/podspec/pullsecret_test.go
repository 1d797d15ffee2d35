package podspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func dockerConfig(text string) *v1.Secret {
	return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull"}, Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(text)}}
}

func TestPullCredentials(t *testing.T) {
	secrets := []*v1.Secret{
		dockerConfig(`{"auths":{
			"https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="},
			"r.example:5000":{"username":"wide","password":"x"},
			"r.example:5000/team":{"username":"near","password":"x"},
			"*.cloud.example":{"username":"cloud","password":"x"}}}`),
		{Type: v1.SecretTypeDockercfg, Data: map[string][]byte{v1.DockerConfigKey: []byte(`{"old.example":{"username":"old","password":"x"}}`)}},
		{Type: v1.SecretTypeOpaque, Data: map[string][]byte{"x": []byte("{")}},
	}
	for image, want := range map[string][]string{
		"busybox":                   {"hub"},
		"docker.io/a/b:1":           {"hub"},
		"r.example:5000/team/web:1": {"near", "wide"},
		"r.example:5000/teams/web":  {"wide"},
		"r.example/team/web":        nil,
		"a.cloud.example/web":       {"cloud"},
		"a.b.cloud.example/web":     nil,
		"old.example/web":           {"old"},
		"UPPER":                     nil,
	} {
		list, err := PullCredentials(image, secrets)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range list {
			got = append(got, a.Username)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", image, diff)
		}
	}
	if _, err := PullCredentials("busybox", []*v1.Secret{dockerConfig(`{`)}); err == nil {
		t.Error("a broken secret was taken")
	}
}

func FuzzPullCredentials(f *testing.F) {
	f.Add("busybox", `{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="}}}`)
	f.Add("a.b/c", `{"auths":{"*.[":{"auth":"!"}}}`)
	f.Fuzz(func(_ *testing.T, image, text string) {
		_, _ = PullCredentials(image, []*v1.Secret{dockerConfig(text)})
	})
}
