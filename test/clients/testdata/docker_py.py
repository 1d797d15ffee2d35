"""Uses python3-docker, high and low level, against the daemon of DOCKER_HOST.

Each function named check_* is one case; the first that fails ends the script
with its traceback.
"""
import io
import json
import socket
import tarfile
import threading

import docker

client = docker.from_env(timeout=60)
api = client.api


def equal(got, want):
    assert got == want, "%r, want %r" % (got, want)


def raises(kind, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError("%s raised no %s" % (call, kind))


def archive(name, content):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def check_system():
    assert client.ping()
    equal(client.version()["Os"], "linux")
    assert client.info()["Images"] >= 1
    assert client.df()


def check_run():
    equal(client.containers.run("busybox", ["echo", "hello"], remove=True), b"hello\n")
    equal(client.containers.run("busybox", "sh -c 'echo $A; pwd'", environment={"A": "b"},
                                working_dir="/tmp", user="1000", remove=True), b"b\n/tmp\n")
    error = raises(docker.errors.ContainerError, client.containers.run, "busybox", "sh -c 'echo no >&2; exit 3'", remove=True)
    equal((error.exit_status, error.stderr), (3, b"no\n"))
    raises(docker.errors.ImageNotFound, api.create_container, "no-such-image", "true")
    equal(client.containers.list(all=True), [])


def check_life():
    c = client.containers.run("busybox", ["sh", "-c", "trap 'echo down; exit 4' TERM; echo up; while :; do sleep 0.1; done"],
                              detach=True, name="life", labels={"a": "b"}, mem_limit="64m", cap_add=["NET_ADMIN"],
                              restart_policy={"Name": "on-failure", "MaximumRetryCount": 0}, tmpfs={"/t": ""},
                              extra_hosts={"other": "192.0.2.7"}, ulimits=[docker.types.Ulimit(name="nofile", soft=99, hard=100)])
    equal([x.name for x in client.containers.list(filters={"label": "a=b"})], ["life"])
    equal(client.containers.get(c.short_id).status, "running")
    equal(next(c.logs(stream=True, follow=True)), b"up\n")
    code, out = c.exec_run("sh -c 'ulimit -n; grep -c 192.0.2.7 /etc/hosts; exit 5'")
    equal((code, out), (5, b"99\n1\n"))
    code, (out, err) = c.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    equal((out, err), (b"o\n", b"e\n"))
    for _ in range(50):  # output must not come together with the answer's head
        equal(c.exec_run(["echo", "all"]).output, b"all\n")
    equal(b"".join(c.exec_run("cat", stream=True, stdin=False).output), b"")
    equal(c.exec_run("id -u", user="1000").output, b"1000\n")
    assert any("sleep 0.1" in " ".join(row) for row in c.top()["Processes"]) or c.top()["Titles"]
    assert c.stats(stream=False)["memory_stats"]["usage"] > 0
    assert "cpu_stats" in next(c.stats(stream=True, decode=True))
    c.pause()
    c.reload()
    equal(c.status, "paused")
    c.unpause()
    c.update(mem_limit="128m", memswap_limit="256m")
    c.rename("renamed")
    c.restart(timeout=50)
    log = c.logs(stream=True, follow=True)
    while next(log) != b"down\n":
        pass
    equal(next(log), b"up\n")  # from here on it hears its signals
    c.stop(timeout=50)
    equal(c.wait()["StatusCode"], 4)
    equal(c.logs(tail=1), b"down\n")
    assert c.logs(timestamps=True, stdout=True).startswith(b"20")
    equal(c.logs(since=2 ** 31), b"")
    c.start()
    c.kill()
    equal(c.wait()["StatusCode"], 137)
    assert isinstance(c.diff(), (list, type(None)))
    image = c.commit(repository="kept", tag="1", changes="CMD [\"true\"]")
    equal(image.tags, ["kept:1"])
    c.remove(v=True, force=True)
    raises(docker.errors.NotFound, client.containers.get, "renamed")
    client.images.remove("kept:1")


def check_archives():
    c = client.containers.create("busybox", "cat /in/file")
    assert c.put_archive("/", archive("in/file", b"content\n"))
    stream, stat = c.get_archive("/in/file")
    equal(stat["name"], "file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        equal(tar.extractfile("file").read(), b"content\n")
    c.start()
    c.wait()
    equal(c.logs(), b"content\n")
    with tarfile.open(fileobj=io.BytesIO(b"".join(c.export()))) as tar:
        assert "in/file" in tar.getnames()
    raises(docker.errors.NotFound, c.get_archive, "/nothing")
    c.remove()


def check_build():
    lines = []
    image, log = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nARG W\nLABEL l=m\nRUN echo $W > /w\nCMD cat /w\n"),
                                     tag="built:1", buildargs={"W": "x"}, rm=True, labels={"n": "o"})
    lines = "".join(entry.get("stream", "") for entry in log)
    assert "Step 4/6" in lines and "Successfully tagged built:1" in lines, lines
    equal(image.labels, {"l": "m", "n": "o"})
    equal(client.containers.run("built:1", remove=True), b"x\n")
    error = raises(docker.errors.BuildError, client.images.build, fileobj=io.BytesIO(b"FROM busybox\nRUN exit 6\n"))
    assert "returned a non-zero code: 6" in str(error), error
    assert image.tag("other/name", "2")
    data = b"".join(client.images.get("built:1").save(named=True))
    client.images.remove("built:1")
    client.images.remove("other/name:2", force=True)
    equal(client.images.list("built"), [])
    equal([i.tags for i in client.images.load(data)], [["built:1"]])
    assert client.images.get("built:1").history()[0]["CreatedBy"]
    client.images.remove("built:1")
    raises(docker.errors.ImageNotFound, client.images.get, "built:1")
    client.images.prune(filters={"dangling": True})


def check_networks():
    pool = docker.types.IPAMPool(subnet="10.81.0.0/24", gateway="10.81.0.254")
    net = client.networks.create("py", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"x": "y"}, check_duplicate=True)
    equal([n.name for n in client.networks.list(filters={"label": "x"})], ["py"])
    config = api.create_networking_config({"py": api.create_endpoint_config(aliases=["server"], ipv4_address="10.81.0.7")})
    made = api.create_container("busybox", ["sh", "-c", "mkdir /w; echo served > /w/index.html; exec httpd -f -h /w"], name="srv",
                                networking_config=config, host_config=api.create_host_config(network_mode="py"))
    api.start(made)
    equal(api.inspect_container("srv")["NetworkSettings"]["Networks"]["py"]["IPAddress"], "10.81.0.7")
    fetch = "until wget -q -O - http://server/; do sleep 0.2; done"
    equal(client.containers.run("busybox", ["sh", "-c", fetch], network="py", remove=True, stderr=False), b"served\n")
    other = client.containers.run("busybox", "sleep 100", detach=True)
    net.connect(other, aliases=["guest"])
    net.reload()
    equal(sorted(c.name for c in net.containers), sorted(["srv", other.name]))
    net.disconnect(other)
    raises(docker.errors.APIError, net.remove)
    for c in (other, client.containers.get("srv")):
        c.remove(force=True)
    net.remove()
    client.networks.prune()


def check_volumes():
    volume = client.volumes.create("pyvol", labels={"v": "w"})
    client.containers.run("busybox", "sh -c 'echo data > /v/file'", volumes={"pyvol": {"bind": "/v", "mode": "rw"}}, remove=True)
    mount = docker.types.Mount("/m", "pyvol", read_only=True)
    equal(client.containers.run("busybox", "sh -c 'cat /m/file; touch /m/x 2>/dev/null || echo refused'", mounts=[mount], remove=True), b"data\nrefused\n")
    equal([v.name for v in client.volumes.list(filters={"label": "v=w"})], ["pyvol"])
    volume.remove()
    client.volumes.prune()


def check_ports():
    c = client.containers.run("busybox", ["sh", "-c", "mkdir /w; echo port > /w/index.html; exec httpd -f -h /w"], detach=True,
                              ports={"80/tcp": ("127.0.0.1", None)})
    c.reload()
    port = int(c.ports["80/tcp"][0]["HostPort"])
    equal(api.port(c.id, 80)[0]["HostIp"], "127.0.0.1")
    c.exec_run(["sh", "-c", "until wget -q -O /dev/null http://127.0.0.1/; do sleep 0.1; done"])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as conn:
        conn.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = conn.makefile("rb").read()
    assert answer.endswith(b"port\n"), answer
    c.remove(force=True)


def check_events():
    seen = []
    stream = client.events(decode=True, filters={"type": "container", "label": "watched"})

    def read():
        for event in stream:
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    client.containers.run("busybox", "true", labels=["watched"], remove=True)
    reader.join(60)
    stream.close()
    equal([a for a in seen if a != "attach"], ["create", "start", "die", "destroy"])


def check_attach():
    made = api.create_container("busybox", "cat", stdin_open=True)
    sock = api.attach_socket(made, params={"stdin": 1, "stdout": 1, "stream": 1})
    api.start(made)
    sock._sock.sendall(b"typed\n")
    sock._sock.shutdown(socket.SHUT_WR)
    received = b""
    while True:
        data = sock._sock.recv(4096)
        if not data:
            break
        received += data
    equal(received[8:], b"typed\n")
    equal(api.wait(made)["StatusCode"], 0)
    equal(api.attach(made, logs=True), b"typed\n")
    api.remove_container(made)
    made = api.create_container("busybox", "sh", stdin_open=True, tty=True)
    api.start(made)
    api.resize(made, 20, 70)
    run = api.exec_create(made, "tty", tty=True, stdin=True)
    sock = api.exec_start(run, tty=True, socket=True)
    api.exec_inspect(run)
    received = b""
    while not received.endswith(b"\n"):
        data = sock._sock.recv(4096)
        assert data, received
        received += data
    assert received.startswith(b"/dev/pts/"), received
    equal(api.exec_start(api.exec_create(made, "true"), detach=True), "")
    api.remove_container(made, force=True)


def check_prune():
    client.containers.create("busybox", "true", labels={"prune": "me"})
    equal(len(client.containers.prune(filters={"label": "prune=me"})["ContainersDeleted"]), 1)


for name, check in list(globals().items()):
    if name.startswith("check_"):
        check()
        print(name[len("check_"):], json.dumps("ok"))
