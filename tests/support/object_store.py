"""An S3 server of our own over real HTTP, with one empty bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers import BIN, answers, free_port, started, wait

BUCKET = "s3://sweeps"


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables that lead to a server whose log lies in a folder. It holds BUCKET
    alone.
    """
    address = f"http://127.0.0.1:{free_port()}"
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    line = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", address.rpartition(":")[2]]
    with started(line, {**os.environ}, folder / "s3.log"):
        wait(lambda: answers(address))
        make = "import boto3; boto3.client('s3').create_bucket(Bucket='sweeps')"
        subprocess.run([sys.executable, "-c", make], check=True, env={**os.environ, **variables})
        yield variables


def empty_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fixture of a module: the URI of an empty bucket. Where this process and its children look
    for it stands in the environment.
    """
    with (
        s3_server(tmp_path_factory.mktemp("s3")) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield BUCKET
