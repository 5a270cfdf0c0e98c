"""A local sweep's Ray is nobody else's: what it listens on, what it answers to others, and what it
leaves behind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.errors import InputError
from orchestrator.launch import ray_session
from tests.support.daemons import end_raylet
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys
from orchestrator.launch import ray_local
from orchestrator.plan.resources import Node, Resources
with ray_local.local(Resources(concurrent=1, workers=1, cpus=1, gpus=0, nodes=(Node(2),))):
    import ray
    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"WITH": "environment"}})
    class Actor:
        def work(self):
            return 1
    actor = Actor.remote()
    ray.get(actor.work.remote())
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""


START = """
from orchestrator.launch import ray_local
from orchestrator.process import lifeline
from orchestrator.plan.resources import Node, Resources
with lifeline.opened():
    with ray_local.local(Resources(concurrent=1, workers=1, cpus=1, gpus=0, nodes=(Node(2),))):
        print("started", flush=True)
        import time
        time.sleep(120)
"""


CALLS = (
    "JobInfoGcsService/GetAllJobInfo",
    "InternalKVGcsService/InternalKVGet",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Push",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/Exit",
)


def outside_address() -> str:
    """This machine's address as others see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def listening(process: psutil.Process) -> list[tuple[str, int, str]]:
    """Address, port and process of all TCP sockets that a process tree listens on."""
    found = []
    for member in [process, *process.children(recursive=True)]:
        try:
            sockets = member.net_connections("inet")
            found += [
                (s.laddr.ip, s.laddr.port, member.name())
                for s in sockets
                if s.status == psutil.CONN_LISTEN
            ]
        except psutil.NoSuchProcess:
            continue
    return found


def sessions(folder: Path) -> list[Path]:
    """Folders of sessions in a temporary folder."""
    return sorted(folder.glob(f"{ray_session.PREFIX}*"))


@pytest.fixture(scope="module")
def holder() -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """A process that holds a private Ray, the address of its GCS, and where its session lies."""
    place = Path(tempfile.mkdtemp(prefix="p", dir="/tmp"))  # short enough for sockets
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
    surroundings |= {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "10.1.2.3:6379", "RAY_AUTH_TOKEN": "of-another-cluster", "RAY_GCS_SERVER_PORT": "6379"}  # fmt: skip
    line = [sys.executable, "-c", HOLD]
    process = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=surroundings,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process, process.stdout.readline().strip(), place
    finally:
        process.communicate("end\n", timeout=300)
        left = sessions(place)
        shutil.rmtree(place)
        assert left == [] and process.returncode == 0


def test_every_socket_of_a_private_ray_is_on_loopback(holder: tuple[Any, str, Path]) -> None:
    found = listening(psutil.Process(holder[0].pid))
    assert {"gcs_server", "raylet"} <= {name for _, _, name in found}
    assert [place for place in found if place[0].removeprefix("::ffff:") != "127.0.0.1"] == []
    assert not {port for _, port, _ in found} & {6379, 8265, 10001, 52365}, (
        "ports of a Ray that its user may start beside it"
    )


def test_nobody_without_the_token_is_answered(holder: tuple[Any, str, Path]) -> None:
    """Each port, spoken to in HTTP and in gRPC, with no token and with a wrong one."""
    import grpc

    job = json.dumps({"entrypoint": "id"}).encode()
    for _, port, name in listening(psutil.Process(holder[0].pid)):
        for path, body in (
            ("/api/job_agent/jobs/", job),
            ("/api/jobs/", job),
            ("/get_or_create_runtime_env", b""),
            ("/api/version", None),
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
                with pytest.raises((OSError, http.client.HTTPException)) as refused:
                    urllib.request.urlopen(request, timeout=5)
                assert not isinstance(
                    refused.value, urllib.error.HTTPError
                ) or refused.value.code in (401, 403), name
    answers = {}
    for _, port, name in listening(psutil.Process(holder[0].pid)):
        for method in CALLS:
            for metadata in ((), (("authorization", "Bearer wrong"),)):
                with (
                    grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
                    pytest.raises(grpc.RpcError) as told,
                ):
                    channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=120, metadata=metadata)
                answers.setdefault(name, set()).add(told.value.code().name)
    assert answers.pop("ray::RuntimeEnvAgent") == {"UNAVAILABLE"}, "speaks HTTP"
    # Which services a port has is told before the token is looked at; no call of a service that it
    # has was carried out.
    assert all(
        "UNAUTHENTICATED" in told and told <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}
        for told in answers.values()
    ), answers


def test_a_ray_that_knows_no_token_cannot_join(holder: tuple[Any, str, Path]) -> None:
    line = [
        sys.executable,
        "-c",
        f"import ray; ray.init('{holder[1]}', log_to_driver=False); print('joined')",
    ]
    wrong = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "wrong" * 8,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=500, env={**os.environ, **wrong}
    )
    assert (
        done.returncode != 0
        and "joined" not in done.stdout
        and "AuthenticationError" in done.stderr
    )


def test_the_outside_address_has_none_of_its_ports(holder: tuple[Any, str, Path]) -> None:
    outside = outside_address()
    if outside == "127.0.0.1":
        pytest.skip("this machine has no other address")
    for _, port, name in listening(psutil.Process(holder[0].pid)):
        with socket.socket() as caller:
            caller.settimeout(5)
            assert caller.connect_ex((outside, port)) != 0, name


def test_another_user_sees_nothing_of_the_session(holder: tuple[Any, str, Path]) -> None:
    (folder,) = sessions(holder[2])
    (started,) = [path for path in (folder / "r").glob("session_*") if not path.is_symlink()]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    for process in [
        psutil.Process(holder[0].pid),
        *psutil.Process(holder[0].pid).children(recursive=True),
    ]:
        assert (folder / "token").read_text() not in " ".join(process.cmdline())
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for path in (
        folder / "token",
        started / "logs" / "raylet.out",
        started / "sockets" / "plasma_store",
    ):
        assert path.exists()
        done = subprocess.run([*nobody, "test", "-e", path], capture_output=True)
        assert done.returncode != 0, path
    job = '{"entrypoint": "id"}'
    for _, port, name in listening(psutil.Process(holder[0].pid)):
        for path in ("/api/job_agent/jobs/", "/get_or_create_runtime_env"):
            request = f"POST {path} HTTP/1.0\\r\\nContent-Length: {len(job)}\\r\\n\\r\\n{job}"
            speak = f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{request}' >&3 && timeout 5 head -c 12 <&3"
            done = subprocess.run([*nobody, "bash", "-c", speak], capture_output=True, cwd="/")
            assert not done.stdout.startswith(b"HTTP") or done.stdout.endswith(b"401"), (name, done)


def test_a_session_ends_with_the_command_also_by_ctrl_c(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))
    try:
        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings)  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        assert len(sessions(place)) == 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
        assert sessions(place) == []
    finally:
        shutil.rmtree(place)


def test_what_a_killed_command_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_session, "LONGEST_PLACE", 200)
    line = [sys.executable, "-c", "import time\nfrom orchestrator.launch import ray_session\nray_session.LONGEST_PLACE = 200\nwith ray_session.private() as folder:\n    folder.mkdir()\n    print(folder, flush=True)\n    time.sleep(600)"]  # fmt: skip
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip()).parent
    with ray_session.private():
        assert left.is_dir(), "its owner lives"
    process.kill()
    process.wait()
    assert left.is_dir()
    young, old = tmp_path / f"{ray_session.PREFIX}young", tmp_path / f"{ray_session.PREFIX}old"
    for folder in (young, old):
        folder.mkdir()
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    with ray_session.private() as folder:
        assert sessions(tmp_path) == sorted([folder.parent, young]), (
            "one whose owner has yet to lock it stays"
        )
    assert sessions(tmp_path) == [young]


def test_the_users_own_ray_settings_are_back_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_session.private() as folder:
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert os.environ["RAY_AUTH_MODE"] == "token"
        first = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent == folder.parent
    assert (os.environ["RAY_AUTH_TOKEN"], os.environ["RAY_AUTH_MODE"]) == ("mine", "disabled")
    with ray_session.private():
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text() != first, "fresh for each run"


def test_a_temporary_folder_with_a_long_path_is_passed_over_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * (80 - len(str(tmp_path)) if len(str(tmp_path)) < 70 else 20))
    long.mkdir()
    monkeypatch.setattr(ray_session.tempfile, "tempdir", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert ray_session.choose_place() in ray_session.PLACES
    monkeypatch.setattr(ray_session, "PLACES", ("/nonexistent",))
    with pytest.raises(
        InputError,
        match=rf"TMPDIR={long} has a path of {len(str(long))} bytes.*set TMPDIR to a folder",
    ) as caught:
        ray_session.choose_place()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_workers_meet_where_nobody_else_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own store listens on all addresses, whatever address it is given."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    from jobs.workers import rendezvous

    rendezvous.stay_on_loopback()
    create = sys.modules["torch.distributed.rendezvous"]._create_c10d_store  # type: ignore[attr-defined]
    for opens, addresses in ((create, {"127.0.0.1"}), (None, {"::"})):
        port = free_port()
        if opens is not None:
            store = opens("127.0.0.1", port, 0, 1, timedelta(seconds=20), True)
        else:
            store = TCPStore("127.0.0.1", port, is_master=True)
        store.set("a", "b")
        assert {place for place, at, _ in listening(psutil.Process()) if at == port} == addresses
        del store


@pytest.mark.parametrize(
    ("daemon", "starting"), [("gcs_server", True), ("raylet", True), ("gcs_server", False)]
)
def test_a_daemon_that_is_asked_to_end_is_told_in_a_line_within_seconds(
    daemon: str, starting: bool
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    tree = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    lost: list[psutil.Process] = []
    while not lost and process.poll() is None and time.monotonic() < deadline:
        for member in tree.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if member.name() == daemon and (daemon == "raylet" or listening(member)):
                    lost.append(member)
        time.sleep(0.02)
    assert lost, f"{daemon} was not started"
    assert process.stdout is not None
    if not starting:
        assert process.stdout.readline() == "started\n"
    hurt = time.monotonic()
    if daemon == "raylet":
        end_raylet(lost[0])
    else:
        lost[0].terminate()
    out, err = process.communicate(timeout=180)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    outlived = "was ended by SIGKILL" in err  # it has started meanwhile
    assert process.returncode != 0 and (out == "" or outlived), (out, err)
    assert len(told) == 1, err
    assert time.monotonic() - hurt < 30, "Ray's own patience is a minute"


@pytest.mark.slow
def test_a_sweep_listens_on_loopback_alone_from_start_to_end(command: Any, tmp_path: Path) -> None:
    """Two workers, so that torch's own sockets are among them: its meeting place and the
    connections between workers have no token.
    """
    sizes = (
        "train.steps=4",
        "train.eval_every=2",
        "train.batch_size=4",
        "train.num_workers=2",
        "cluster.num_cpus=4",
    )
    process = command(
        "+sweep=lora", "sweep.num_trials=1", *sizes, f"storage={tmp_path}/store", start=True
    )
    seen: set[tuple[str, str]] = set()
    while process.poll() is None:
        seen |= {
            (address.removeprefix("::ffff:"), name)
            for address, _, name in listening(psutil.Process(process.pid))
        }
        time.sleep(0.3)
    err = process.communicate()[1]
    assert process.returncode == 0, err
    assert any(name.startswith("ray::") and "Worker" in name for _, name in seen), seen
    assert {address for address, _ in seen} == {"127.0.0.1"}, seen
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
