package resource

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/printers"
	"k8s.io/kubernetes/pkg/printers/internalversion"
)

// generator is made when the first person looks: clients inside the process
// never ask for tables.
var generator = sync.OnceValue(func() *printers.HumanReadableGenerator {
	return printers.NewTableGenerator().With(internalversion.AddHandlers)
})

// Table returns obj, a stored object, as a table of one row.
func (k *Kind) Table(obj runtime.Object, headers bool) (*metav1.Table, error) {
	internal, err := k.Internal(obj)
	if err != nil {
		return nil, err
	}
	return generator().GenerateTable(internal, printers.GenerateOptions{Wide: true, NoHeaders: !headers})
}

// Columns returns the table's column definitions.
func (k *Kind) Columns() ([]metav1.TableColumnDefinition, error) {
	t, err := k.Table(k.NewStored(), true)
	if err != nil {
		return nil, err
	}
	return t.ColumnDefinitions, nil
}
