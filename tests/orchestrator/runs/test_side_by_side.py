"""`runs compare NAME NAME --serve`: two winners on one page of this machine."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator.runs.cli import main
from orchestrator.storage.journal import Journal
from tests.support.shipping import adapted_version

ROOT = Path(__file__).resolve().parents[3]


def sweep(storage: Path, name: str, version: Path | None) -> None:
    folder = storage / "sweeps" / name
    folder.mkdir(parents=True)
    Journal(folder).append("sweep", name=name, params={}, tags={}, config="", datasets=[])
    if version is not None:
        shutil.copytree(version, folder / "export")


def ask(
    port: int, method: str, path: str, body: str | None = None, host: str | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_two_winners_answer_on_one_page_that_other_names_do_not_reach(
    base: BaseModel, cache: Path, tmp_path: Path
) -> None:
    for seed, name in ((0, "one-1"), (2, "two-2")):
        sweep(tmp_path / "st", name, adapted_version(base, tmp_path, seed, name))
    line = [*(sys.executable, "-m", "orchestrator.runs", "compare", "one-1", "two-2", "--serve")]
    process = subprocess.Popen(
        [*line, "--json", "--storage", str(tmp_path / "st")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ORCHESTRATOR_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first and process.stderr is not None, process.communicate()[1]
        told = json.loads(first)
        port = int(told["address"].rstrip("/").rpartition(":")[2])
        assert told["models"] == ["one-1", "two-2"] and "127.0.0.1" in told["address"]
        status, page = ask(port, "GET", "/")
        assert status == 200 and '["one-1", "two-2"]' in page
        assert ask(port, "GET", "/", host="evil.example")[0] == 403
        answers = []
        for name in told["models"]:
            messages = [{"role": "user", "content": "Ticket 3 from d?"}]
            status, text = ask(
                port,
                "POST",
                "/v1/chat/completions",
                json.dumps({"model": name, "messages": messages}),
            )
            assert status == 200, text
            answers.append(json.loads(text)["choices"][0]["message"]["content"])
        assert answers[0] != answers[1], "each name is answered by its own file"
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert (
        tmp_path / "st" / "sweeps" / "one-1" / "side-by-side" / "gguf-q8_0" / "export.json"
    ).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "a", "a", "--serve"], "got a twice"),
        (["compare", "a", "b", "--serve"], "has no winner yet"),
        (["compare", "c", "a", "--serve"], "no sweep c"),
        (["compare", "a", "b", "--serve", "--port", "70000"], "cannot listen on --port 70000"),
    ],
)
def test_what_cannot_be_put_side_by_side_is_one_message(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        sweep(tmp_path, name, None)
    assert main([*arguments, "--storage", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert words in told and told.startswith("error: ") and "Traceback" not in told


def test_serve_is_for_compare_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list", "--serve"], ["compare", "a", "b", "--port", "1"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "--serve is for compare" in capsys.readouterr().err
