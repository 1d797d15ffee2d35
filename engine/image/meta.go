package image

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// Buckets of meta.db.
var (
	documentsBucket = []byte("documents") // digest -> bytes, exactly as they came
	imagesBucket    = []byte("images")    // image ID -> imageRecord
	namesBucket     = []byte("names")     // canonical reference -> image ID
	layersBucket    = []byte("layers")    // hex of diffID -> layerRecord
	blobsBucket     = []byte("blobs")     // digest -> blobRecord
	manifestsBucket = []byte("manifests") // digest -> Manifest
	packedBucket    = []byte("packed")    // diffID -> digest of the blob that Pack made of the layer
	formatBucket    = []byte("format")    // "version" -> formatVersion
)

const formatVersion = "1"

// imageRecord is what the store knows of an image beside its configuration.
type imageRecord struct {
	Parent     digest.Digest `json:"parent,omitempty"`
	LastTagged time.Time     `json:"lastTagged,omitzero"`
	Used       time.Time     `json:"used,omitzero"` // when it came, or lost a name; see touch

	// Manifests of the image and the indexes it was found in, newest last.
	Manifests []digest.Digest `json:"manifests,omitempty"`
}

// layerRecord is what the store knows of an unpacked layer.
type layerRecord struct {
	Link    string    `json:"link"`            // name in l/
	Bytes   int64     `json:"bytes"`           // of the regular files
	Tar     int64     `json:"tar"`             // length of the archive
	Split   bool      `json:"split,omitempty"` // there is a split file
	Stash   []stashed `json:"stash,omitempty"`
	Created time.Time `json:"created"`
	Boot    string    `json:"boot,omitempty"` // set until the files are known to be durable
}

func makeBuckets(tx *bolt.Tx) error {
	for _, name := range [][]byte{documentsBucket, imagesBucket, namesBucket, layersBucket, blobsBucket, manifestsBucket, packedBucket, formatBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	format := tx.Bucket(formatBucket)
	switch v := string(format.Get([]byte("version"))); v {
	case "":
		return format.Put([]byte("version"), []byte(formatVersion))
	case formatVersion:
		return nil
	default:
		return problem.New(problem.Unsupported, "image store has format %s, this program knows %s", v, formatVersion)
	}
}

func getLayer(tx *bolt.Tx, diffID digest.Digest) (layerRecord, error) {
	b := tx.Bucket(layersBucket).Get([]byte(diffID.Encoded()))
	if b == nil {
		return layerRecord{}, problem.New(problem.NotFound, "layer %s is not in the store", diffID)
	}
	var r layerRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("record of layer %s: %w", diffID, err)
	}
	return r, nil
}

func putLayer(tx *bolt.Tx, diffID digest.Digest, r layerRecord) error {
	return putJSON(tx.Bucket(layersBucket), diffID.Encoded(), r)
}

func putJSON(b *bolt.Bucket, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), data)
}

// nextLink returns a link name that no layer has had. 0 is the empty layer's.
func nextLink(tx *bolt.Tx) (string, error) {
	n, err := tx.Bucket(layersBucket).NextSequence()
	return strconv.FormatUint(n, 36), err
}

// getImage reads an image whole, without its names.
func getImage(tx *bolt.Tx, id digest.Digest) (Image, error) {
	b := tx.Bucket(imagesBucket).Get([]byte(id))
	if b == nil {
		return Image{}, problem.New(problem.NotFound, "No such image: %s", id)
	}
	var r imageRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return Image{}, fmt.Errorf("record of image %s: %w", id, err)
	}
	img := Image{ID: id, Parent: r.Parent, LastTagged: r.LastTagged}
	if err := json.Unmarshal(tx.Bucket(documentsBucket).Get([]byte(id)), &img.Config); err != nil {
		return Image{}, fmt.Errorf("configuration of image %s: %w", id, err)
	}
	img.Layers = img.Config.RootFS.DiffIDs
	for _, l := range img.Layers {
		layer, err := getLayer(tx, l)
		if err != nil {
			return Image{}, fmt.Errorf("image %s: %w", id, err)
		}
		img.Size += layer.Bytes
	}
	return img, nil
}

// dropTorn removes the records of layers that were not synced before the host
// went down, and returns the other records by the hex of their diffID. No image
// has such a layer, for an image is recorded after its layers are synced.
func (s *Store) dropTorn() (map[string]layerRecord, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	kept := map[string]layerRecord{}
	var torn [][]byte
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(layersBucket).ForEach(func(k, v []byte) error {
			var r layerRecord
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("record of layer %s: %w", k, err)
			}
			if r.Boot != "" && r.Boot != boot {
				torn = append(torn, append([]byte(nil), k...))
				return nil
			}
			kept[string(k)] = r
			return nil
		})
	})
	if err != nil || len(torn) == 0 {
		return kept, err
	}
	s.log.Info("dropping layers that were not on disk when the host stopped", "count", len(torn))
	return kept, s.db.Update(func(tx *bolt.Tx) error {
		for _, k := range torn {
			if err := tx.Bucket(layersBucket).Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}
