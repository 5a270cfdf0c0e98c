"""What is refused before a cluster is asked for anything: no address, no cluster inside, another
version of Ray.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import finished
from tests.support.outside import outside_command
from tests.support.servers import free_port


@pytest.fixture(scope="module")
def outside(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The command, with a tracking server that it never comes to ask."""
    return outside_command(
        toy, f"http://127.0.0.1:{free_port()}", tmp_path_factory.mktemp("shared")
    )


def test_no_address_local_storage_and_sqlite_are_refused_together(outside: Any) -> None:
    done = finished(outside("storage=outputs", "tracking.uri=null", address=""))
    assert done.code == 2
    assert "conf: 3 problems" in done.err
    for setting in ("cluster.address", "storage=/mnt/shared/outputs", "http://HOST:5000"):
        assert setting in done.err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "runs in no Ray cluster"),
        ("local", "RAY_ADDRESS=local is no"),
        ("ray://h:10001", "is no HOST:PORT"),
    ],
)
def test_inside_without_a_cluster_nothing_is_started(outside: Any, given: str, told: str) -> None:
    done = finished(outside(address="auto", ray_address=given))
    assert done.code == 2
    assert told in done.err and "set RAY_ADDRESS=HEAD:6379" in done.err
    assert "plan " not in done.err


@contextlib.contextmanager
def stub(ray_version: str) -> Iterator[str]:
    """A head of some version."""

    class Head(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {"version": "4", "ray_version": ray_version, "ray_commit": "x"}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Head)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_another_version_of_ray_is_refused(outside: Any) -> None:
    with stub("2.9.0") as address:
        done = finished(outside(address=address))
    assert done.code == 2
    assert re.search(
        r"the cluster runs Ray 2\.9\.0 and this machine 2\.\d+\.\d+; install the same", done.err
    )
