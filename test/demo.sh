#!/bin/bash
# Shows the main job, timed step by step: demo.sh BIN
#
# Starts Gantry (or uses the running one), pushes examples/hello with two
# replicas, asks its address until both have answered, and prints what to try.
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make demo: needs root, for namespaces and mounts" >&2; exit 1; }

step() { # step NAME COMMAND...
	local name=$1 begin=$EPOCHREALTIME
	shift
	echo "==> $name"
	"$@"
	awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "    %.2f s\n", b - a }'
}

prove() {
	local address replicas
	address=$("$bin/gantry" status --address hello)
	# Twenty requests: two healthy replicas are both among the answers with a
	# probability of all but one in half a million.
	replicas=$(for _ in $(seq 20); do curl -fsS --max-time 5 "$address"; done | sort | uniq -c)
	echo "$replicas" | sed 's/^/    /'
	[ "$(echo "$replicas" | wc -l)" -ge 2 ] || { echo "only one replica answered" >&2; return 1; }
	echo "    $address answers"
}

step "start Gantry" "$bin/gantry" up
step "push examples/hello" "$bin/gantry" push examples/hello --replicas 2
step "ask $("$bin/gantry" status --address hello)" prove

cat <<END

Next, with $bin on your PATH:

    gantry status                          server, node, apps, addresses, memory and disk
    curl $("$bin/gantry" status --address hello)
    gantry scale hello=4
    gantry logs -f hello                   lines of all replicas, each marked
    gantry docker ps
    gantry docker images
    gantry docker run --rm -it IMAGE sh    with an IMAGE that has a shell
    gantry kubectl get pods -o wide
    gantry down                            stops the server; gantry up brings everything back
    gantry down --purge                    removes all traces
END
