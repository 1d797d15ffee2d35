package apiserver_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"gantry/cluster/apiserver/apitest"
)

// next returns a watch's next event as TYPE NAME.
func next(t *testing.T, w watch.Interface) (string, watch.Event) {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			return "CLOSED", e
		}
		if e.Type == watch.Error {
			return "ERROR", e
		}
		m, err := meta.Accessor(e.Object)
		if err != nil {
			t.Fatalf("event %+v: %v", e, err)
		}
		return string(e.Type) + " " + m.GetName(), e
	case <-time.After(5 * time.Second):
		t.Fatal("no event")
		return "", watch.Event{}
	}
}

func expect(t *testing.T, w watch.Interface, want ...string) watch.Event {
	t.Helper()
	var e watch.Event
	for _, wanted := range want {
		var got string
		if got, e = next(t, w); got != wanted {
			t.Fatalf("event %s, want %s: %+v", got, wanted, e.Object)
		}
	}
	return e
}

// clients are one in process with protobuf, and one over TLS with JSON.
func clients(t *testing.T, s *apitest.Server) map[string]kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]kubernetes.Interface{"in process": s.Client, "over TLS": kubernetes.NewForConfigOrDie(cfg)}
}

func TestWatchSeesWhatTheSelectorSees(t *testing.T) {
	s := apitest.Start(t)
	for name, c := range clients(t, s) {
		t.Run(name, func(t *testing.T) {
			ctx, pods := t.Context(), c.CoreV1().Pods("default")
			list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=a"})
			if err != nil {
				t.Fatal(err)
			}
			w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=a", ResourceVersion: list.ResourceVersion})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			p := pod("p")
			p.Labels = map[string]string{"app": "b"}
			if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			label := func(value string) {
				t.Helper()
				if _, err := pods.Patch(ctx, "p", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"`+value+`"}}}`), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			label("a")
			label("b")
			label("a")
			if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			expect(t, w, "ADDED p", "DELETED p", "ADDED p")
			e := expect(t, w, "DELETED p")
			if deleted := e.Object.(*corev1.Pod); deleted.ResourceVersion <= list.ResourceVersion {
				t.Errorf("removal at revision %s, after %s", deleted.ResourceVersion, list.ResourceVersion)
			}
		})
	}
}

func TestWatchListEndsWithABookmark(t *testing.T) {
	s := apitest.Start(t)
	create(t, s, pod("a"))
	create(t, s, pod("b"))
	for name, c := range clients(t, s) {
		t.Run(name, func(t *testing.T) {
			w, err := c.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{
				SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true,
				ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			e := expect(t, w, "ADDED a", "ADDED b", "BOOKMARK ")
			p := e.Object.(*corev1.Pod)
			if p.Annotations[metav1.InitialEventsAnnotationKey] != "true" || p.ResourceVersion == "" {
				t.Errorf("bookmark %+v", p.ObjectMeta)
			}
		})
	}
	_, err := s.Client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{SendInitialEvents: ptr.To(true)})
	if !apierrors.IsInvalid(err) {
		t.Errorf("initial events without a match: %v, want Invalid", err)
	}
}

func TestWatchOfTheForgottenIsExpired(t *testing.T) {
	s := apitest.Start(t)
	create(t, s, pod("a"))
	s.Stop()
	s = apitest.StartWith(t, apitest.Options{Dir: s.Dir})
	_, err := s.Client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "2"})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from before the start: %v, want Expired", err)
	}
	err = s.Client.CoreV1().RESTClient().Get().Resource("pods").Param("resourceVersion", "1000000").MaxRetries(0).Do(t.Context()).Error()
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("list of the future: %v", err)
	}
}

func TestMetadataAlone(t *testing.T) {
	s := apitest.Start(t)
	create(t, s, pod("a"))
	c := metadata.NewForConfigOrDie(metadata.ConfigFor(s.Config)).Resource(corev1.SchemeGroupVersion.WithResource("pods"))
	list, err := c.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "a" {
		t.Fatalf("list: %v, %+v", err, list)
	}
	w, err := c.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	expect(t, w, "ADDED a")
	if err := c.Namespace("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(t, w, "DELETED a")
}

func TestPagesAreOneSnapshot(t *testing.T) {
	s := apitest.Start(t)
	for name, c := range clients(t, s) {
		t.Run(name, func(t *testing.T) {
			cms := c.CoreV1().ConfigMaps("default")
			for range 5 {
				if _, err := cms.Create(t.Context(), configMap(), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			first, err := cms.List(t.Context(), metav1.ListOptions{Limit: 2})
			if err != nil || len(first.Items) != 2 || first.Continue == "" || *first.RemainingItemCount != 3 {
				t.Fatalf("first page: %v, %+v", err, first)
			}
			if err := cms.Delete(t.Context(), first.Items[1].Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			total := len(first.Items)
			for page := first; page.Continue != ""; {
				if page, err = cms.List(t.Context(), metav1.ListOptions{Limit: 2, Continue: page.Continue}); err != nil {
					t.Fatal(err)
				}
				if page.ResourceVersion != first.ResourceVersion {
					t.Errorf("page at %s, first at %s", page.ResourceVersion, first.ResourceVersion)
				}
				total += len(page.Items)
			}
			if total != 5 {
				t.Errorf("%d objects in all pages, want 5", total)
			}
			if _, err := cms.List(t.Context(), metav1.ListOptions{Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
				t.Errorf("a bad token: %v", err)
			}
			if err := cms.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
			if left, err := cms.List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
				t.Errorf("after the deletion of all: %v, %d", err, len(left.Items))
			}
		})
	}
}

func TestEventsAreOneInTwoGroups(t *testing.T) {
	s := apitest.Start(t)
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"},
		Reason:         "Started", Message: "it began", Type: "Normal", Count: 1,
	}
	if _, err := s.Client.CoreV1().Events("default").Create(t.Context(), ev, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Client.EventsV1().Events("default").Get(t.Context(), "e", metav1.GetOptions{})
	if err != nil || got.Note != "it began" || got.Regarding.Name != "p" {
		t.Errorf("in events.k8s.io: %v, %+v", err, got)
	}
	got.Name, got.ResourceVersion, got.UID = "e2", "", ""
	got.EventTime, got.ReportingController, got.ReportingInstance, got.Action = metav1.NowMicro(), "example.org/c", "c-0", "Start"
	got.DeprecatedCount, got.Note = 0, "it began again"
	if _, err := s.Client.EventsV1().Events("default").Create(t.Context(), got, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	list, err := s.Client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Started"})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("by its object: %v, %d", err, len(list.Items))
	}
}
