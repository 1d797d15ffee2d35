package cri

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"gantry/engine/image"
	"gantry/engine/registry"
	"gantry/internal/problem"
)

// ListImages lists the images that filter selects.
func (s *Service) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if ref := filter.GetImage().GetImage(); ref != "" {
		img, err := s.cfg.Images.Resolve(ctx, ref)
		if err != nil {
			return nil, ignoreMissing(err)
		}
		return []*runtimeapi.Image{criImage(img)}, nil
	}
	list, err := s.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*runtimeapi.Image, 0, len(list))
	for _, img := range list {
		out = append(out, criImage(img))
	}
	return out, nil
}

// ImageStatus describes one image; Image is nil where there is none.
func (s *Service) ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	img, err := s.cfg.Images.Resolve(ctx, spec.GetImage())
	if errors.Is(err, problem.NotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ImageStatusResponse{Image: criImage(img)}, nil
}

// PullImage brings an image here from its registry. One that is here and never
// was in that repository, because it was built, loaded or imported on this node,
// is what its name means: no registry is asked.
func (s *Service) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	img, err := s.cfg.Images.Resolve(ctx, spec.GetImage())
	if err != nil && !errors.Is(err, problem.NotFound) {
		return "", err
	}
	named, perr := image.ParseName(spec.GetImage())
	if err == nil && (s.cfg.Registry == nil || perr != nil || !fromRegistry(img, named)) {
		if s.cfg.Registry != nil {
			err = s.cfg.Registry.Allowed(ctx, img, spec.GetImage())
		}
		return imageID(img.ID), signatureError(err)
	}
	if s.cfg.Registry == nil {
		return "", problem.New(problem.NotFound, "image %q is not on this node, and reaching registries is turned off", spec.GetImage())
	}
	if perr != nil {
		return "", perr
	}
	credentials, err := criCredentials(auth)
	if err != nil {
		return "", err
	}
	img, err = s.cfg.Registry.Pull(ctx, registry.PullRequest{Ref: named, Credentials: credentials}, nil)
	if err != nil {
		return "", signatureError(err)
	}
	return imageID(img.ID), nil
}

// signatureError marks what the policy of signatures refuses as kubelets expect
// it: they know the error by its beginning.
func signatureError(err error) error {
	if errors.Is(err, problem.Denied) {
		return fmt.Errorf("%w: %w", crierrors.ErrSignatureValidationFailed, err)
	}
	return err
}

// fromRegistry tells whether an image was pulled from, or pushed to, the
// repository of a name.
func fromRegistry(img image.Image, name reference.Named) bool {
	return slices.ContainsFunc(img.RepoDigests, func(text string) bool {
		n, err := reference.ParseNormalizedNamed(text)
		return err == nil && n.Name() == name.Name()
	})
}

func criCredentials(a *runtimeapi.AuthConfig) (registry.Credentials, error) {
	c := registry.Credentials{
		Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
	if c.Username == "" && a.GetAuth() != "" {
		plain, err := base64.StdEncoding.DecodeString(a.GetAuth())
		name, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return c, problem.New(problem.Invalid, "auth of the registry is not base64 of USER:PASSWORD")
		}
		c.Username, c.Password = name, strings.Trim(password, "\x00")
	}
	return c, nil
}

// RemoveImage removes an image with all its names; a missing one is success.
func (s *Service) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	img, err := s.cfg.Images.Resolve(ctx, spec.GetImage())
	if err != nil {
		return ignoreMissing(err)
	}
	_, err = s.cfg.Images.Remove(ctx, img.ID.String(), image.RemoveOptions{Force: true})
	return ignoreMissing(err)
}

// ImageFsInfo reports the file system that holds images and writable layers.
func (s *Service) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.cfg.Dir, &fs); err != nil {
		return nil, err
	}
	usage := []*runtimeapi.FilesystemUsage{{
		Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.cfg.Dir},
		UsedBytes:  &runtimeapi.UInt64Value{Value: (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)},
		InodesUsed: &runtimeapi.UInt64Value{Value: fs.Files - fs.Ffree},
	}}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: usage, ContainerFilesystems: usage}, nil
}

func criImage(img image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id: imageID(img.ID), RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: uint64(img.Size),
		Spec: &runtimeapi.ImageSpec{Image: imageID(img.ID)},
	}
	name, _, _ := strings.Cut(img.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = name
	}
	return out
}
