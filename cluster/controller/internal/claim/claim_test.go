package claim

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func TestDecide(t *testing.T) {
	gone := &metav1.Time{Time: time.Unix(1, 0)}
	ours := []metav1.OwnerReference{{UID: "owner", Controller: new(true)}}
	others := []metav1.OwnerReference{{UID: "other", Controller: new(true)}}
	plain := []metav1.OwnerReference{{UID: "other"}}
	match, differ := map[string]string{"app": "web"}, map[string]string{"app": "db"}
	cases := []struct {
		name  string
		owner metav1.ObjectMeta
		obj   metav1.ObjectMeta
		want  Verdict
	}{
		{"ours and matching is kept", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: match, OwnerReferences: ours}, Keep},
		{"ours is kept while it is deleted", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: match, OwnerReferences: ours, DeletionTimestamp: gone}, Keep},
		{"ours that no longer matches is released", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: differ, OwnerReferences: ours}, Release},
		{"a dying owner releases nothing", metav1.ObjectMeta{DeletionTimestamp: gone}, metav1.ObjectMeta{Labels: differ, OwnerReferences: ours}, Ignore},
		{"another's is left alone even if it matches", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: match, OwnerReferences: others}, Ignore},
		{"a matching orphan is adopted", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: match}, Adopt},
		{"an owner that is not its controller does not hinder adoption", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: match, OwnerReferences: plain}, Adopt},
		{"an orphan that differs is ignored", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: differ}, Ignore},
		{"a dying orphan is not adopted", metav1.ObjectMeta{}, metav1.ObjectMeta{Labels: match, DeletionTimestamp: gone}, Ignore},
		{"a dying owner adopts nothing", metav1.ObjectMeta{DeletionTimestamp: gone}, metav1.ObjectMeta{Labels: match}, Ignore},
	}
	selector := labels.SelectorFromSet(match)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.owner.UID = "owner"
			if got := Decide(&c.owner, selector, &c.obj); got != c.want {
				t.Errorf("Decide = %v, want %v", got, c.want)
			}
		})
	}
}
