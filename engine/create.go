package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dmount "github.com/moby/moby/api/types/mount"
	dvolume "github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/container"
	"gantry/engine/image"
	"gantry/engine/network"
	"gantry/engine/volume"
	"gantry/internal/atomicfile"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// Create makes a container, and makes it durable. Nothing runs yet.
//
// Errors: Invalid, Unsupported (a field), NotFound (the image, a volume's or
// network's container, a sandbox), Conflict (the name).
func (e *Engine) Create(ctx context.Context, req CreateRequest) (dcontainer.CreateResponse, error) {
	var none dcontainer.CreateResponse
	if err := e.checkReady(); err != nil {
		return none, err
	}
	img, err := e.imageFor(ctx, req)
	if err != nil {
		return none, err
	}
	cfg, warnings, err := e.resolve(req, img)
	if err != nil {
		return none, err
	}
	if err := e.cfg.Images.CheckRuns(img, req.Config.Image, append([]string{cfg.Path}, cfg.Args...)); err != nil {
		return none, err
	}
	if err := e.reserveName(cfg, req.Name); err != nil {
		return none, err
	}
	r, err := e.make(ctx, cfg, img)
	if err != nil {
		e.mu.Lock()
		delete(e.names, cfg.Name)
		e.mu.Unlock()
		return none, err
	}
	e.mu.Lock()
	e.records[cfg.ID] = r
	e.mu.Unlock()
	e.emit(r, devents.ActionCreate, nil)
	return dcontainer.CreateResponse{ID: cfg.ID, Warnings: warnings}, nil
}

func (e *Engine) imageFor(ctx context.Context, req CreateRequest) (image.Image, error) {
	if req.Config == nil {
		return image.Image{}, invalid("Config cannot be empty in order to create a container")
	}
	if req.Config.Image == "" {
		return image.Image{}, invalid("no image specified")
	}
	img, err := e.cfg.Images.Resolve(ctx, req.Config.Image)
	if err != nil {
		return image.Image{}, err
	}
	if p := req.Platform; p != nil && !sameCPU(*p, img.Platform()) {
		// Not a NotFound, on which clients pull.
		return img, invalid("image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			req.Config.Image, image.FormatPlatform(img.Platform()), image.FormatPlatform(*p))
	}
	return img, e.allowed(ctx, img, req.Config.Image)
}

// allowed refuses an image that may not be used.
func (e *Engine) allowed(ctx context.Context, img image.Image, ref string) error {
	if e.cfg.Allowed == nil {
		return nil
	}
	return e.cfg.Allowed(ctx, img, ref)
}

// sameCPU tells whether an image is of the platform that was asked for.
func sameCPU(want, is ocispec.Platform) bool {
	return (want.OS == "" || want.OS == is.OS) && (want.Architecture == "" || want.Architecture == is.Architecture)
}

// resolve decides all of a container's configuration but what must be made for
// it, and refuses what is wrong or not supported.
func (e *Engine) resolve(req CreateRequest, img image.Image) (*config, []string, error) {
	c, err := mergeImage(req.Config, &img.Config.Config)
	if err != nil {
		return nil, nil, err
	}
	host := dcontainer.HostConfig{}
	if req.HostConfig != nil {
		host = *req.HostConfig
	}
	host.LogConfig = e.fillLog(host.LogConfig)
	if err := errors.Join(validateConfig(c), validateHost(&host), validateRequest(req.Config, &host)); err != nil {
		return nil, nil, err
	}
	secure, err := parseSecurity(host.SecurityOpt)
	if err == nil {
		err = errors.Join(refuseLabels(secure, hasSELinux()), e.resolveModes(&host))
	}
	if err != nil {
		return nil, nil, err
	}
	if _, err := capabilitiesFor(&host, e.capabilities); err != nil {
		return nil, nil, err
	}
	limits, err := e.cfg.Runtime.Features()
	if err != nil {
		return nil, nil, err
	}
	warnings, err := fitToHost(&host.Resources, limits)
	if err != nil {
		return nil, nil, err
	}
	warnings = append(warnings, applyDefaults(&host)...)
	cfg := &config{
		Version: recordVersion, ID: newID(), Created: time.Now().UTC(), Image: img.ID, Layers: img.Layers,
		Config: c, HostConfig: &host, Sandbox: req.Sandbox, Annotations: req.Annotations,
	}
	if cfg.Path, cfg.Args, err = command(c); err != nil {
		return nil, nil, err
	}
	if err := e.resolveNetworks(cfg, req.Networking); err != nil {
		return nil, nil, err
	}
	if err := e.resolveLinks(cfg); err != nil {
		return nil, nil, err
	}
	e.resolveLog(cfg, req)
	if c.Hostname == "" {
		c.Hostname = cfg.ID[:12]
		if host.NetworkMode.IsHost() || host.UTSMode.IsHost() {
			c.Hostname = hostHostname()
		}
	}
	cfg.Mounts, err = planMounts(c, &host, e.mountsOf)
	return cfg, warnings, err
}

// command splits what a container runs into program and arguments.
func command(c *dcontainer.Config) (string, []string, error) {
	words := append(slices.Clone([]string(c.Entrypoint)), c.Cmd...)
	if len(words) == 0 || words[0] == "" {
		return "", nil, invalid("no command specified")
	}
	return words[0], words[1:], nil
}

// applyDefaults fills what a request leaves open, so that inspect shows it.
func applyDefaults(h *dcontainer.HostConfig) (warnings []string) {
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = network.Bridge
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if h.ShmSize == 0 {
		h.ShmSize = defaultShmBytes
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil // how clients say: none
	}
	noLabels(h)
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = dcontainer.RestartPolicyDisabled
	}
	if h.IpcMode == "" {
		h.IpcMode = dcontainer.IPCModePrivate
	}
	if h.CgroupnsMode == "" {
		h.CgroupnsMode = dcontainer.CgroupnsModePrivate
	}
	if h.Runtime == "" {
		h.Runtime = RuntimeName
	}
	if h.Privileged {
		h.MaskedPaths, h.ReadonlyPaths = nil, nil
		return warnings
	}
	if h.MaskedPaths == nil {
		h.MaskedPaths = container.DefaultMaskedPaths()
	}
	if h.ReadonlyPaths == nil {
		h.ReadonlyPaths = container.DefaultReadonlyPaths()
	}
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	return warnings
}

func (e *Engine) resolveLog(cfg *config, req CreateRequest) {
	cfg.LogFormat, cfg.LogPath = req.LogFormat, req.LogPath
	if cfg.LogFormat == "" {
		cfg.LogFormat = cfg.HostConfig.LogConfig.Type
	}
	switch cfg.LogFormat {
	case "local", "syslog", "journald":
		cfg.LogFormat = container.LogJSON
	}
	if cfg.LogFormat == "none" {
		cfg.LogPath = ""
	} else if cfg.LogPath == "" {
		cfg.LogPath = filepath.Join(e.containerDir(cfg.ID), "log")
	}
}

func (e *Engine) mountsOf(ref string) ([]mountPoint, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, invalid("%v", err) // at a NotFound, clients pull the image
	}
	return r.config().Mounts, nil
}

// reserveName gives cfg the wanted name, or a random one.
func (e *Engine) reserveName(cfg *config, wanted string) error {
	if len(wanted) > 0 && wanted[0] == '/' {
		wanted = wanted[1:]
	}
	if wanted != "" {
		if err := checkName(wanted); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	cfg.Name = wanted
	for try := 0; cfg.Name == ""; try++ {
		name := randomName()
		if try > 5 {
			name += "_" + cfg.ID[:8]
		}
		if _, taken := e.names[name]; !taken {
			cfg.Name = name
		}
	}
	if holder, taken := e.names[cfg.Name]; taken {
		return nameTaken(cfg.Name, holder)
	}
	e.names[cfg.Name] = cfg.ID
	return nil
}

func nameTaken(name, holder string) error {
	return problem.New(problem.Conflict, "Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", "/"+name, holder)
}

// make makes what belongs to the container, its record last: without one, what
// is left after a crash is removed.
func (e *Engine) make(ctx context.Context, cfg *config, img image.Image) (r *record, err error) {
	dir := e.containerDir(cfg.ID)
	var made []string // volumes to remove again
	defer func() {
		if err == nil {
			return
		}
		e.cfg.Images.Release(cfg.ID)
		e.releaseMounts(cfg)
		err = errors.Join(err, os.RemoveAll(dir))
		for _, name := range made {
			err = errors.Join(err, e.cfg.Volumes.Remove(ctx, name))
		}
	}()
	r = newRecord(dir, cfg)
	e.hold(r)
	// The image was looked up before it was held: it may have been removed between.
	if err := e.cfg.Images.Lease(cfg.ID, cfg.Layers...); err != nil {
		return nil, err
	}
	e.cfg.Images.EndLease(cfg.ID)
	for _, sub := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	for i := range cfg.Mounts {
		name, err := e.makeMount(ctx, &cfg.Mounts[i], img)
		if name != "" {
			made = append(made, name)
		}
		if err != nil {
			return nil, err
		}
	}
	e.holdMounts(r)
	if err := fault.At("engine/create/before-record"); err != nil {
		return nil, err
	}
	if err := atomicfile.WriteJSON(filepath.Join(dir, configFile), cfg, 0o600); err != nil {
		return nil, err
	}
	return r, atomicfile.SyncDir(filepath.Dir(dir))
}

// hold tells the image store that the container uses its image.
func (e *Engine) hold(r *record) {
	e.cfg.Images.Hold(image.Hold{
		Owner: r.id, Image: r.config().Image, Layers: r.config().Layers,
		Running: func() bool { return r.running() != nil },
	})
}

// makeMount makes the volume or the source directory of a mount. It returns the
// name of a volume that did not exist before.
func (e *Engine) makeMount(ctx context.Context, p *mountPoint, img image.Image) (made string, err error) {
	switch p.Type {
	case dmount.TypeBind:
		if p.CreateSource {
			return "", p.makeSource()
		}
		if _, err := os.Stat(p.Source); err != nil {
			return "", invalid("invalid mount config for type \"bind\": bind source path does not exist: %s", p.Source)
		}
		return "", nil
	case dmount.TypeImage:
		return "", e.makeImageMount(ctx, p)
	case dmount.TypeVolume:
	default:
		return "", nil
	}
	req := dvolume.CreateRequest{Name: p.Name, Labels: p.Labels}
	if p.Name == "" {
		req = volume.Anonymous()
		maps.Copy(req.Labels, p.Labels)
	}
	req.Driver, req.DriverOpts = p.Driver, p.DriverOpts
	if _, err := e.cfg.Volumes.Inspect(ctx, req.Name); errors.Is(err, problem.NotFound) {
		made = req.Name
	}
	v, err := e.cfg.Volumes.Create(ctx, req)
	if err != nil {
		return "", err
	}
	if made != "" {
		e.Emit(devents.VolumeEventType, devents.ActionCreate, v.Name, map[string]string{"driver": v.Driver})
	}
	p.Name, p.Source = v.Name, v.Mountpoint
	if p.NoCopy || p.Subpath != "" {
		return made, nil
	}
	return made, e.copyUp(ctx, p, img)
}

// copyUp fills a new volume with what the image has at the same place.
func (e *Engine) copyUp(ctx context.Context, p *mountPoint, img image.Image) (err error) {
	owner := "copy " + newID()
	if err := e.cfg.Volumes.Use(ctx, p.Name, owner); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.cfg.Volumes.Done(p.Name, owner)) }()
	entries, err := os.ReadDir(p.Source)
	if err != nil || len(entries) > 0 {
		return err
	}
	lower, err := e.cfg.Images.LowerDirs(img)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(lower, func(dir string) bool { return exists(filepath.Join(dir, p.Destination)) }) &&
		!slices.ContainsFunc(lower, func(dir string) bool { return hides(dir, p.Destination[1:]) }) {
		return nil // no layer has it, nor a symbolic link on the way to it
	}
	root, err := layers(lower).mount()
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := openDirBeneath(int(root.Fd()), p.Destination[1:])
	if dir == nil || err != nil {
		return err
	}
	defer dir.Close()
	return e.cfg.Volumes.CopyUp(ctx, p.Name, fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
