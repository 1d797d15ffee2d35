package dockerapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// maxBody bounds a JSON body, as the reference does.
const maxBody = 8 << 20

// decode reads a JSON body into out, a pointer to a struct. What out has no field
// for is ignored, as in the reference: there are clients that send what older
// servers knew, or their own settings along (dockerode). It is named in the log.
func (c *call) decode(out any) error {
	unknown, err := c.decodeNaming(out)
	for _, name := range unknown {
		c.log.Debug("unknown field ignored", "path", c.r.URL.Path, "key", name)
	}
	return err
}

// decodeNaming is decode, and returns the names of the fields that it ignored
// for the caller to tell.
func (c *call) decodeNaming(out any) (unknown []string, err error) {
	kind := c.r.Header.Get("Content-Type")
	if kind != "" && !strings.HasPrefix(kind, "application/json") && !strings.HasPrefix(kind, "text/plain") {
		return nil, invalid("Content-Type specified (%s) must be 'application/json'", kind)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if err != nil {
		return nil, invalid("read the request's body: %w", err)
	}
	return decodeJSON(body, out)
}

// decodeJSON is decodeNaming of bytes. An empty body leaves out as it is.
func decodeJSON(body []byte, out any) (unknown []string, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(out); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, invalid("invalid JSON: got EOF while reading request body")
		}
		return nil, invalid("invalid JSON: %w", err)
	}
	if decoder.More() {
		return nil, invalid("unexpected content after JSON")
	}
	var raw any
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, invalid("invalid JSON: %w", err)
	}
	unknown = unknownFields(raw, reflect.TypeOf(out), "")
	slices.Sort(unknown)
	return unknown, nil
}

// unknownFields returns the names of the fields of raw that typ does not have
// and that say something.
func unknownFields(raw any, typ reflect.Type, path string) (unknown []string) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch value := raw.(type) {
	case []any:
		if typ.Kind() != reflect.Slice && typ.Kind() != reflect.Array {
			return nil // a type which decodes itself
		}
		for _, item := range value {
			unknown = append(unknown, unknownFields(item, typ.Elem(), path)...)
		}
	case map[string]any:
		if decodesItself(typ) {
			return nil
		}
		if typ.Kind() == reflect.Map {
			for key, item := range value {
				unknown = append(unknown, unknownFields(item, typ.Elem(), path+key+".")...)
			}
		}
		if typ.Kind() != reflect.Struct {
			return unknown
		}
		for name, item := range value {
			if field, ok := fieldOf(typ, name); ok {
				unknown = append(unknown, unknownFields(item, field, path+name+".")...)
			} else if !isZero(item) {
				unknown = append(unknown, path+name)
			}
		}
	}
	return unknown
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func decodesItself(typ reflect.Type) bool {
	return typ.Implements(unmarshaler) || reflect.PointerTo(typ).Implements(unmarshaler)
}

// fieldOf finds a struct's field by its JSON name, as encoding/json does.
func fieldOf(typ reflect.Type, name string) (reflect.Type, bool) {
	for _, field := range reflect.VisibleFields(typ) {
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if tag == "-" || !field.IsExported() || field.Anonymous && tag == "" {
			continue
		}
		if tag == "" {
			tag = field.Name
		}
		if strings.EqualFold(tag, name) {
			return field.Type, true
		}
	}
	return nil, false
}

// isZero tells whether a decoded value says nothing.
func isZero(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		for _, item := range v {
			if !isZero(item) {
				return false
			}
		}
		return true
	case map[string]any:
		for _, item := range v {
			if !isZero(item) {
				return false
			}
		}
		return true
	}
	return false
}

// answer writes v as JSON.
func (c *call) answer(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.begun = true
	c.w.WriteHeader(status)
	if _, err := c.w.Write(append(data, '\n')); err != nil {
		return errClientGone
	}
	return nil
}

func (c *call) noContent() error {
	c.begun = true
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
