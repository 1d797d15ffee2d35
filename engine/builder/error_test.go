package builder

import (
	"errors"
	"strings"
	"testing"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// foreignELF is as much of an executable for s390x as is looked at.
const foreignELF = "\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16"

func TestErrorsNameThePlaceInTheReferencesWords(t *testing.T) {
	b := newBench(t)
	b.busybox()
	for name, c := range map[string]struct {
		req        Request
		dockerfile string
		files      []file
		want       string
		kind       problem.Kind
	}{
		"no Dockerfile":            {want: "Cannot locate specified Dockerfile: Dockerfile", kind: problem.Invalid},
		"no such Dockerfile":       {req: Request{Dockerfile: "other"}, dockerfile: "FROM scratch", want: "Cannot locate specified Dockerfile: other", kind: problem.Invalid},
		"Dockerfile outside":       {req: Request{Dockerfile: "../x"}, want: "Forbidden path outside the build context: ../x (../x)", kind: problem.Invalid},
		"empty Dockerfile":         {dockerfile: "\n\n", want: "The Dockerfile (Dockerfile) cannot be empty", kind: problem.Invalid},
		"only a comment":           {dockerfile: "# x\n", want: "dockerfile parse error on line 1: file with no instructions\nDockerfile:1:1: # x", kind: problem.Invalid},
		"unknown instruction":      {dockerfile: "FROM scratch\n\n  FOO bar\n", want: "dockerfile parse error on line 3: unknown instruction: FOO (did you mean FROM?)\nDockerfile:3:3:   FOO bar", kind: problem.Invalid},
		"mistyped instruction":     {dockerfile: "FROM scratch\nCOPPY a b\n", want: "dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)\nDockerfile:2:1: COPPY a b", kind: problem.Invalid},
		"no FROM":                  {dockerfile: "RUN true\n", want: "dockerfile parse error on line 1: no build stage in current context\nDockerfile:1:1: RUN true", kind: problem.Invalid},
		"syntax inside a line":     {dockerfile: "FROM scratch\nENV A=1 \\\n  B\n", want: "dockerfile parse error on line 3: Syntax error - can't find = in \"B\". Must be of the form: name=value\nDockerfile:3:3:   B", kind: problem.Invalid},
		"flag":                     {dockerfile: "FROM scratch\nCOPY --chwn=1 a b\n", want: "dockerfile parse error on line 2: unknown flag: --chwn (did you mean chown?)\nDockerfile:2:6: COPY --chwn=1 a b", kind: problem.Invalid},
		"variable":                 {dockerfile: "FROM scratch\nENV A=${x:z}\n", want: "failed to process \"${x:z}\": unsupported modifier (:z) in substitution\nDockerfile:2:7: ENV A=${x:z}", kind: problem.Invalid},
		"missing file":             {dockerfile: "FROM scratch\nCOPY nothere /\n", want: "COPY failed: file not found in build context or excluded by .dockerignore: stat nothere: file does not exist\nDockerfile:2:6: COPY nothere /", kind: problem.NotFound},
		"missing file of a stage":  {dockerfile: "FROM busybox AS a\nFROM scratch\nCOPY --from=a /nothere /\n", want: "COPY failed: stat nothere: file does not exist\nDockerfile:3:16: COPY --from=a /nothere /", kind: problem.NotFound},
		"wildcard without a match": {dockerfile: "FROM scratch\nADD x* /\n", want: "ADD failed: no source files were specified\nDockerfile:2:1: ADD x* /", kind: problem.NotFound},
		"several to one":           {dockerfile: "FROM scratch\nCOPY a b /c\n", files: []file{{name: "a"}, {name: "b"}}, want: "When using COPY with more than one source file, the destination must be a directory and end with a /\nDockerfile:2:1: COPY a b /c", kind: problem.Invalid},
		"unknown user":             {dockerfile: "FROM busybox\nCOPY --chown=nobody a /\n", files: []file{{name: "a"}}, want: "error looking up user nobody: no such name in /etc/passwd of the image\nDockerfile:2:14: COPY --chown=nobody a /", kind: problem.NotFound},
		"chmod":                    {dockerfile: "FROM scratch\nCOPY --chmod=9 a /\n", files: []file{{name: "a"}}, want: "invalid chmod parameter: '9'. it should be octal string and between 0 and 07777\nDockerfile:2:14: COPY --chmod=9 a /", kind: problem.Invalid},
		"file over a directory":    {dockerfile: "FROM busybox\nCOPY a /x/b\nCOPY a /x/\nADD --link=false dir /x\n", files: []file{{name: "a"}, {name: "dir/b/c"}}, want: "cannot copy to non-directory: /x/b\nDockerfile:4:1: ADD --link=false dir /x", kind: problem.Invalid},
		"failing command":          {dockerfile: "FROM busybox\nRUN exit 7\n", want: "The command '/bin/sh -c exit 7' returned a non-zero code: 7\nDockerfile:2:1: RUN exit 7"},
		"missing image":            {dockerfile: "FROM nothere\n", want: "No such image: nothere:latest\nDockerfile:1:1: FROM nothere", kind: problem.NotFound},
		"target":                   {req: Request{Target: "x"}, dockerfile: "FROM scratch\n", want: "failed to reach build target x in Dockerfile", kind: problem.Invalid},
		"blank base":               {dockerfile: "ARG A\nFROM ${A}\n", want: "base name (${A}) should not be blank\nDockerfile:2:6: FROM ${A}", kind: problem.Invalid},
		"stage from itself":        {dockerfile: "FROM scratch AS a\nCOPY --from=0 x /\n", want: "invalid from flag value 0: refers to current build stage or to one that does not exist yet\nDockerfile:1:1: FROM scratch AS a", kind: problem.Invalid},
		"git by a local path":      {dockerfile: "FROM scratch\nADD file:///etc/.git /\n", want: "ADD failed: file not found in build context or excluded by .dockerignore: stat file:/etc/.git: file does not exist\nDockerfile:2:5: ADD file:///etc/.git /", kind: problem.NotFound},
		"checksum of a file":       {dockerfile: "FROM scratch\nADD --checksum=sha256:00 a /\n", files: []file{{name: "a"}}, want: "checksum requires HTTP(S) or Git sources\nDockerfile:2:1: ADD --checksum=sha256:00 a /", kind: problem.Invalid},
		"secret":                   {dockerfile: "FROM busybox\nRUN --mount=type=secret,id=x,required true\n", want: "secret x: not found: POST /build has no way to give one\nDockerfile:2:1: RUN --mount=type=secret,id=x,required true", kind: problem.Invalid},
		"security":                 {dockerfile: "FROM busybox\nRUN --security=insecure true\n", want: "security.insecure is not allowed\nDockerfile:2:1: RUN --security=insecure true", kind: problem.Denied},
		"owner by name of a link":  {dockerfile: "FROM busybox\nCOPY --link --chown=web a /\n", files: []file{{name: "a"}}, want: "--chown=web: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead\nDockerfile:2:13: COPY --link --chown=web a /", kind: problem.Invalid},
		"pull":                     {req: Request{Pull: true}, dockerfile: "FROM scratch\n", want: "--pull is not supported: this engine reaches no registry", kind: problem.Unsupported},
		"tag":                      {req: Request{Tags: []string{"Bad Name"}}, dockerfile: "FROM scratch\n", want: "invalid reference format: repository name (library/Bad Name) must be lowercase", kind: problem.Invalid},
		"platform":                 {req: Request{Platform: "linux/s390x"}, dockerfile: "FROM busybox\n", want: "image busybox is for " + image.FormatPlatform(image.Host()) + ", the build asks for linux/s390x\nDockerfile:1:6: FROM busybox", kind: problem.Invalid},
		"run for another CPU":      {dockerfile: "FROM --platform=linux/s390x scratch\nRUN x\n", want: "image of stage 0 is for linux/s390x, this host is " + image.FormatPlatform(image.Host()) + "\nDockerfile:2:1: RUN x", kind: problem.Invalid},
		"binary for another CPU":   {dockerfile: "FROM scratch\nCOPY app /bin/app\nRUN [\"app\"]\n", files: []file{{name: "app", mode: 0o755, body: foreignELF}}, want: "image of stage 0: /bin/app is for linux/s390x, this host is " + image.FormatPlatform(image.Host()) + "\nDockerfile:3:1: RUN [\"app\"]", kind: problem.Invalid},
		"signal":                   {dockerfile: "FROM scratch\nSTOPSIGNAL NOPE\n", want: "invalid signal: NOPE\nDockerfile:2:12: STOPSIGNAL NOPE", kind: problem.Invalid},
		"port":                     {dockerfile: "FROM scratch\nEXPOSE 99999\n", want: "invalid containerPort: 99999\nDockerfile:2:8: EXPOSE 99999", kind: problem.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := b.build(c.req, c.dockerfile, c.files...)
			if err == nil || err.Error() != c.want {
				t.Errorf("error\n%v\nwant\n%s\noutput:\n%s", err, c.want, out)
			}
			if c.kind != "" && !errors.Is(err, c.kind) {
				t.Errorf("%v is not %s", err, c.kind)
			}
			if strings.Contains(out, "Successfully") {
				t.Errorf("output of a failed build:\n%s", out)
			}
		})
	}
	images, err := b.images.List(ctx)
	if err != nil || len(images) != 1 {
		t.Errorf("failed builds left images: %d, %v", len(images), err)
	}
}
