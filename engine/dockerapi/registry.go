package dockerapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	devents "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	dregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/registry"
	"gantry/internal/problem"
)

// registry returns the client of registries, or an error when there is none.
func (c *call) registry() (*registry.Client, error) {
	if c.cfg.Registry == nil {
		return nil, problem.New(problem.Unsupported, "reaching registries is turned off")
	}
	return c.cfg.Registry, nil
}

// credentials reads X-Registry-Auth. One that cannot be read is ignored, as the
// reference does for pulls.
func (c *call) credentials() registry.Credentials {
	auth, err := authconfig.Decode(c.r.Header.Get(dregistry.AuthHeader))
	if err != nil {
		return registry.Credentials{}
	}
	return toCredentials(*auth)
}

func toCredentials(a dregistry.AuthConfig) registry.Credentials {
	c := registry.Credentials{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if c.Username == "" && a.Auth != "" {
		if plain, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			c.Username, c.Password, _ = strings.Cut(string(plain), ":")
		}
	}
	return c
}

// allCredentials reads X-Registry-Config, by host.
func (c *call) allCredentials() (map[string]registry.Credentials, error) {
	header := c.r.Header.Get("X-Registry-Config")
	if header == "" {
		return nil, nil
	}
	plain, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		return nil, invalid("X-Registry-Config: %w", err)
	}
	var list map[string]dregistry.AuthConfig
	if err := json.Unmarshal(plain, &list); err != nil {
		return nil, invalid("X-Registry-Config: %w", err)
	}
	out := map[string]registry.Credentials{}
	for server, auth := range list {
		out[registry.ServerHost(server)] = toCredentials(auth)
	}
	return out, nil
}

// pullImage pulls one tag, one digest, or all tags of a repository.
func (c *call) pullImage(from string) error {
	client, err := c.registry()
	if err != nil {
		return err
	}
	if c.query.Get("repo") != "" || len(c.query.Values["changes"]) > 0 || c.query.Get("message") != "" {
		return problem.New(problem.Unsupported, "query parameters repo, changes and message are for imports only")
	}
	ref, err := pullReference(from, c.query.Get("tag"))
	if err != nil {
		return err
	}
	platform, err := c.platform()
	if err != nil {
		return err
	}
	out := c.progress()
	err = c.pull(c.r.Context(), client, registry.PullRequest{Ref: ref, Platform: platform, Credentials: c.credentials()}, out)
	return out.end(err)
}

// pull pulls, and says so as an event.
func (c *call) pull(ctx context.Context, client *registry.Client, req registry.PullRequest, out *progress) error {
	_, err := client.Pull(ctx, req, out.transfer)
	if err == nil {
		c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionPull, reference.FamiliarString(req.Ref), map[string]string{"name": reference.FamiliarName(req.Ref)})
	}
	return err
}

// pullReference joins what a pull names: tag may be a digest, and when it is
// empty all tags are meant.
func pullReference(from, tag string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(strings.TrimSuffix(from, ":"))
	if err != nil {
		return nil, invalid("invalid reference format: %w", err)
	}
	if tag == "" {
		return ref, nil
	}
	ref = reference.TrimNamed(ref)
	if d, err := digest.Parse(tag); err == nil {
		out, err := reference.WithDigest(ref, d)
		if err != nil {
			return nil, invalid("%w", err)
		}
		return out, nil
	}
	out, err := reference.WithTag(ref, tag)
	if err != nil {
		return nil, invalid("%w", err)
	}
	return out, nil
}

// transfer sends one step of a pull or push.
func (p *progress) transfer(e registry.Event) {
	if e.Pushed != nil {
		// The reference's own names: its type has no tags.
		p.aux(struct {
			Tag    string
			Digest string
			Size   int64
		}{e.Pushed.Tag, e.Pushed.Digest.String(), e.Pushed.Size})
		return
	}
	m := jsonstream.Message{Status: e.Status, ID: e.ID}
	if e.ID != "" && !strings.HasPrefix(e.Status, "Pulling from") {
		m.Progress = &jsonstream.Progress{Current: e.Current, Total: e.Total}
	}
	p.send(m)
}

// pushImage pushes one tag or all.
func (c *call) pushImage() error {
	client, err := c.registry()
	if err != nil {
		return err
	}
	wanted, err := c.platforms()
	if err != nil {
		return err
	}
	req := registry.PushRequest{Credentials: c.credentials()}
	if len(wanted) > 0 {
		req.Platform = &wanted[0]
	}
	ref, err := pullReference(c.vars[0], c.query.Get("tag"))
	if err != nil {
		return err
	}
	if ref = reference.TagNameOnly(ref); c.query.Get("tag") == "" {
		ref = reference.TrimNamed(ref)
	}
	req.Ref = ref
	out := c.progress()
	err = client.Push(c.r.Context(), req, out.transfer)
	if err == nil {
		c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionPush, reference.FamiliarString(ref), map[string]string{"name": reference.FamiliarName(ref)})
	}
	return out.end(err)
}

// login asks a registry whether it takes credentials.
func (c *call) login() error {
	client, err := c.registry()
	if err != nil {
		return err
	}
	var auth dregistry.AuthConfig
	if err := c.decode(&auth); err != nil {
		return err
	}
	err = client.Login(c.r.Context(), auth.ServerAddress, toCredentials(auth))
	if errors.Is(err, registry.ErrUnauthorized) {
		return statusError{http.StatusUnauthorized, err.Error()}
	}
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, dregistry.AuthResponse{Status: "Login Succeeded"})
}

// inspectDistribution asks a registry about an image.
func (c *call) inspectDistribution() error {
	client, err := c.registry()
	if err != nil {
		return err
	}
	ref, err := reference.ParseAnyReference(c.vars[0])
	if err != nil {
		return invalid("%w", err)
	}
	named, ok := ref.(reference.Named)
	if !ok {
		return invalid("unknown image reference format: %s", c.vars[0])
	}
	remote, err := client.Inspect(c.r.Context(), reference.TagNameOnly(named), c.credentials())
	if err != nil {
		return err
	}
	if remote.Platforms == nil {
		remote.Platforms = []ocispec.Platform{}
	}
	return c.answer(http.StatusOK, dregistry.DistributionInspect{Descriptor: remote.Descriptor, Platforms: remote.Platforms})
}

// search asks a registry for repositories.
func (c *call) search() error {
	client, err := c.registry()
	if err != nil {
		return err
	}
	limit := 25
	if text := c.query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > 100 {
			return invalid("limit %s is outside the range of [1, 100]", text)
		}
	}
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	if err := filters.Check("is-automated", "is-official", "stars"); err != nil {
		return err
	}
	official, only, err := filters.Bool("is-official")
	if err != nil {
		return err
	}
	automated, onlyAutomated, err := filters.Bool("is-automated")
	if err != nil {
		return err
	}
	stars := 0
	for _, text := range filters["stars"] {
		n, err := strconv.Atoi(text)
		if err != nil {
			return invalid("invalid filter 'stars=%s'", text)
		}
		stars = max(stars, n)
	}
	found, err := client.Search(c.r.Context(), c.query.Get("term"), limit, c.credentials())
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	list := []dregistry.SearchResult{}
	for _, f := range found {
		if only && f.Official != official || onlyAutomated && f.Automated != automated || f.Stars < stars {
			continue
		}
		list = append(list, dregistry.SearchResult{Name: f.Name, Description: f.Description, StarCount: f.Stars, IsOfficial: f.Official})
	}
	return c.answer(http.StatusOK, list)
}

// registryConfig tells how registries are reached, as info shows it.
func (c *call) registryConfig() *dregistry.ServiceConfig {
	out := &dregistry.ServiceConfig{IndexConfigs: map[string]*dregistry.IndexInfo{}, Mirrors: []string{}}
	if c.cfg.Registry == nil {
		return out
	}
	out.InsecureRegistryCIDRs, out.Mirrors = c.cfg.Registry.Networks(), c.cfg.Registry.Mirrors()
	out.IndexConfigs["docker.io"] = &dregistry.IndexInfo{Name: "docker.io", Mirrors: out.Mirrors, Secure: true, Official: true}
	for _, host := range c.cfg.Registry.Hosts() {
		out.IndexConfigs[host] = &dregistry.IndexInfo{Name: host, Mirrors: []string{}}
	}
	return out
}
