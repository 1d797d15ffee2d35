package builder

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// TestLintWarnsInTheReferencesWords has a case for each rule of docker/dockerfile.
func TestLintWarnsInTheReferencesWords(t *testing.T) {
	b := newBench(t)
	b.busybox()
	host := image.FormatPlatform(image.Host())
	for name, c := range map[string]struct {
		args       map[string]string
		dockerfile string
		files      []file
		want       []string
	}{
		"StageNameCasing":                      {dockerfile: "FROM scratch AS Base\nLABEL a=b\n", want: []string{"StageNameCasing: Stage name 'Base' should be lowercase (line 1)"}},
		"FromAsCasing":                         {dockerfile: "FROM scratch as base\nLABEL a=b\n", want: []string{"FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"}},
		"NoEmptyContinuation":                  {dockerfile: "FROM scratch\nLABEL a=b \\\n\n c=d\n", want: []string{"NoEmptyContinuation: Empty continuation line (line 4)"}},
		"ConsistentInstructionCasing":          {dockerfile: "FROM scratch\nLABEL a=b\nlabel c=d\nUser 1\n", want: []string{"ConsistentInstructionCasing: Command 'label' should match the case of the command majority (uppercase) (line 3)", "ConsistentInstructionCasing: Command 'User' should match the case of the command majority (uppercase) (line 4)"}},
		"ConsistentInstructionCasing of lower": {dockerfile: "from scratch\nlabel a=b\nUSER 1\n", want: []string{"ConsistentInstructionCasing: Command 'USER' should match the case of the command majority (lowercase) (line 3)"}},
		"DuplicateStageName":                   {dockerfile: "FROM scratch AS b\nFROM scratch AS b\n", want: []string{`DuplicateStageName: Duplicate stage name "b", stage names should be unique (line 2)`}},
		"ReservedStageName":                    {dockerfile: "FROM scratch AS context\n", want: []string{`ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 1)`}},
		"JSONArgsRecommended":                  {dockerfile: "FROM scratch\nCMD echo\nENTRYPOINT [\"x\"]\n", want: []string{"JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)"}},
		"JSONArgsRecommended but for SHELL":    {dockerfile: "FROM scratch\nSHELL [\"/bin/bash\", \"-c\"]\nCMD echo\n"},
		"MaintainerDeprecated":                 {dockerfile: "FROM scratch\nMAINTAINER me\n", want: []string{"MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"}},
		"UndefinedArgInFrom":                   {args: map[string]string{"BASE": "busybox"}, dockerfile: "ARG BASE=busybox\nFROM $BASE$BAES\n", want: []string{"UndefinedArgInFrom: FROM argument 'BAES' is not declared (did you mean BASE?) (line 2)"}},
		"WorkdirRelativePath":                  {dockerfile: "FROM scratch AS a\nWORKDIR app\nWORKDIR b\nFROM a\nWORKDIR c\n", want: []string{`WorkdirRelativePath: Relative workdir "app" can have unexpected results if the base image changes (line 2)`}},
		"UndefinedVar":                         {dockerfile: "FROM busybox\nARG foo\nLABEL a=$PAHT b=$foo c=${X:-1}\nCOPY $far /\n", files: []file{{name: "x"}}, want: []string{"UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 3)", "UndefinedVar: Usage of undefined variable '$X' (line 3)", "UndefinedVar: Usage of undefined variable '$far' (line 4)"}},
		"UndefinedVar but in the base":         {dockerfile: "FROM scratch AS a\nENV HERE=1\nARG there=2\nFROM a\nLABEL a=$HERE$there$PATH\n"},
		"MultipleInstructionsDisallowed":       {dockerfile: "FROM scratch\nCMD [\"a\"]\nHEALTHCHECK NONE\nCMD [\"b\"]\nFROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\n", want: []string{"MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 6)"}},
		"LegacyKeyValueFormat":                 {dockerfile: "FROM scratch\nENV a b c\nLABEL d e\n", want: []string{`LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)`, `LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format (line 3)`}},
		"RedundantTargetPlatform":              {dockerfile: "FROM --platform=$TARGETPLATFORM scratch\n", want: []string{"RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)"}},
		"SecretsUsedInArgOrEnv":                {dockerfile: "FROM scratch\nARG GITHUB_TOKEN\nENV api_key=1 PUBLIC_KEY=2 KEYS=3\n", want: []string{`SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "GITHUB_TOKEN") (line 2)`, `SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "api_key") (line 3)`}},
		"InvalidDefaultArgInFrom":              {args: map[string]string{"TAG": "latest"}, dockerfile: "ARG TAG\nFROM busybox:$TAG\n", want: []string{"InvalidDefaultArgInFrom: Default value for ARG busybox:$TAG results in empty or invalid base image name (line 2)"}},
		"FromPlatformFlagConstDisallowed":      {dockerfile: "FROM --platform=" + host + " scratch AS x\nFROM --platform=" + host + " scratch AS build_" + image.Host().Architecture + "\n", want: []string{`FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "` + host + `" (line 1)`}},
		"CopyIgnoredFile":                      {dockerfile: "FROM scratch\nCOPY . /\nADD a* secret/b /\n", files: []file{{name: ".dockerignore", body: "secret\n"}, {name: "secret/b"}, {name: "a"}}, want: []string{`CopyIgnoredFile: Attempting to Add file "secret/b" that is excluded by .dockerignore (line 3)`}},
		"InvalidDefinitionDescription":         {dockerfile: "# check=experimental=InvalidDefinitionDescription\n# nonsense\nARG A=1\n# base this is it\nFROM scratch AS base\n# A again\nARG A\n", want: []string{"InvalidDefinitionDescription: Comment for ARG should follow the format: `# A <description>` (line 3)"}},
		"experimental rules are off":           {dockerfile: "# nonsense\nARG A=1\nFROM scratch\n"},
		"ExposeProtoCasing":                    {dockerfile: "FROM scratch\nEXPOSE 80/TcP 81/udp\n", want: []string{"ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)"}},
		"ExposeInvalidFormat":                  {dockerfile: "FROM scratch\nEXPOSE 8080:80 127.0.0.1:1:2 [::1]:3-4:4-5\n", want: []string{"ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:1:2' (line 2)", "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '8080:80' (line 2)", "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '[::1]:3-4:4-5' (line 2)"}},
		"a stage that is not built":            {dockerfile: "FROM scratch AS no\nMAINTAINER me\nWORKDIR x\nFROM scratch\n", want: []string{"MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"}},
		"skipped by the directive":             {dockerfile: "# check=skip=JSONArgsRecommended,WorkdirRelativePath\nFROM scratch\nWORKDIR x\nMAINTAINER me\nCMD x\n", want: []string{"MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 4)"}},
		"all skipped":                          {dockerfile: "# check=skip=all;error=true\nFROM scratch\nWORKDIR x\n"},
		"skipped by a comment":                 {dockerfile: "FROM scratch\n# check=skip=JSONArgsRecommended\nCMD x\nENTRYPOINT x\n", want: []string{"JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals (line 4)"}},
		"the build argument wins":              {args: map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}, dockerfile: "# check=error=true\nFROM scratch\nMAINTAINER me\n"},
		"triggers":                             {dockerfile: "FROM scratch AS a\nONBUILD WORKDIR x\nFROM a\nCMD [\"x\"]\n", want: []string{`WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes (line 3)`}},
	} {
		t.Run(name, func(t *testing.T) {
			given := map[string]*string{}
			for k, v := range c.args {
				given[k] = &v
			}
			out, err := b.build(Request{BuildArgs: given}, c.dockerfile, c.files...)
			var got []string
			for line := range strings.Lines(out) {
				if w, ok := strings.CutPrefix(line, "[Warning] "); ok {
					got = append(got, strings.TrimSuffix(w, "\n"))
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s%s%v", diff, out, err)
			}
		})
	}
}

func TestLintAsErrors(t *testing.T) {
	b := newBench(t)
	out, err := b.build(Request{Tags: []string{"x"}}, "# check=error=true\nFROM scratch\nMAINTAINER me\nCMD x\nCMD y\n")
	want := "lint violation found for rules: JSONArgsRecommended, MaintainerDeprecated, MultipleInstructionsDisallowed"
	if err == nil || err.Error() != want || !errors.Is(err, problem.Invalid) || strings.Contains(out, "Step") {
		t.Errorf("error %v, want %s; output:\n%s", err, want, out)
	}
	_, err = b.build(Request{}, "# check=what=1\nFROM scratch\n")
	if want := `failed to parse check options: invalid check option "what"`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// A parser without rules must survive comments that are about them.
func TestChangesWithCheckComments(t *testing.T) {
	got, err := Changes(image.Spec{}, []string{"# check=skip=all\nLABEL a=b"})
	if err != nil || got.Config.Labels["a"] != "b" {
		t.Errorf("%+v, %v", got.Config, err)
	}
	b := newBench(t)
	b.mustBuild(Request{Tags: []string{"base"}}, "FROM scratch\nONBUILD # check=skip=all\nLABEL a=b\n")
}
