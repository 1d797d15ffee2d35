#!/bin/bash
# Installs what the tests need and the machine lacks: prerequisites.sh BIN
#
# The stock docker and kubectl of PATH are used when there are any. Otherwise
# BIN/stock gets links to the ones that Gantry builds from the same packages.
set -euo pipefail
bin=$1

[ "$(id -u)" = 0 ] || { echo "make test: needs root, for namespaces and mounts" >&2; exit 1; }

declare -A package=(
	[busybox]=busybox-static [mmdebstrap]=mmdebstrap [curl]=curl [ip]=iproute2
	[dockerd]=docker.io [nft]=nftables [docker-registry]=docker-registry [gcc]=gcc [mkfs.ext4]=e2fsprogs
	[docker-compose]=docker-compose [skopeo]=skopeo
)
missing=()
for command in "${!package[@]}"; do
	command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
if [ ${#missing[@]} -gt 0 ]; then
	echo "installing ${missing[*]}"
	# The reference, docker.io, comes with a service that nobody wants started.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get update -qq
	install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
	# One that the distribution lacks keeps none of the others away: what needs
	# it fails by its name.
	if ! install "${missing[@]}"; then
		for name in "${missing[@]}"; do
			install "$name" || echo "make test: $name cannot be installed" >&2
		done
	fi
fi

mkdir -p "$bin/stock"
for name in docker kubectl; do
	command -v "$name" >/dev/null || ln -sf "../gantry-$name" "$bin/stock/$name"
done
