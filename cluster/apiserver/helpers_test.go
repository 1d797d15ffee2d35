package apiserver_test

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// handler writes +NAME, ~NAME and -NAME of pods to seen.
func handler(seen chan<- string) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { seen <- "+" + obj.(*corev1.Pod).Name },
		UpdateFunc: func(_, obj any) { seen <- "~" + obj.(*corev1.Pod).Name },
		DeleteFunc: func(obj any) { seen <- "-" + obj.(*corev1.Pod).Name },
	}
}
