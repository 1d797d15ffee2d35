#!/bin/bash
# Runs Gantry on a host that build machines are not: vm.sh BIN
#
# A throw-away virtual machine with Debian 12: its kernel, systemd and cgroup v2
# alone. test/vm/guest.sh is what is tried in it, across a reboot. Needs root
# (for mmdebstrap), qemu-system-x86, mmdebstrap and e2fsprogs, and Debian's
# mirror for the first run; "make vm" takes about ten minutes, and one more for
# the disk image, which is kept in VM_DIR (/var/tmp/gantry-vm).
#
# VM_ACCEL=kvm uses the processor's help; the default emulates, and runs anywhere.
set -euo pipefail
bin=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
dir=${VM_DIR:-/var/tmp/gantry-vm}
limit=${VM_SECONDS:-1800}
for command in qemu-system-x86_64 mmdebstrap mkfs.ext4; do
	command -v "$command" >/dev/null || { echo "make vm: $command is missing: apt-get install qemu-system-x86 mmdebstrap e2fsprogs" >&2; exit 1; }
done
mkdir -p "$dir"

# The disk: a plain Debian with what a server has, which runs /payload/guest.sh.
# It is made again when the list changes.
debian=linux-image-cloud-amd64,systemd,systemd-sysv,udev,dbus,busybox-static,iproute2,procps,curl,kmod,apparmor
image() {
	local root=$dir/root
	rm -rf "$root"
	mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
		--include="$debian" \
		bookworm "$root"
	echo gantry-vm >"$root/etc/hostname"
	echo "/dev/vda / ext4 defaults 0 1" >"$root/etc/fstab"
	printf '[Match]\nName=eth0\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/10-eth0.network"
	cat >"$root/etc/systemd/system/payload.service" <<-'END'
		[Unit]
		After=multi-user.target
		[Service]
		Type=exec
		StandardOutput=tty
		StandardError=tty
		TTYPath=/dev/ttyS1
		ExecStart=/bin/sh -c 'mkdir -p /payload && tar xf /dev/vdb -C /payload && exec /payload/guest.sh'
	END
	local wants=$root/etc/systemd/system/multi-user.target.wants
	mkdir -p "$wants"
	ln -sf /etc/systemd/system/payload.service "$wants/"
	ln -sf /lib/systemd/system/systemd-networkd.service "$wants/"
	cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
	cp "$root"/boot/initrd.img-* "$dir/initrd"
	truncate -s 4G "$dir/base.new"
	mkfs.ext4 -q -F -d "$root" "$dir/base.new"
	rm -rf "$root"
	mv "$dir/base.new" "$dir/base.img"
	echo "$debian" >"$dir/base.list"
}
[ -e "$dir/base.img" ] && [ "$(cat "$dir/base.list" 2>/dev/null)" = "$debian" ] || image

# What is tried, as a tar file on a second disk.
payload=$(mktemp -d)
trap 'rm -rf "$payload"' EXIT
mkdir -p "$payload/bin" "$payload/hello"
cp "$bin"/{gantry,gantryd,gantry-shim} "$payload/bin/"
cp "$(command -v docker || echo "$bin/gantry-docker")" "$payload/bin/docker"
cp "$here/guest.sh" "$here/../../dist/gantry.service" "$payload/"
(cd "$here/../../examples/hello" && CGO_ENABLED=0 go build -trimpath -o "$payload/hello/hello" .)
printf 'FROM scratch\nCOPY hello /hello\nEXPOSE 8080\nCMD ["/hello"]\n' >"$payload/hello/Dockerfile"

# The tests of the packages that depend on the host's kind, compiled. What they
# compile themselves is made here, and a go that hands it out.
packages="engine/container/cgroup engine/container engine/container/oci engine engine/cri"
for package in $packages; do
	mkdir -p "$payload/tests/$package"
	(cd "$here/../.." && CGO_ENABLED=0 go test -c -trimpath -ldflags='-s -w' -o "$payload/tests/$package/tests" "./$package")
	[ ! -d "$here/../../$package/testdata" ] || cp -r "$here/../../$package/testdata" "$payload/tests/$package/"
done
(cd "$here/../.." && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -tags=fault -o "$payload/tests/gantry-oci" ./cmd/gantry-oci)
cp "$bin/gantry-shim" "$payload/tests/"
cat >"$payload/tests/go" <<-'END'
	#!/bin/sh
	while [ $# -gt 1 ]; do
		[ "$1" != -o ] || out=$2
		shift
	done
	exec cp "/payload/tests/${1##*/}" "$out"
END
chmod +x "$payload/tests/go"
tar cf "$dir/payload.tar" -C "$payload" .
truncate -s %512 "$dir/payload.tar"

cp --sparse=always "$dir/base.img" "$dir/disk.img"
: >"$dir/result"
echo "booting; the console is $dir/console, the result $dir/result"
nice -n 10 timeout "$limit" qemu-system-x86_64 -accel "${VM_ACCEL:-tcg}" -cpu max -m 2G -smp 2 -display none -nodefaults \
	-kernel "$dir/vmlinuz" -initrd "$dir/initrd" -append "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet" \
	-drive file="$dir/disk.img",format=raw,if=virtio,cache=unsafe \
	-drive file="$dir/payload.tar",format=raw,if=virtio,readonly=on \
	-netdev user,id=n0 -device virtio-net-pci,netdev=n0,romfile= -device virtio-rng-pci \
	-serial file:"$dir/console" -serial file:"$dir/result" || echo "the machine was stopped after $limit s" >&2
rm -f "$dir/disk.img"
cat "$dir/result"
grep -q '^PASS' "$dir/result" || { tail -20 "$dir/console"; exit 1; }
