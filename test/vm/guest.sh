#!/bin/bash
# Runs inside the virtual machine of vm.sh, twice: before and after a reboot.
# Prints one line a check, and PASS at the end if none has failed.
export DOCKER_HOST=unix:///run/gantry/docker.sock HOME=/root PATH=/usr/local/bin:$PATH
failed=/var/tmp/failed

check() { # check NAME WANT COMMAND...: the command's output matches the pattern
	local name=$1 want=$2 got
	shift 2
	got=$("$@" 2>&1)
	if [[ $got =~ $want ]]; then
		echo "ok    $name"
	else
		echo "FAIL  $name: want $want, got: $got" | tee -a "$failed"
	fi
}

finish() {
	if [ -e "$failed" ]; then
		journalctl -u gantry --no-pager -n 60 -o cat
		echo "FAILED: $(wc -l <"$failed")"
	else
		echo PASS
	fi
	sync
	systemctl poweroff
	exit
}

# cgroup FILE CONTAINER prints a file of the container's cgroup.
cgroup() { cat "/sys/fs/cgroup/gantry/containers/$(docker inspect -f '{{.Id}}' "$2")/$1"; }
pid() { docker inspect -f '{{.State.Pid}}' "$1"; }

# shim_memory prints the KiB that the container's shim has to itself.
shim_memory() { awk '/^Private_Dirty/ { sum += $2 } END { print sum }' "/proc/$(ps -o ppid= -p "$(pid "$1")" | tr -d ' ')/smaps_rollup"; }

install_gantry() {
	install -m 755 /payload/bin/* /usr/local/bin/
	cp /payload/gantry.service /etc/systemd/system/
	systemctl daemon-reload
	check "systemctl enable --now" "" systemctl enable --now gantry
	check "systemd was notified" "^active$" systemctl is-active gantry
	check "cgroup v2 alone" "^cgroup2fs$" stat -fc %T /sys/fs/cgroup
	check "gantry doctor" "cgroups +v2: cpuset cpu io memory" gantry doctor
	check "gantry doctor finds nothing wrong" "^0$" bash -c "gantry doctor | grep -vc ^ok"
	check "docker info" "Cgroup Version: 2" docker info
	mkdir -p /img/bin
	cp /bin/busybox /img/bin/
	for applet in sh cat echo sleep true head tail ls grep mknod id kill od mount; do ln -sf busybox "/img/bin/$applet"; done
	tar c -C /img . | docker import - box >/dev/null
}

limits() {
	docker run -d --name lim -m 64m --memory-reservation 32m --cpus 0.5 --pids-limit 50 --cpu-shares 512 --cpuset-cpus 0 \
		--device-read-bps /dev/vda:1mb --blkio-weight 300 box sleep 10000 >/dev/null
	for want in memory.max=67108864 memory.swap.max=67108864 memory.low=33554432 "cpu.max=50000 100000" cpu.weight=59 \
		cpuset.cpus=0 pids.max=50 "io.max=254:0 rbps=1048576"; do
		check "limit ${want%%=*}" "^${want#*=}" cgroup "${want%%=*}" lim
	done
	check "docker stats" "64MiB" docker stats --no-stream lim
	check "docker update" "lim" docker update -m 128m --memory-swap 128m --cpus 1 --pids-limit 20 --cpu-shares 2048 --cpuset-cpus 0-1 lim
	for want in memory.max=134217728 memory.swap.max=0 "cpu.max=100000 100000" cpu.weight=174 cpuset.cpus=0-1 pids.max=20; do
		check "update ${want%%=*}" "^${want#*=}" cgroup "${want%%=*}" lim
	done
	check "a container is not protected as the daemon is" "^0$" cat "/proc/$(pid lim)/oom_score_adj"
	docker pause lim >/dev/null
	check "pause" "^1$" cgroup cgroup.freeze lim
	docker unpause lim >/dev/null
	check "exec joins the cgroup namespace" "^0::/$" docker exec lim cat /proc/self/cgroup
	docker run --name oom -m 16m box sh -c 'head -c 60m /dev/zero | tail' >/dev/null 2>&1
	check "OOM kills are seen" "^true" docker inspect -f '{{.State.OOMKilled}}' oom
	check "oom event" "container oom" timeout 5 docker events --since 10m --filter event=oom
	local open='mknod /x b 254 0; head -c 4 /x | od'
	check "a device is denied" "not permitted" docker run --rm box sh -c "$open"
	check "--device-cgroup-rule" "0000004" docker run --rm --device-cgroup-rule 'b 254:0 r' box sh -c "$open"
	check "--privileged" "0000004" docker run --rm --privileged box sh -c "$open"
	check "--cgroupns host" "gantry/containers" docker run --rm --cgroupns host box cat /proc/self/cgroup
	check "--cgroup-parent" "::/elsewhere/" docker run --rm --cgroup-parent /elsewhere --cgroupns host box cat /proc/self/cgroup
	# Debian's kernel gives huge pages to whoever does not refuse them.
	check "a shim's memory" "^[0-9]{3}$" shim_memory lim
	check "--init" "^docker-init" docker run --rm --init box cat /proc/1/comm
}

# label prints the profile of a container's first process, as the kernel has it.
label() { cat "/proc/$(pid "$1")/attr/apparmor/current"; }

labels() {
	local self=/proc/self/attr/apparmor/current mount='mount -t tmpfs none /proc/fs && echo mounted'
	check "the default profile is loaded" "docker-default \(enforce\)" grep ^docker-default /sys/kernel/security/apparmor/profiles
	check "docker info has apparmor" "name=apparmor" docker info -f '{{.SecurityOptions}}'
	docker run -d --name confined box sleep 10000 >/dev/null
	check "a container has the default profile" "^docker-default \(enforce\)$" label confined
	check "docker inspect" "^docker-default$" docker inspect -f '{{.AppArmorProfile}}' confined
	check "docker exec has it" "^docker-default \(enforce\)$" docker exec confined cat $self
	check "docker exec --privileged has it" "^docker-default \(enforce\)$" docker exec --privileged confined cat $self
	check "with no-new-privileges" "^docker-default \(enforce\)$" docker run --rm --security-opt no-new-privileges box cat $self
	check "the profile refuses mounts" "ermission denied" docker run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined box sh -c "$mount"
	check "no profile refuses none" "^mounted$" docker run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined box sh -c "$mount"
	check "apparmor=unconfined" "^unconfined$" docker run --rm --security-opt apparmor=unconfined box cat $self
	check "--privileged is unconfined" "^unconfined$" docker run --rm --privileged --security-opt apparmor=docker-default box cat $self
	echo 'profile mine flags=(attach_disconnected) { file, capability, network, signal, }' | apparmor_parser -Kr
	check "a profile of one's own" "^mine " docker run --rm --security-opt apparmor=mine box cat $self
	check "it allows no mounts" "ermission denied" docker run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=mine box sh -c "$mount"
	check "a profile that is not loaded" "apply AppArmor profile nosuch: no such file" docker run --rm --security-opt apparmor=nosuch box true
	# A volume at /proc, with a file where the profile is asked for.
	mkdir -p /tmp/proc/self/attr/apparmor
	: >/tmp/proc/self/attr/apparmor/exec
	docker run -d --name deceived -v /tmp/proc:/proc box sleep 10000 >/dev/null
	check "a volume at /proc does not escape" "^docker-default \(enforce\)$" label deceived
	printf 'FROM box\nRUN cat %s\n' $self | check "docker build" "docker-default \(enforce\)" env DOCKER_BUILDKIT=0 docker build --no-cache -
	check "signals reach a confined process" "^confined$" docker kill confined
	echo -n docker-default >/sys/kernel/security/apparmor/.remove
	check "what the host drops is loaded again" "^docker-default \(enforce\)$" docker run --rm box cat $self
	docker rm -f confined deceived >/dev/null
}

supervision() {
	docker run -d --name always --restart always box sleep 10000 >/dev/null
	docker run -d --name unless --restart unless-stopped box sleep 10000 >/dev/null
	docker run -d --name stopped --restart unless-stopped box sleep 10000 >/dev/null
	docker stop -t 1 stopped >/dev/null
	docker run -d --name counter box sh -c 'i=0; while true; do echo $i; i=$((i+1)); sleep 1; done' >/dev/null
	docker exec -d lim sleep 10000
	local before after
	before="$(pid lim) $(pid always) $(pid counter)"
	systemctl restart gantry
	after="$(pid lim) $(pid always) $(pid counter)"
	check "systemctl restart touches no container" "^$before$" echo "$after"
	systemctl stop gantry
	check "systemctl stop leaves them" "sleep" cat "/proc/${before%% *}/comm"
	systemctl daemon-reload
	systemctl daemon-reexec
	check "systemd leaves the controllers" "cpuset cpu io memory" cat /sys/fs/cgroup/gantry/cgroup.subtree_control
	systemctl start gantry
	kill -9 "$(systemctl show -p MainPID --value gantry)"
	local i
	for i in $(seq 60); do docker version >/dev/null 2>&1 && break; sleep 1; done
	after="$(pid lim) $(pid always) $(pid counter)"
	check "kill -9 touches no container" "^$before$" echo "$after"
	check "no line of output is lost or doubled" "^same$" bash -c 'docker logs counter >/tmp/log; seq 0 $(($(wc -l </tmp/log) - 1)) | cmp -s - /tmp/log && echo same'
	check "docker exec after it" "^still$" docker exec lim echo still
}

# packages runs the compiled tests of the packages; what fails is shown. Left
# out is what compiles other shims, and what Linux 6.1 lacks.
packages() {
	local tests package skip='ShimsOfOtherVersions|AForeignShim|TestFields/time_offsets'
	for tests in $(cd /payload/tests && find . -name tests | sort); do
		package=$(dirname "${tests#./}")
		(cd "/payload/tests/$package" && PATH=/payload/tests:$PATH GANTRY_TEST_ALL=1 ./tests -test.timeout 15m -test.skip "$skip" >/var/tmp/log 2>&1)
		check "tests of $package" "^PASS" tail -1 /var/tmp/log
		grep -q ^PASS /var/tmp/log || grep -v 'level=INFO' /var/tmp/log | head -60
	done
}

push() {
	check "gantry push" "hello runs at" gantry push /payload/hello --replicas 2
	check "the app answers" "Hello from hello-" curl -s --max-time 20 "$(gantry status --address hello)"
}

after_reboot() {
	local i
	# Its last step waits a minute and a half for processes that stay.
	check "the containers did not hold the shutdown up" "^[1-7]?[0-9]$" cat /var/tmp/down
	for i in $(seq 120); do docker version >/dev/null 2>&1 && break; sleep 1; done
	check "they were stopped, not lost" "^(137|143)$" docker inspect -f '{{.State.ExitCode}}' lim
	for i in $(seq 60); do [ "$(docker ps -q --filter name=always --filter name=unless | wc -l)" = 2 ] && break; sleep 1; done
	check "restart policy always, after a reboot" "^true$" docker inspect -f '{{.State.Running}}' always
	check "restart policy unless-stopped" "^true$" docker inspect -f '{{.State.Running}}' unless
	check "unless-stopped, and stopped" "^false$" docker inspect -f '{{.State.Running}}' stopped
	check "no restart policy" "^false$" docker inspect -f '{{.State.Running}}' lim
	for i in $(seq 60); do curl -sf --max-time 5 "$(gantry status --address hello)" >/dev/null && break; sleep 1; done
	check "the app answers after a reboot" "Hello from hello-" curl -s --max-time 20 "$(gantry status --address hello)"
	check "everything is stopped" "" gantry down --purge
	check "systemd does not start it again" "^inactive$" systemctl is-active gantry
	check "no cgroup is left" "^0$" bash -c 'find /sys/fs/cgroup/gantry -mindepth 1 -type d 2>/dev/null | wc -l'
}

if [ -e /var/tmp/rebooted ]; then
	echo $(($(awk '/^btime/ { print $2 }' /proc/stat) - $(cat /var/tmp/rebooted))) >/var/tmp/down
	after_reboot
	finish
fi
uname -sr
install_gantry
limits
labels
supervision
packages
push
date +%s >/var/tmp/rebooted
sync
systemctl reboot
