package apiserver

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	tableGVK       = metav1.SchemeGroupVersion.WithKind("Table")
	partialGVK     = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")
	partialListGVK = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadataList")
)

// partialOf is an entry without all but its metadata.
func partialOf(e *entry) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{}
	if om, ok := e.meta.(interface{ GetObjectMeta() metav1.Object }); ok {
		if full, ok := om.GetObjectMeta().(*metav1.ObjectMeta); ok {
			p.ObjectMeta = *full // shared, and only read
		}
	}
	return p
}

// tableOf is an entry as a table of one row.
func (req *request) tableOf(e *entry, headers bool) (*metav1.Table, error) {
	t, err := req.kind.Table(e.obj, headers)
	if err != nil {
		return nil, err
	}
	for i := range t.Rows {
		if err := req.includeObject(&t.Rows[i], e); err != nil {
			return nil, err
		}
	}
	t.ResourceVersion = formatRev(e.rev)
	return t, nil
}

// includeObject adds to a row what the query's includeObject asks for.
func (req *request) includeObject(row *metav1.TableRow, e *entry) error {
	var raw []byte
	var err error
	switch metav1.IncludeObjectPolicy(req.query.Get("includeObject")) {
	case metav1.IncludeNone:
		row.Object = runtime.RawExtension{}
		return nil
	case metav1.IncludeObject:
		raw, err = e.encoded(req.kind, formatJSON)
	default:
		p := partialOf(e)
		p.SetGroupVersionKind(partialGVK)
		raw, err = json.Marshal(p)
	}
	row.Object = runtime.RawExtension{Raw: raw}
	return err
}

// emptyTable has the columns alone.
func (req *request) emptyTable() (*metav1.Table, error) {
	columns, err := req.kind.Columns()
	return &metav1.Table{ColumnDefinitions: columns, Rows: []metav1.TableRow{}}, err
}

func withKind[T runtime.Object](obj T, gvk schema.GroupVersionKind) T {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}
