package dockerapi_test

var fieldScenes = []fieldScene{
	{"plain", `{
		"Image": "busybox", "Entrypoint": ["sleep"], "Cmd": ["600"], "Hostname": "h1", "Domainname": "d.example",
		"Env": ["A=b c"], "WorkingDir": "/work/dir", "Labels": {"x": "y"}, "Volumes": {"/anonymous": {}}, "ExposedPorts": {"90/tcp": {}},
		"HostConfig": {
			"Binds": ["{dir}:/bound:ro"], "VolumesFrom": ["donor"], "PublishAllPorts": true,
			"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18961"}]},
			"CapAdd": ["SYS_TIME"], "CapDrop": ["CHOWN"], "CgroupnsMode": "private", "OomScoreAdj": 100,
			"Dns": ["192.0.2.1"], "DnsOptions": ["ndots:3"], "DnsSearch": ["example.org"], "ExtraHosts": ["other:192.0.2.9"],
			"Sysctls": {"net.ipv4.ip_default_ttl": "33"}, "ShmSize": 1048576, "Tmpfs": {"/t": "size=1m"}, "Umask": 63,
			"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}],
			"DeviceCgroupRules": ["c 10:200 rw"], "Ulimits": [{"Name": "nofile", "Soft": 512, "Hard": 1024}],
			"Runtime": "gantry", "Isolation": "default", "VolumeDriver": "local", "Annotations": {"note": "mine"}, "PidsLimit": -1,
			"Mounts": [{"Type": "bind", "Source": "{dir}/made", "Target": "/made", "BindOptions": {"CreateMountpoint": true}}]
		}}`, []fieldProbe{
		{"Config.Image Config.Entrypoint Config.Cmd", `tr '\0' ' ' </proc/1/cmdline; test -e /bin/busybox && echo box`, `sleep 600 box`},
		{"Config.Hostname", `hostname`, `h1`},
		{"Config.Domainname", `cat /proc/sys/kernel/domainname`, `d\.example`},
		{"Config.Env", `echo "$A"`, `b c`},
		{"Config.WorkingDir", `pwd`, `/work/dir`},
		{"Config.Labels", `docker ps --format {{.Names}} --filter label=x=y`, `plain`},
		{"Config.Volumes", `grep -c ' /anonymous ' /proc/mounts`, `1`},
		{"Config.ExposedPorts HostConfig.PublishAllPorts", `docker port plain 90/tcp`, `0\.0\.0\.0:[1-9].*`},
		{"HostConfig.PortBindings.HostIp HostConfig.PortBindings.HostPort", `docker port plain 80/tcp`, `127\.0\.0\.1:18961`},
		{"HostConfig.Binds", `cat /bound/f; touch /bound/x`, `bound\n.*Read-only.*`},
		{"HostConfig.Mounts.BindOptions.CreateMountpoint", `touch /made/x && echo made`, `made`},
		{"HostConfig.VolumesFrom", `grep -c ' /given ' /proc/mounts`, `1`},
		{"HostConfig.CapAdd HostConfig.CapDrop", `grep CapBnd /proc/1/status`, `CapBnd:\t00000000aa0425fa`},
		{"HostConfig.CgroupnsMode", `grep -vc ':/$' /proc/1/cgroup`, `0`},
		{"HostConfig.OomScoreAdj", `cat /proc/1/oom_score_adj`, `100`},
		{"HostConfig.Dns HostConfig.DnsOptions HostConfig.DnsSearch", `grep -v '^#' /etc/resolv.conf | sort`, `nameserver 192\.0\.2\.1\noptions ndots:3\nsearch example\.org`},
		{"HostConfig.ExtraHosts", `grep other /etc/hosts`, `192\.0\.2\.9\tother`},
		{"HostConfig.Sysctls", `cat /proc/sys/net/ipv4/ip_default_ttl`, `33`},
		{"HostConfig.ShmSize", `df -k /dev/shm | awk 'NR==2{print $2}'`, `1024`},
		{"HostConfig.Tmpfs", `df -k /t | awk 'NR==2{print $2}'`, `1024`},
		{"HostConfig.Umask", `grep Umask /proc/1/status; umask`, `Umask:\t0077\n0077`},
		{"HostConfig.Devices.PathOnHost HostConfig.Devices.PathInContainer", `stat -c %t:%T /dev/mine`, `1:3`},
		{"HostConfig.DeviceCgroupRules", `mknod /tun c 10 200; cat /tun 2>&1 | grep -c permitted`, `0`},
		{"HostConfig.Ulimits", `grep 'open files' /proc/1/limits`, `Max open files +512 +1024 +files`},
		{"HostConfig.PidsLimit", `docker inspect -f {{.HostConfig.PidsLimit}} plain`, `<nil>`},
		{"HostConfig.Runtime HostConfig.Isolation HostConfig.VolumeDriver", `docker inspect -f {{.HostConfig.Runtime}} plain`, `gantry`},
	}},
	{"confined", `{
		"Image": "busybox", "Cmd": ["sleep", "600"], "User": "1000:1001", "NetworkDisabled": true,
		"HostConfig": {
			"GroupAdd": ["1002"], "Init": true, "ReadonlyRootfs": true, "SecurityOpt": ["no-new-privileges"], "IpcMode": "none",
			"MaskedPaths": ["/proc/uptime"], "ReadonlyPaths": ["/proc/sysvipc"], "Privileged": false,
			"Mounts": [{"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"Options": [["exec"]]}}]
		}}`, []fieldProbe{
		{"Config.User HostConfig.GroupAdd", `grep -E '^(Uid|Gid|Groups)' /proc/1/status | awk '{print $2,$3}'`, `1000 1000\n1001 1001\n1001 1002`},
		{"Config.NetworkDisabled", `ls /sys/class/net`, `lo`},
		{"HostConfig.Init", `tr '\0' ' ' </proc/1/cmdline`, `/sbin/docker-init -- sleep 600`},
		{"HostConfig.ReadonlyRootfs", `touch /x`, `.*Read-only file system`},
		{"HostConfig.SecurityOpt", `grep NoNewPrivs /proc/1/status`, `NoNewPrivs:\t1`},
		{"HostConfig.IpcMode", `grep -c ' /dev/shm ' /proc/mounts`, `0`},
		{"HostConfig.MaskedPaths", `cat /proc/uptime`, ``},
		{"HostConfig.ReadonlyPaths", `grep ' /proc/sysvipc ' /proc/mounts`, `proc /proc/sysvipc proc ro.*`},
		{"HostConfig.Mounts.TmpfsOptions.Options", `grep ' /m ' /proc/mounts | grep -c noexec`, `0`},
	}},
	{"shared", `{
		"Image": "busybox", "Cmd": ["sleep", "600"],
		"HostConfig": {"NetworkMode": "host", "PidMode": "host", "IpcMode": "host", "UTSMode": "host", "UsernsMode": "host", "CgroupnsMode": "host", "Privileged": true}
		}`, []fieldProbe{
		{"HostConfig.NetworkMode", `readlink /proc/self/ns/net`, `{net}`},
		{"HostConfig.PidMode", `readlink /proc/self/ns/pid`, `{pid}`},
		{"HostConfig.IpcMode", `readlink /proc/self/ns/ipc`, `{ipc}`},
		{"HostConfig.UTSMode", `readlink /proc/self/ns/uts`, `{uts}`},
		{"HostConfig.UsernsMode", `readlink /proc/self/ns/user`, `{user}`},
		{"HostConfig.CgroupnsMode", `readlink /proc/self/ns/cgroup`, `{cgroup}`},
		{"HostConfig.Privileged", `mkdir /mnt && mount -t tmpfs none /mnt && echo mounted`, `mounted`},
	}},
	{"terminal", `{"Image": "busybox", "Cmd": ["stty", "size"], "Tty": true, "HostConfig": {"ConsoleSize": [33, 77]}}`, []fieldProbe{
		{"Config.Tty HostConfig.ConsoleSize", `docker logs -f terminal`, `33 77`},
	}},
	{"signalled", `{
		"Image": "busybox", "Cmd": ["sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 1; done"],
		"StopSignal": "USR1", "StopTimeout": -1,
		"Healthcheck": {"Test": ["CMD-SHELL", "is healthy"], "Interval": 3600000000000, "StartPeriod": 3600000000000, "StartInterval": 10000000, "Timeout": 60000000000, "Retries": 2},
		"Shell": ["/bin/sh", "-c", "echo from the shell: $0; touch /probed; exit 0; #"]
		}`, []fieldProbe{
		{"Config.Shell Config.Healthcheck.Test Config.Healthcheck.StartPeriod Config.Healthcheck.StartInterval", `while ! test -e /probed; do sleep 0.1; done; echo probed`, `probed`},
		{"Config.StopSignal Config.StopTimeout", `docker stop signalled`, `signalled`},
		{"Config.StopSignal", `docker inspect -f {{.State.ExitCode}} signalled`, `7`},
	}},
	{"attached", `{
		"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "fields"},
		"NetworkingConfig": {"EndpointsConfig": {"fields": {
			"IPAMConfig": {"IPv4Address": "10.91.0.77", "IPv6Address": "fd00:91::77", "LinkLocalIPs": ["169.254.9.9"]},
			"Links": ["donor:friend"], "Aliases": ["nick"], "MacAddress": "02:42:0a:5b:00:99", "GwPriority": 3,
			"DriverOpts": {"com.docker.network.endpoint.ifname": "lan7"},
			"NetworkID": "stale", "EndpointID": "stale", "Gateway": "192.0.2.66", "IPAddress": "192.0.2.67", "IPPrefixLen": 7,
			"IPv6Gateway": "fd00:66::66", "GlobalIPv6Address": "fd00:66::67", "GlobalIPv6PrefixLen": 7, "DNSNames": ["stale"]
		}}}}`, []fieldProbe{
		{"NetworkingConfig.EndpointsConfig.IPAMConfig.IPv4Address NetworkingConfig.EndpointsConfig.IPAMConfig.LinkLocalIPs NetworkingConfig.EndpointsConfig.DriverOpts",
			`ip -4 addr show lan7 | awk '/inet /{print $2}' | sort`, `10\.91\.0\.77/24\n169\.254\.9\.9/16`},
		{"NetworkingConfig.EndpointsConfig.IPAMConfig.IPv6Address", `ip -6 addr show lan7 | grep -o fd00:91::77/64`, `fd00:91::77/64`},
		{"NetworkingConfig.EndpointsConfig.MacAddress", `cat /sys/class/net/lan7/address`, `02:42:0a:5b:00:99`},
		{"NetworkingConfig.EndpointsConfig.Links", `nslookup friend | grep -c 10.91.0.2`, `1`},
		{"NetworkingConfig.EndpointsConfig.Aliases", `nslookup nick | grep -c 10.91.0.77`, `1`},
		{"NetworkingConfig.EndpointsConfig.GwPriority", `docker inspect -f {{.NetworkSettings.Networks.fields.GwPriority}} attached`, `3`},
		{`NetworkingConfig.EndpointsConfig.NetworkID NetworkingConfig.EndpointsConfig.EndpointID NetworkingConfig.EndpointsConfig.Gateway
			NetworkingConfig.EndpointsConfig.IPAddress NetworkingConfig.EndpointsConfig.IPPrefixLen NetworkingConfig.EndpointsConfig.IPv6Gateway
			NetworkingConfig.EndpointsConfig.GlobalIPv6Address NetworkingConfig.EndpointsConfig.GlobalIPv6PrefixLen NetworkingConfig.EndpointsConfig.DNSNames`,
			`docker inspect -f {{with.NetworkSettings.Networks.fields}}{{.Gateway}},{{.IPAddress}}/{{.IPPrefixLen}},{{.IPv6Gateway}},{{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}},{{.EndpointID}},{{.NetworkID}},{{.DNSNames}}{{end}} attached`,
			`10\.91\.0\.1,10\.91\.0\.77/24,fd00:91::1,fd00:91::77/64,[0-9a-f]{64},[0-9a-f]{64},\[attached nick [0-9a-f]{12}\]`},
	}},
}

// refusedFields are the fields, or values of them, that Gantry refuses by name.
var refusedFields = []struct {
	field, request, want string
	atStart              bool
}{
	{"HostConfig.Cgroup", `{"Image":"busybox","HostConfig":{"Cgroup":"container:x"}}`, "HostConfig.Cgroup is not supported", false},
	{"HostConfig.CpuCount", `{"Image":"busybox","HostConfig":{"CpuCount":1}}`, "HostConfig.CpuCount is not supported", false},
	{"HostConfig.IOMaximumIOps", `{"Image":"busybox","HostConfig":{"IOMaximumIOps":1}}`, "does not support Maximum IO Bandwidth", false},
	{"HostConfig.IOMaximumBandwidth", `{"Image":"busybox","HostConfig":{"IOMaximumBandwidth":1}}`, "does not support Maximum IO Bandwidth", false},
	{"HostConfig.Isolation", `{"Image":"busybox","HostConfig":{"Isolation":"hyperv"}}`, "invalid isolation", false},
	{"HostConfig.Runtime", `{"Image":"busybox","HostConfig":{"Runtime":"other"}}`, "unknown or invalid runtime name: other", false},
	{"HostConfig.StorageOpt", `{"Image":"busybox","HostConfig":{"StorageOpt":{"size":"1G"}}}`, "--storage-opt is supported only for overlay over xfs", false},
	{"HostConfig.UsernsMode", `{"Image":"busybox","HostConfig":{"UsernsMode":"keep-id"}}`, "invalid userns mode", false},
	{"HostConfig.VolumeDriver", `{"Image":"busybox","HostConfig":{"VolumeDriver":"nfs"}}`, "HostConfig.VolumeDriver is not supported", false},
	{"HostConfig.DeviceRequests.Driver", `{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Driver":"x"}]}}`, `could not select device driver \"x\"`, true},
	{"HostConfig.DeviceRequests.Count", `{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Count":-1}]}}`, "could not select device driver", true},
	{"HostConfig.DeviceRequests.DeviceIDs", `{"Image":"busybox","HostConfig":{"DeviceRequests":[{"DeviceIDs":["1"]}]}}`, "could not select device driver", true},
	{"HostConfig.DeviceRequests.Capabilities", `{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Capabilities":[["gpu"]]}]}}`, "with capabilities: [[gpu]]", true},
	{"HostConfig.DeviceRequests.Options", `{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Options":{"a":"b"}}]}}`, "could not select device driver", true},
	{"HostConfig.Mounts.ClusterOptions", `{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"cluster","Source":"c","Target":"/m","ClusterOptions":{}}]}}`, "HostConfig.Mounts.Type cluster is not supported", false},
}

// fieldsTestedElsewhere are proved by other tests of the engine or its API.
var fieldsTestedElsewhere = map[string]string{
	"Config.OpenStdin Config.StdinOnce": "TestAttachBeforeStartMissesNothing",
	"Config.Healthcheck.Interval":       "TestHealth",
	"Config.Healthcheck.Timeout":        "TestHealthTimeout",
	"Config.Healthcheck.Retries":        "TestAfterProbe",
	"HostConfig.AutoRemove":             "TestAutoRemoveAndEvents",
	"HostConfig.RestartPolicy.Name HostConfig.RestartPolicy.MaximumRetryCount": "TestRestartPolicy",
	"HostConfig.LogConfig.Type HostConfig.LogConfig.Config":                    "TestLogOfAContainer",
	"HostConfig.Links":        "TestLegacyLinks",
	"HostConfig.CgroupParent": "TestCgroupParents",
	"HostConfig.Memory HostConfig.MemoryReservation HostConfig.CpuShares HostConfig.CpuQuota HostConfig.CpusetCpus HostConfig.PidsLimit": "TestLimitsAndUpdate",
	`HostConfig.NanoCpus HostConfig.CpuPeriod HostConfig.CpuRealtimePeriod HostConfig.CpuRealtimeRuntime HostConfig.CpusetMems
	 HostConfig.MemorySwap HostConfig.MemorySwappiness HostConfig.OomKillDisable HostConfig.BlkioWeight
	 HostConfig.BlkioWeightDevice.Path HostConfig.BlkioWeightDevice.Weight
	 HostConfig.BlkioDeviceReadBps.Path HostConfig.BlkioDeviceReadBps.Rate HostConfig.BlkioDeviceWriteBps.Path HostConfig.BlkioDeviceWriteBps.Rate
	 HostConfig.BlkioDeviceReadIOps.Path HostConfig.BlkioDeviceReadIOps.Rate HostConfig.BlkioDeviceWriteIOps.Path HostConfig.BlkioDeviceWriteIOps.Rate
	 HostConfig.Annotations HostConfig.Devices.CgroupPermissions`: "TestFieldsOfTheSpecification",
	"HostConfig.CpuPercent": "TestFitToHost",
	`HostConfig.Mounts.Type HostConfig.Mounts.Source HostConfig.Mounts.Target HostConfig.Mounts.ReadOnly
	 HostConfig.Mounts.BindOptions.Propagation HostConfig.Mounts.BindOptions.NonRecursive
	 HostConfig.Mounts.BindOptions.ReadOnlyNonRecursive HostConfig.Mounts.BindOptions.ReadOnlyForceRecursive
	 HostConfig.Mounts.VolumeOptions.NoCopy HostConfig.Mounts.VolumeOptions.Labels HostConfig.Mounts.VolumeOptions.Subpath
	 HostConfig.Mounts.VolumeOptions.DriverConfig.Name HostConfig.Mounts.VolumeOptions.DriverConfig.Options
	 HostConfig.Mounts.ImageOptions.Subpath HostConfig.Mounts.TmpfsOptions.SizeBytes HostConfig.Mounts.TmpfsOptions.Mode`: "TestMountsOfEveryType",
}

// fieldsIgnoredAsByTheReference mean nothing to a daemon on Linux, here and there:
// inspect shows them as they were sent.
var fieldsIgnoredAsByTheReference = map[string]string{
	"Config.AttachStdin":            "for the client",
	"Config.AttachStdout":           "for the client",
	"Config.AttachStderr":           "for the client",
	"Config.ArgsEscaped":            "of Windows",
	"Config.OnBuild":                "of images",
	"HostConfig.ContainerIDFile":    "written by the client",
	"HostConfig.Mounts.Consistency": "of Docker Desktop",
}
