package volume

import (
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Kind is the name of the volume's source in a manifest, such as
// "persistentVolumeClaim".
func Kind(v *v1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unspecified"
}
