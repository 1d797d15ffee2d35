package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// protocolV5 is the newest remotecommand protocol over WebSocket, the stock
// kubectl's first choice. Beside v4 it can say that one stream has ended. The
// library's server for kubelets stops at v4: upstream, the API server speaks v5
// and translates.
const protocolV5 = "v5.channel.k8s.io"

// The channels of a remotecommand connection.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
)

// wsStreams are the streams of one connection; those that were not asked for
// are nil.
type wsStreams struct {
	in       io.Reader
	out, err io.WriteCloser
	sizes    <-chan remotecommand.TerminalSize
}

// serveWebSocket upgrades the connection, runs run over its streams and sends
// its result.
func serveWebSocket(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run func(context.Context, *wsStreams) error) {
	channels := []wsstream.ChannelType{wsstream.IgnoreChannel, wsstream.IgnoreChannel, wsstream.IgnoreChannel, wsstream.WriteChannel, wsstream.ReadChannel}
	if opts.Stdin {
		channels[channelStdin] = wsstream.ReadChannel
	}
	if opts.Stdout {
		channels[channelStdout] = wsstream.WriteChannel
	}
	if opts.Stderr {
		channels[channelStderr] = wsstream.WriteChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{protocolV5: {Binary: true, Channels: channels}})
	conn.SetIdleTimeout(streamIdle)
	// Its own notes about connections that end are of no use to anybody.
	_, opened, err := conn.Open(w, r.WithContext(klog.NewContext(r.Context(), klog.Logger{})))
	if err != nil {
		return // the client has been told
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &wsStreams{}
	if opts.Stdin {
		c.in = opened[channelStdin]
	}
	if opts.Stdout {
		c.out = opened[channelStdout]
	}
	if opts.Stderr {
		c.err = opened[channelStderr]
	}
	sizes := make(chan remotecommand.TerminalSize)
	c.sizes = sizes
	go func() {
		defer close(sizes)
		// The resize channel ends with the connection: then nobody waits for the
		// command any more.
		defer cancel()
		for d := json.NewDecoder(opened[channelResize]); ; {
			var size remotecommand.TerminalSize
			if d.Decode(&size) != nil {
				return
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	// An empty message tells the client that the streams are there.
	if _, err := opened[channelError].Write(nil); err != nil {
		return
	}
	data, err := json.Marshal(result(run(ctx, c)))
	if err != nil {
		return
	}
	opened[channelError].Write(data) //nolint:errcheck // the client is gone
}

// result is what a client is told of the end of a command.
func result(err error) metav1.Status {
	if err == nil {
		return metav1.Status{Status: metav1.StatusSuccess}
	}
	if exit, ok := err.(utilexec.ExitError); ok && exit.Exited() { //nolint:errorlint // the command's own result, not a cause
		return metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}},
		}
	}
	return metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: error executing command in container: %v", err)}
}
