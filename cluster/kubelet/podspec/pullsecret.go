package podspec

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dockerHub are the names that configurations have for Docker's registry.
var dockerHub = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

// login is one entry of a Docker configuration.
type login struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// PullCredentials returns what secrets of a pod hold for an image, the closest
// match first: an entry's key is HOST[:PORT][/PATH], with wildcards in the host
// as the reference takes them.
func PullCredentials(image string, secrets []*v1.Secret) ([]*runtimeapi.AuthConfig, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, nil // the pull says so
	}
	type match struct {
		key  string
		auth *runtimeapi.AuthConfig
	}
	var found []match
	for _, s := range secrets {
		logins, err := readLogins(s)
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", s.Name, err)
		}
		for key, l := range logins {
			if !covers(key, named) {
				continue
			}
			auth, err := l.auth()
			if err != nil {
				return nil, fmt.Errorf("secret %q: %s: %w", s.Name, key, err)
			}
			found = append(found, match{key, auth})
		}
	}
	slices.SortStableFunc(found, func(a, b match) int {
		return cmp.Or(cmp.Compare(len(b.key), len(a.key)), cmp.Compare(a.key, b.key))
	})
	var list []*runtimeapi.AuthConfig
	for _, m := range found {
		list = append(list, m.auth)
	}
	return list, nil
}

func readLogins(s *v1.Secret) (map[string]login, error) {
	logins := map[string]login{}
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		var doc struct {
			Auths map[string]login `json:"auths"`
		}
		err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &doc)
		return doc.Auths, err
	case v1.SecretTypeDockercfg:
		err := json.Unmarshal(s.Data[v1.DockerConfigKey], &logins)
		return logins, err
	}
	return logins, nil // the reference passes over other secrets
}

// covers tells whether an entry is for an image.
func covers(key string, named reference.Named) bool {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	host, dir, _ := strings.Cut(key, "/")
	if slices.Contains(dockerHub, host) {
		host = dockerHub[0]
	}
	if dir == "v1" || dir == "v2" {
		dir = ""
	}
	want := reference.Domain(named)
	if ok, err := path.Match(host, want); err != nil || !ok || strings.Count(host, ".") != strings.Count(want, ".") {
		return false
	}
	in := reference.Path(named)
	return dir == "" || in == dir || strings.HasPrefix(in, dir+"/")
}

func (l login) auth() (*runtimeapi.AuthConfig, error) {
	a := &runtimeapi.AuthConfig{Username: l.Username, Password: l.Password, IdentityToken: l.IdentityToken, RegistryToken: l.RegistryToken}
	if a.Username == "" && l.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(l.Auth)
		name, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return nil, fmt.Errorf("auth is not base64 of USER:PASSWORD")
		}
		a.Username, a.Password = name, password
	}
	return a, nil
}
