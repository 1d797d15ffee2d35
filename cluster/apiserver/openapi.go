package apiserver

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// openapiFormat changes when the documents that are made from the same schemas
// change: clients keep them on disk by their hash.
const openapiFormat = "1"

const (
	typeOpenAPI2Proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	typeOpenAPI3Proto = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// documents keeps what was sent once, compressed: making one takes 15 to 40 ms,
// and a tenth of a megabyte is less than the schemas that it is made from.
type documents struct {
	mu    sync.Mutex
	known map[string][]byte
}

// get returns the document of a name, made by build the first time.
func (d *documents) get(name string, build func() ([]byte, error)) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if doc := d.known[name]; doc != nil {
		return doc, nil
	}
	data, err := build()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := zip.Write(data); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	if d.known == nil {
		d.known = map[string][]byte{}
	}
	d.known[name] = bytes.Clone(out.Bytes())
	return d.known[name], nil
}

// openapiHash stands for the content of all documents without making them: they
// are a function of the libraries, the table of kinds and this package.
func (s *Server) openapiHash() string {
	h := sha256.New()
	fmt.Fprintln(h, openapiFormat, apiVersion)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if strings.HasPrefix(dep.Path, "k8s.io/") {
				fmt.Fprintln(h, dep.Path, dep.Version)
			}
		}
	}
	for _, gv := range s.groupVersions() {
		fmt.Fprintln(h, gv, s.resources(gv))
	}
	return fmt.Sprintf("%X", h.Sum(nil))
}

func openapiPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

// serveOpenAPI serves the schemas of the kinds.
func (s *Server) serveOpenAPI(req *request) error {
	if req.r.Method != http.MethodGet && req.r.Method != http.MethodHead {
		return methodNotAllowed(req)
	}
	p := strings.TrimSuffix(req.r.URL.Path, "/")
	accept := req.r.Header.Get("Accept")
	switch {
	case p == "/openapi/v2":
		if strings.Contains(accept, "spec.v2") && strings.Contains(accept, "protobuf") {
			return s.sendDocument(req, "v2.pb", typeOpenAPI2Proto, func() ([]byte, error) { return convertV2(s.swagger()) })
		}
		return s.sendDocument(req, "v2", typeJSON, s.swagger)
	case p == "/openapi/v3":
		return s.sendOpenAPIRoot(req)
	}
	for _, gv := range s.groupVersions() {
		if p != "/openapi/v3/"+openapiPath(gv) {
			continue
		}
		build := func() ([]byte, error) { return json.Marshal(s.openapi3(gv)) }
		if strings.Contains(accept, "spec.v3") && strings.Contains(accept, "protobuf") {
			return s.sendDocument(req, gv.String()+".pb", typeOpenAPI3Proto, func() ([]byte, error) { return convertV3(build()) })
		}
		return s.sendDocument(req, gv.String(), typeJSON, build)
	}
	return pageNotFound()
}

func convertV2(doc []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	parsed, err := openapiv2.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(parsed)
}

func convertV3(doc []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	parsed, err := openapiv3.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(parsed)
}

func (s *Server) sendOpenAPIRoot(req *request) error {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	hash := s.openapiHash()
	for _, gv := range s.groupVersions() {
		paths[openapiPath(gv)] = entry{"/openapi/v3/" + openapiPath(gv) + "?hash=" + hash}
	}
	body, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		return err
	}
	req.w.Header().Set("Content-Type", typeJSON)
	_, _ = req.w.Write(body) // the client is gone if this fails
	return nil
}

func (s *Server) sendDocument(req *request, name, mediaType string, build func() ([]byte, error)) error {
	zipped, err := s.docs.get(name, build)
	if err != nil {
		return err
	}
	h := req.w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Vary", "Accept, Accept-Encoding")
	etag := `"` + s.openapiHash() + `"`
	h.Set("Etag", etag)
	if req.query.Get("hash") != "" {
		h.Set("Cache-Control", "public, immutable")
	}
	if req.r.Header.Get("If-None-Match") == etag {
		req.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if strings.Contains(req.r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		_, _ = req.w.Write(zipped) // the client is gone if this fails
		return nil
	}
	unzip, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return err
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(unzip); err != nil {
		return err
	}
	_, _ = req.w.Write(plain.Bytes()) // as above
	return nil
}

// openapi3 is the document of one group and version.
func (s *Server) openapi3(gv schema.GroupVersion) *spec3.OpenAPI {
	m := newModels(refsV3)
	doc := &spec3.OpenAPI{
		Version:    "3.0.0",
		Info:       openapiInfo(),
		Paths:      &spec3.Paths{Paths: map[string]*spec3.Path{}},
		Components: &spec3.Components{},
	}
	for _, r := range s.resources(gv) {
		s.describe(doc.Paths.Paths, gv, r, m)
	}
	for _, k := range s.kinds.all {
		if k.GroupVersion() == gv {
			m.add(k.GroupVersionKind)
			m.add(k.ListKind())
		}
	}
	doc.Components.Schemas = m.schemas
	return doc
}

func openapiInfo() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: apiVersion}}
}

// swagger is the older document, of everything at once.
func (s *Server) swagger() ([]byte, error) {
	m := newModels(refsV2)
	doc := &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: openapiInfo(), Paths: &spec.Paths{Paths: map[string]spec.PathItem{}},
	}}
	for _, gv := range s.groupVersions() {
		for _, r := range s.resources(gv) {
			s.describeV2(doc.Paths.Paths, gv, r, m)
		}
	}
	for _, k := range s.kinds.all {
		m.add(k.GroupVersionKind)
		m.add(k.ListKind())
	}
	doc.Definitions = spec.Definitions{}
	for name, model := range m.schemas {
		doc.Definitions[name] = *model
	}
	return json.Marshal(doc)
}
