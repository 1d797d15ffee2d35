package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// do plays a step on one side.
func (s *side) do(st step, archive []byte) (answer, error) {
	s.vars["now"] = fmt.Sprintf("%.6f", float64(time.Now().UnixMicro())/1e6)
	target, body := expand(st.target, s.vars), expand(st.body, s.vars)
	var out answer
	var err error
	if st.method == "" {
		out, err = s.run(strings.Fields(target))
	} else {
		out, err = s.send(st.method, target, body, archive)
	}
	if err == nil && st.settle {
		out, err = s.settle(st.method, target, out)
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", s.name, err)
	}
	for _, save := range st.saves {
		value, err := fieldOf(out.body, save[1])
		if err != nil {
			return out, fmt.Errorf("%s: %w in %s", s.name, err, out.body)
		}
		s.vars[save[0]] = value
	}
	if st.silent {
		return answer{}, nil
	}
	return out, nil
}

// settle asks again until nothing runs any more: the end of a stream is not yet
// the end of the process.
func (s *side) settle(method, target string, out answer) (answer, error) {
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for bytes.Contains(out.body, []byte(`"Running":true`)) {
		select {
		case <-tick.C:
		case <-deadline.C:
			return out, fmt.Errorf("%s does not settle: %s", target, out.body)
		}
		var err error
		if out, err = s.send(method, target, "", nil); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (s *side) run(args []string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+s.socket, "DOCKER_CONFIG="+s.config, "DOCKER_CLI_HINTS=false", "DOCKER_API_VERSION=1.41")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return answer{}, errors.Join(err, exit)
	}
	text := fmt.Sprintf("exit %d\n%s%s", cmd.ProcessState.ExitCode(), out.String(), errOut.String())
	return answer{kind: "text", body: []byte(text)}, nil
}

// escape encodes the values of a query that is written plainly.
func escape(target string) string {
	path, plain, ok := strings.Cut(target, "?")
	if !ok {
		return target
	}
	var parts []string
	for part := range strings.SplitSeq(plain, "&") {
		name, value, hasValue := strings.Cut(part, "=")
		if hasValue {
			name += "=" + url.QueryEscape(value)
		}
		parts = append(parts, name)
	}
	return path + "?" + strings.Join(parts, "&")
}

func (s *side) send(method, target, body string, archive []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var content io.Reader = strings.NewReader(body)
	kind := "application/json"
	switch {
	case body == "@busybox":
		content, kind = bytes.NewReader(archive), "application/x-tar"
	case strings.HasPrefix(body, "!"): // of another kind
		content, kind = strings.NewReader(body[1:]), "text/html"
	case body == "":
		content, kind = http.NoBody, ""
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://docker"+escape(target), content)
	if err != nil {
		return answer{}, err
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if strings.Contains(target, "/attach?") || strings.HasPrefix(target, "/v1.41/exec/") && strings.HasSuffix(target, "/start") {
		return s.hijack(r)
	}
	response, err := s.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	out := answer{status: response.StatusCode, header: response.Header, body: data}
	if strings.HasSuffix(path(target), "/logs") && response.StatusCode == http.StatusOK {
		out.body = demultiplex(data)
	}
	if response.Header.Get("Content-Type") == "application/x-tar" {
		out.kind, out.body = "text", []byte("an archive")
	}
	return out, nil
}

func path(target string) string {
	p, _, _ := strings.Cut(target, "?")
	return p
}

// hijack sends a request for a raw stream, and reads it to its end.
func (s *side) hijack(r *http.Request) (answer, error) {
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return answer{}, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "tcp")
	if err := r.Write(conn); err != nil {
		return answer{}, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, r)
	if err != nil {
		return answer{}, err
	}
	out := answer{status: response.StatusCode, header: response.Header}
	if response.StatusCode != http.StatusSwitchingProtocols {
		out.body, err = io.ReadAll(response.Body)
		return out, err
	}
	data, err := io.ReadAll(reader)
	out.body = demultiplex(data)
	return out, err
}

// demultiplex turns a stream of frames into JSON, as how the output is cut into
// frames is nobody's business. What is no such stream is returned as it is.
func demultiplex(data []byte) []byte {
	var streams [3]strings.Builder
	for rest := data; len(rest) > 0; {
		if len(rest) < 8 || rest[0] > 2 || rest[1]|rest[2]|rest[3] != 0 {
			return data
		}
		size := int(binary.BigEndian.Uint32(rest[4:]))
		if len(rest) < 8+size {
			return data
		}
		streams[rest[0]].Write(rest[8 : 8+size])
		rest = rest[8+size:]
	}
	out, err := json.Marshal(map[string]string{"stdout": streams[1].String(), "stderr": streams[2].String()})
	if err != nil {
		panic(err) // strings can be encoded
	}
	return out
}

// removeAll removes the containers: what one scene leaves is nothing to the
// next, and a shim of each would stay behind.
func (s *side) removeAll(t *testing.T) {
	list, err := s.send(http.MethodGet, "/v1.41/containers/json?all=1", "", nil)
	var found []struct{ ID string }
	if err == nil {
		err = json.Unmarshal(list.body, &found)
	}
	for _, c := range found {
		_, failed := s.send(http.MethodDelete, "/v1.41/containers/"+c.ID+"?force=1&v=1", "", nil)
		err = errors.Join(err, failed)
	}
	if err != nil {
		t.Errorf("remove the containers of %s: %v", s.name, err)
	}
}

// fieldOf returns a field of the object in body.
func fieldOf(body []byte, name string) (string, error) {
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return "", err
	}
	value, ok := object[name].(string)
	if !ok {
		return "", fmt.Errorf("no field %s", name)
	}
	return value, nil
}
