package controller_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/internal/clustertest"
	"gantry/internal/testenv"
)

// kubectl runs the stock command and returns what it prints.
func kubectl(t *testing.T, c *clustertest.Cluster, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.NeedCommand(t, "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is kubectl that has to succeed and to print want.
func must(t *testing.T, c *clustertest.Cluster, want string, args ...string) string {
	t.Helper()
	out, err := kubectl(t, c, args...)
	if err != nil || !strings.Contains(out, want) {
		t.Fatalf("kubectl %s: %v\n%swant %q", strings.Join(args, " "), err, out, want)
	}
	return out
}

const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "image:1"}]
`

func TestStockKubectlRollsOut(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 2})
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	const done = `deployment "web" successfully rolled out`
	must(t, c, "deployment.apps/web created", "apply", "-f", file)
	must(t, c, done, "rollout", "status", "deployment/web")

	must(t, c, "image updated", "set", "image", "deployment/web", "c=image:2")
	must(t, c, "annotated", "annotate", "deployment/web", "kubernetes.io/change-cause=second image")
	must(t, c, done, "rollout", "status", "deployment/web")
	history := must(t, c, "second image", "rollout", "history", "deployment/web")
	if !strings.Contains(history, "1         <none>") {
		t.Errorf("history:\n%s", history)
	}
	must(t, c, "Image:	image:1", "rollout", "history", "deployment/web", "--revision=1")

	must(t, c, "rolled back", "rollout", "undo", "deployment/web")
	must(t, c, done, "rollout", "status", "deployment/web")
	must(t, c, "image:1", "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	history = must(t, c, "3", "rollout", "history", "deployment/web")
	if strings.Contains(history, "\n1 ") {
		t.Errorf("revision 1 is still there after it became 3:\n%s", history)
	}

	must(t, c, "restarted", "rollout", "restart", "deployment/web")
	must(t, c, done, "rollout", "status", "deployment/web")
	must(t, c, "3/3", "get", "deployment", "web")

	must(t, c, "paused", "rollout", "pause", "deployment/web")
	must(t, c, "image updated", "set", "image", "deployment/web", "c=image:4")
	must(t, c, "scaled", "scale", "deployment/web", "--replicas=5")
	must(t, c, "condition met", "wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=5")
	if out := must(t, c, "", "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"); strings.Contains(out, "image:4") {
		t.Errorf("a paused deployment rolled out: %s", out)
	}
	must(t, c, "resumed", "rollout", "resume", "deployment/web")
	must(t, c, done, "rollout", "status", "deployment/web")
	if out := must(t, c, "", "get", "rs", "-o", "jsonpath={.items[*].status.replicas}"); strings.Count(out, "5") != 1 {
		t.Errorf("sizes of the replica sets: %s", out)
	}
	must(t, c, "ScalingReplicaSet", "describe", "deployment", "web")
	must(t, c, "Successfully assigned default/", "get", "events")
}

func TestRollOutThatDoesNotProgress(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Ready: func(pod *corev1.Pod) bool {
		return pod.Spec.Containers[0].Image == "image:1"
	}})
	d := deployment("web", 2)
	d.Spec.ProgressDeadlineSeconds = new(int32(3))
	d.Spec.MinReadySeconds = 2
	if _, err := c.Client.AppsV1().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	untilReady(t, c, "web")
	// The API keeps times to the second, so that 2 may be little over 1.
	if took := time.Since(begun); took < time.Second {
		t.Errorf("available after %v, before minReadySeconds", took)
	}
	must(t, c, "updated", "set", "image", "deployment/web", "c=broken")
	out, err := kubectl(t, c, "rollout", "status", "deployment/web")
	if err == nil || !strings.Contains(out, "exceeded its progress deadline") {
		t.Errorf("rollout status: %v\n%s", err, out)
	}
	must(t, c, "ProgressDeadlineExceeded", "describe", "deployment", "web")
	// The old version still serves.
	must(t, c, "2", "get", "deployment", "web", "-o", "jsonpath={.status.availableReplicas}")
}
