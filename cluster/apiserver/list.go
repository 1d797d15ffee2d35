package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"gantry/cluster/store"
)

// selection is which objects a list, watch or deletecollection is about.
type selection struct {
	opts   metav1.ListOptions
	labels labels.Selector
	fields fields.Selector
	kind   *kind
	prefix string // of keys
	name   string // when the path names one object
}

func (req *request) selection() (*selection, error) {
	sel := &selection{kind: req.kind, prefix: req.keyPrefix(), name: req.path.name}
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&req.query, &sel.opts, nil); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	o := sel.opts
	errs := internalvalidation.ValidateListOptions(&internalversion.ListOptions{
		Watch: o.Watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, SendInitialEvents: o.SendInitialEvents,
	}, true)
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	var err error
	if sel.labels, err = labels.Parse(o.LabelSelector); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if sel.fields, err = req.kind.FieldSelector(o.FieldSelector); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return sel, nil
}

func (sel *selection) match(e *entry) bool {
	if !strings.HasPrefix(e.key, sel.prefix) || sel.name != "" && e.meta.GetName() != sel.name {
		return false
	}
	if !sel.labels.Empty() && !sel.labels.Matches(labels.Set(e.meta.GetLabels())) {
		return false
	}
	return sel.fields.Empty() || sel.kind.MatchFields(sel.fields, e.obj)
}

// listed is one answer to a list.
type listed struct {
	entries   []*entry
	rev       int64
	cont      string
	remaining *int64
}

// token is what a continue parameter holds: upstream's form.
type token struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
}

const tokenVersion = "meta.k8s.io/v1"

func (t token) encode() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic("a token of strings and numbers has an encoding: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeToken returns the revision and the key after which to go on. Revision
// -1 stands for the newest, after an expired token.
func decodeToken(s, prefix string) (rev int64, after string, err error) {
	bad := func(why string) (int64, string, error) {
		return 0, "", apierrors.NewBadRequest("continue key is not valid: " + why)
	}
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return bad(err.Error())
	}
	var t token
	if err := json.Unmarshal(data, &t); err != nil {
		return bad(err.Error())
	}
	switch {
	case t.APIVersion != tokenVersion:
		return bad(fmt.Sprintf("server does not recognize this encoded version %q", t.APIVersion))
	case t.ResourceVersion == 0:
		return bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case t.StartKey == "" || strings.Contains(t.StartKey, "../"):
		return bad(fmt.Sprintf("%q", t.StartKey))
	}
	return t.ResourceVersion, prefix + strings.TrimSuffix(t.StartKey, "\x00"), nil
}

func (s *Server) serveList(req *request) error {
	sel, err := req.selection()
	if err != nil {
		return err
	}
	l, err := s.list(req.r.Context(), sel)
	if err != nil {
		return err
	}
	return req.sendList(l)
}

func (s *Server) list(ctx context.Context, sel *selection) (listed, error) {
	o := sel.opts
	if o.Continue != "" {
		rev, after, err := decodeToken(o.Continue, sel.prefix)
		if err != nil {
			return listed{}, err
		}
		if rev > 0 {
			return s.listAt(ctx, sel, rev, after)
		}
		if err := s.fresh(ctx); err != nil {
			return listed{}, err
		}
		return sel.page(sel.kind.cache, after), nil
	}
	if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
		rev, err := parseRev(o.ResourceVersion)
		if err != nil {
			return listed{}, err
		}
		return s.listAt(ctx, sel, rev, "")
	}
	if err := s.atLeast(ctx, o.ResourceVersion); err != nil {
		return listed{}, err
	}
	// Asked before the page is read: a revision reached meanwhile would hide, from
	// who watches from it on, a change that the page does not show.
	reached := s.feed.progress.now()
	l := sel.page(sel.kind.cache, "")
	l.rev = max(l.rev, reached)
	return l, nil
}

// page reads from the cache what comes after a key.
func (sel *selection) page(c *cache, after string) listed {
	tree, cur := c.snapshot()
	l := listed{rev: cur.rev}
	more := int64(0)
	walk(tree, sel.prefix, after, func(e *entry) bool {
		switch {
		case !sel.match(e):
		case sel.opts.Limit > 0 && int64(len(l.entries)) == sel.opts.Limit:
			more++
		default:
			l.entries = append(l.entries, e)
		}
		return true
	})
	l.setMore(sel, more)
	return l
}

func (l *listed) setMore(sel *selection, more int64) {
	if more == 0 {
		return
	}
	last := strings.TrimPrefix(l.entries[len(l.entries)-1].key, sel.prefix)
	l.cont = token{tokenVersion, l.rev, last + "\x00"}.encode()
	if sel.labels.Empty() && sel.fields.Empty() {
		l.remaining = &more
	}
}

// listAt reads an old revision, from the store.
func (s *Server) listAt(ctx context.Context, sel *selection, rev int64, after string) (listed, error) {
	l := listed{rev: rev}
	var more int64
	for {
		page, err := s.store.List(ctx, sel.prefix, store.ListOptions{Revision: rev, After: after, Limit: sel.opts.Limit})
		switch {
		case errors.Is(err, store.ErrCompacted) && sel.opts.Continue != "":
			return listed{}, expiredToken(sel, after)
		case errors.Is(err, store.ErrCompacted):
			return listed{}, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
		case errors.Is(err, store.ErrFuture):
			return listed{}, tooLarge(rev, s.feed.progress.now())
		case err != nil:
			return listed{}, err
		}
		for _, r := range page.Records {
			if sel.opts.Limit > 0 && int64(len(l.entries)) == sel.opts.Limit {
				more++
				continue
			}
			e, err := s.feed.codec.entry(r)
			if err != nil {
				return listed{}, fmt.Errorf("decode %s: %w", r.Key, err)
			}
			if sel.match(e) {
				l.entries = append(l.entries, e)
			}
			after = r.Key
		}
		more += page.Remaining
		full := sel.opts.Limit > 0 && int64(len(l.entries)) == sel.opts.Limit
		if full || page.Remaining == 0 {
			break
		}
		more = 0
	}
	l.setMore(sel, more)
	return l, nil
}

// expiredToken offers to go on without consistency, as upstream does.
func expiredToken(sel *selection, after string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = token{tokenVersion, -1, strings.TrimPrefix(after, sel.prefix) + "\x00"}.encode()
	return err
}

func (req *request) sendList(l listed) error {
	meta := metav1.ListMeta{ResourceVersion: formatRev(l.rev), Continue: l.cont, RemainingItemCount: l.remaining}
	switch req.out.shape {
	case shapeTable:
		return req.sendTable(l, meta)
	case shapePartial:
		list := &metav1.PartialObjectMetadataList{ListMeta: meta, Items: make([]metav1.PartialObjectMetadata, len(l.entries))}
		for i, e := range l.entries {
			list.Items[i] = *partialOf(e)
			if req.out.format != formatProto {
				list.Items[i].SetGroupVersionKind(partialGVK)
			}
		}
		return req.sendObject(http.StatusOK, list, partialListGVK)
	}
	body, err := req.encodeList(l, meta)
	if err != nil {
		return err
	}
	req.sendBytes(http.StatusOK, body)
	return nil
}

// encodeList joins the entries' shared encodings.
func (req *request) encodeList(l listed, meta metav1.ListMeta) ([]byte, error) {
	apiVersion, kind := req.kind.ListKind().ToAPIVersionAndKind()
	if req.out.format == formatProto {
		raw := appendBytes(nil, 1, listMeta(meta.ResourceVersion, meta.Continue, meta.RemainingItemCount))
		for _, e := range l.entries {
			item, err := e.encoded(req.kind, formatProto)
			if err != nil {
				return nil, err
			}
			raw = appendBytes(raw, 2, item)
		}
		return appendUnknown(make([]byte, 0, len(raw)+64), protoHead(apiVersion, kind), raw), nil
	}
	metaJSON, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	body := append([]byte(jsonHead(apiVersion, kind)), `"metadata":`...)
	body = append(append(body, metaJSON...), `,"items":[`...)
	for i, e := range l.entries {
		item, err := e.encoded(req.kind, formatJSON)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			body = append(body, ',')
		}
		// Items carry no kind of their own.
		body = append(append(body, '{'), item[len(req.kind.jsonHead):]...)
	}
	body = append(body, "]}"...)
	if req.out.format == formatYAML {
		return yaml.JSONToYAML(body)
	}
	return append(body, '\n'), nil
}

func (req *request) sendTable(l listed, meta metav1.ListMeta) error {
	t, err := req.emptyTable()
	if err != nil {
		return err
	}
	for _, e := range l.entries {
		one, err := req.tableOf(e, false)
		if err != nil {
			return err
		}
		t.Rows = append(t.Rows, one.Rows...)
	}
	t.ListMeta = meta
	return req.sendObject(http.StatusOK, t, tableGVK)
}
