# Gantry: build, try, test and measure.
#
#   make        builds the six programs into bin/
#   make demo   starts Gantry, pushes examples/hello and proves it
#   make test   installs what the tests need and runs all of them, as root
#   make crash  kills the server 200 times under load, at every fault point, and
#               between two builds, and looks at what is left
#   make lint   gofmt, go vet, staticcheck
#   make vm     the tests on another host: Debian 12, systemd, cgroup v2, in qemu
#   make bench  prints the table of figures beside the installed peers

SHELL    := /bin/bash
GO       ?= go
BIN      := $(CURDIR)/bin
VERSION  ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X gantry/internal/version.Version=$(VERSION) \
	-X github.com/docker/cli/cli/version.Version=29.9.3 -X k8s.io/component-base/version.gitVersion=v1.36.3
PROGRAMS := gantry gantryd gantry-shim gantry-oci gantry-kubectl gantry-docker

# One set of flags for all that is not race-tested, so that it is compiled once.
export GOFLAGS := $(filter-out -trimpath,$(GOFLAGS)) -trimpath
export CGO_ENABLED := 0

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

all: build

# One go command for all programs: it compiles what they share once.
build:
	@mkdir -p $(BIN)
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))

demo: build
	test/demo.sh $(BIN)

# The tests of packages run with the race detector; those under test/ drive the
# programs in bin/. GANTRY_TEST_ALL turns a skip for want of a prerequisite into
# a failure.
test: prerequisites build
	PATH=$$PATH:$(BIN)/stock GANTRY_TEST_ALL=1 CGO_ENABLED=1 \
		$(GO) test -race -timeout 10m $$($(GO) list ./... | grep -v '^gantry/test/')
	PATH=$$PATH:$(BIN)/stock GANTRY_TEST_ALL=1 GANTRY_BIN=$(BIN) \
		$(GO) test -count=1 -timeout 15m ./test/...

prerequisites: build
	test/prerequisites.sh $(BIN)

lint:
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); \
		if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# Beside the programs, a daemon with fault points, and one whose shims speak a
# further version of their protocol.
crash: prerequisites build
	@mkdir -p $(BIN)/fault $(BIN)/later
	$(GO) build -tags fault -ldflags '$(LDFLAGS)' -o $(BIN)/fault/ ./cmd/gantryd ./cmd/gantry-shim
	$(GO) build -ldflags '$(LDFLAGS) -X gantry/engine/container/wire.newest=2' -o $(BIN)/later/ ./cmd/gantryd ./cmd/gantry-shim
	PATH=$$PATH:$(BIN)/stock GANTRY_TEST_ALL=1 GANTRY_BIN=$(BIN) GANTRY_CRASH_ROUNDS=200 \
		GANTRY_FAULT_BIN=$(BIN)/fault GANTRY_LATER_BIN=$(BIN)/later \
		$(GO) test -count=1 -timeout 30m ./test/crash

bench: build
	$(GO) build -o $(BIN)/bench ./test/bench
	$(BIN)/bench -bin $(BIN)

vm: build
	test/vm/vm.sh $(BIN)

clean:
	rm -rf $(BIN)

.PHONY: all build demo test prerequisites lint crash bench vm clean
