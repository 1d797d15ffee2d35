package image

import (
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Spec is an image's configuration document: OCI's, with Docker's extra fields
// (Healthcheck, OnBuild, Shell).
type Spec = dockerspec.DockerOCIImage

// Image is one image of the store. It is a copy: changing it changes nothing.
type Image struct {
	ID          digest.Digest   // digest of the configuration document
	Config      Spec            // the configuration document, decoded
	RepoTags    []string        // familiar names with tags, sorted: "busybox:latest"
	RepoDigests []string        // familiar names with digests, sorted
	Layers      []digest.Digest // diffIDs, bottom first
	Size        int64           // bytes of all layers, unpacked
	Parent      digest.Digest   // the image that it was built from; may be empty
	LastTagged  time.Time       // zero when it was never tagged
}

// Platform returns what the image runs on, as its configuration says.
func (i Image) Platform() ocispec.Platform { return i.Config.Platform }

// Created returns when the image was made, or the zero time.
func (i Image) Created() time.Time {
	if i.Config.Created == nil {
		return time.Time{}
	}
	return *i.Config.Created
}

// Layer is one unpacked layer.
type Layer struct {
	DiffID  digest.Digest // digest of its uncompressed tar
	Bytes   int64         // of the regular files in it
	Tar     int64         // length of its uncompressed tar
	Created time.Time     // when it came into the store
}

// Deleted is one line of what a removal did; one field of the two is set.
type Deleted struct {
	Untagged string // familiar reference
	Deleted  string // image ID or chain ID of a layer
}

// Event is one step of a load or import, as a person wants to follow it.
type Event struct {
	Status  string        // "Loading layer"; empty when Stream is set
	Layer   digest.Digest // what Status is about; empty until it is known
	Current int64         // bytes
	Total   int64         // bytes; 0 when unknown
	Stream  string        // a whole line for the user: "Loaded image: web:1\n"
}

// HistoryEntry is one line of an image's history, newest first.
type HistoryEntry struct {
	ID        string // image ID of the newest line, "<missing>" of the others
	Created   time.Time
	CreatedBy string
	Comment   string
	Size      int64
	Tags      []string
}

// Hold says that a container uses an image.
type Hold struct {
	Owner   string          // container ID
	Image   digest.Digest   // image ID
	Layers  []digest.Digest // of the image; they stay even if the image is removed by force
	Running func() bool     // asked when the image is to be removed; nil: never
}

// RemoveOptions change what Remove does.
type RemoveOptions struct {
	Force   bool // remove all references, and the image of stopped containers
	NoPrune bool // keep untagged parents
}

// PruneOptions say which unused images Prune removes.
type PruneOptions struct {
	All    bool             // also those that have a tag
	Filter func(Image) bool // nil: all
}

// PruneReport is what Prune did.
type PruneReport struct {
	Deleted   []Deleted
	Reclaimed int64 // bytes
}

// ImportOptions describe the image that Import makes of a root file system.
type ImportOptions struct {
	Ref     string // name for it; empty: none
	Config  Spec   // with changes already applied (builder.Changes); its layers are set by Import
	Message string // comment in the history
	Source  string // said in the history: "Imported from -"
}

// CreateOptions say how Create registers an image.
type CreateOptions struct {
	Tags   []string      // names to give it
	Parent digest.Digest // the image that it is made from; may be empty
}
