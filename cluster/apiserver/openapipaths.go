package apiserver

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// operation is one verb of a resource as both document versions describe it.
type operation struct {
	method   string // post, put ...
	action   string // upstream's x-kubernetes-action
	list     bool   // on the collection
	body     schema.GroupVersionKind
	patch    bool
	answer   schema.GroupVersionKind
	params   []parameter
	resource served
}

type parameter struct {
	name, kind, about string
}

var (
	writeParams = []parameter{
		{"dryRun", "string", "When present, indicates that modifications should not be persisted."},
		{"fieldManager", "string", "fieldManager is a name associated with the actor or entity that is making these changes."},
		{"fieldValidation", "string", "fieldValidation instructs the server on how to handle objects in the request containing unknown or duplicate fields."},
	}
	forceParam = parameter{"force", "boolean", "Force is going to \"force\" Apply requests."}
	listParams = []parameter{
		{"allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."},
		{"continue", "string", "The continue option should be set when retrieving more results from the server."},
		{"fieldSelector", "string", "A selector to restrict the list of returned objects by their fields."},
		{"labelSelector", "string", "A selector to restrict the list of returned objects by their labels."},
		{"limit", "integer", "limit is a maximum number of responses to return for a list call."},
		{"resourceVersion", "string", "resourceVersion sets a constraint on what resource versions a request may be served from."},
		{"resourceVersionMatch", "string", "resourceVersionMatch determines how resourceVersion is applied to list calls."},
		{"sendInitialEvents", "boolean", "`sendInitialEvents=true` may be set together with `watch=true`."},
		{"timeoutSeconds", "integer", "Timeout for the list/watch call."},
		{"watch", "boolean", "Watch for changes to the described resources and return them as a stream."},
	}
	deleteParams = []parameter{
		{"dryRun", "string", "When present, indicates that modifications should not be persisted."},
		{"gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."},
		{"orphanDependents", "boolean", "Deprecated: please use the PropagationPolicy."},
		{"propagationPolicy", "string", "Whether and how garbage collection will be performed."},
	}
)

// operations lists what a resource of discovery serves.
func operations(r served) []operation {
	var out []operation
	named := strings.Contains(r.name, "/")
	list := r.gvk.GroupVersion().WithKind(r.gvk.Kind + "List")
	for _, verb := range r.verbs {
		op := operation{resource: r, answer: r.gvk}
		switch verb {
		case "list":
			op.method, op.action, op.list, op.answer, op.params = "get", "list", true, list, listParams
		case "get":
			op.method, op.action = "get", "get"
		case "create":
			op.method, op.action, op.list, op.body, op.params = "post", "post", !named, r.gvk, writeParams
		case "update":
			op.method, op.action, op.body, op.params = "put", "put", r.gvk, writeParams
		case "patch":
			op.method, op.action, op.patch = "patch", "patch", true
			op.params = append(slices.Clone(writeParams), forceParam)
		case "delete":
			op.method, op.action, op.body, op.answer, op.params = "delete", "delete", deleteOptionsModel, statusModel, deleteParams
		case "deletecollection":
			op.method, op.action, op.list, op.answer = "delete", "deletecollection", true, statusModel
			op.body, op.params = deleteOptionsModel, append(slices.Clone(deleteParams), listParams...)
		default: // watch is a parameter of list
			continue
		}
		if strings.HasSuffix(r.gvk.Kind, "Options") {
			op.body = schema.GroupVersionKind{}
			op.action = "connect"
		}
		out = append(out, op)
	}
	return out
}

// resourcePath is the path of a resource, or of one object of it.
func resourcePath(gv schema.GroupVersion, r served, collection bool) string {
	name, sub, isSub := strings.Cut(r.name, "/")
	p := "/" + openapiPath(gv)
	if r.namespaced {
		p += "/namespaces/{namespace}"
	}
	p += "/" + name
	if !collection || isSub {
		p += "/{name}"
	}
	if isSub {
		p += "/" + sub
	}
	return p
}

func pathParams(p string) []parameter {
	var out []parameter
	if strings.Contains(p, "{name}") {
		out = append(out, parameter{"name", "string", "name of the object"})
	}
	if strings.Contains(p, "{namespace}") {
		out = append(out, parameter{"namespace", "string", "object name and auth scope, such as for teams and projects"})
	}
	return out
}

func (op operation) extensions() spec.VendorExtensible {
	return spec.VendorExtensible{Extensions: spec.Extensions{
		"x-kubernetes-action":             op.action,
		"x-kubernetes-group-version-kind": gvkExtension(op.resource.gvk),
	}}
}

// describe adds the operations of r to a version 3 document.
func (s *Server) describe(paths map[string]*spec3.Path, gv schema.GroupVersion, r served, m *models) {
	for _, op := range operations(r) {
		p := resourcePath(gv, r, op.list)
		item := paths[p]
		if item == nil {
			item = &spec3.Path{}
			for _, param := range pathParams(p) {
				item.Parameters = append(item.Parameters, param.v3("path"))
			}
			paths[p] = item
		}
		o := &spec3.Operation{OperationProps: spec3.OperationProps{
			Responses: &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{
				200: {ResponseProps: spec3.ResponseProps{Description: "OK", Content: bodies(m.add(op.answer), typeJSON, typeYAML, typeProto)}},
			}}},
		}, VendorExtensible: op.extensions()}
		for _, param := range op.params {
			o.Parameters = append(o.Parameters, param.v3("query"))
		}
		switch {
		case op.patch:
			o.RequestBody = &spec3.RequestBody{RequestBodyProps: spec3.RequestBodyProps{Required: true,
				Content: bodies(m.add(patchModel), patchTypes...)}}
		case op.body.Kind != "":
			o.RequestBody = &spec3.RequestBody{RequestBodyProps: spec3.RequestBodyProps{Required: op.method != "delete",
				Content: bodies(m.add(op.body), "*/*")}}
		}
		switch op.method {
		case "get":
			item.Get = o
		case "post":
			item.Post = o
		case "put":
			item.Put = o
		case "patch":
			item.Patch = o
		case "delete":
			item.Delete = o
		}
	}
}

func bodies(s *spec.Schema, mediaTypes ...string) map[string]*spec3.MediaType {
	out := map[string]*spec3.MediaType{}
	for _, t := range mediaTypes {
		out[t] = &spec3.MediaType{MediaTypeProps: spec3.MediaTypeProps{Schema: s}}
	}
	return out
}

func (p parameter) v3(in string) *spec3.Parameter {
	return &spec3.Parameter{ParameterProps: spec3.ParameterProps{
		Name: p.name, In: in, Description: p.about, Required: in == "path",
		Schema: &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{p.kind}}},
	}}
}

func (p parameter) v2(in string) spec.Parameter {
	return spec.Parameter{
		ParamProps:   spec.ParamProps{Name: p.name, In: in, Description: p.about, Required: in == "path"},
		SimpleSchema: spec.SimpleSchema{Type: p.kind},
	}
}

// describeV2 adds the operations of r to a version 2 document.
func (s *Server) describeV2(paths map[string]spec.PathItem, gv schema.GroupVersion, r served, m *models) {
	for _, op := range operations(r) {
		p := resourcePath(gv, r, op.list)
		item, ok := paths[p]
		if !ok {
			for _, param := range pathParams(p) {
				item.Parameters = append(item.Parameters, param.v2("path"))
			}
		}
		o := &spec.Operation{VendorExtensible: op.extensions(), OperationProps: spec.OperationProps{
			Produces: []string{typeJSON, typeYAML, typeProto},
			Responses: &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: map[int]spec.Response{
				200: {ResponseProps: spec.ResponseProps{Description: "OK", Schema: m.add(op.answer)}},
			}}},
		}}
		for _, param := range op.params {
			o.Parameters = append(o.Parameters, param.v2("query"))
		}
		if body := op.bodyV2(m); body != nil {
			o.Parameters = append(o.Parameters, *body)
		}
		o.Consumes = []string{"*/*"}
		switch op.method {
		case "get":
			item.Get = o
		case "post":
			item.Post = o
		case "put":
			item.Put = o
		case "patch":
			o.Consumes = patchTypes
			item.Patch = o
		case "delete":
			item.Delete = o
		}
		paths[p] = item
	}
}

func (op operation) bodyV2(m *models) *spec.Parameter {
	gvk := op.body
	if op.patch {
		gvk = patchModel
	}
	if gvk.Kind == "" {
		return nil
	}
	return &spec.Parameter{ParamProps: spec.ParamProps{Name: "body", In: "body", Required: op.method != "delete", Schema: m.add(gvk)}}
}
