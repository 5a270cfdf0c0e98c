"""job=synthesize with a teacher behind a real server: what is written, what goes wrong, what is said."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus
from tests.conftest import environment
from tests.support.chat_server import (
    ChatTeacher,
    asked,
    completion,
    delayed,
    rewritten,
    teaching,
)
from tests.support.servers import free_port
from tests.support.synthesis import from_server, home_like, read_rows, synthesize, write_rows

SECRET = "sk-never-to-be-seen-0123456789"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_like(tmp_path_factory.mktemp("data") / "home")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_rows_of_a_server_train_as_a_source_and_say_where_they_come_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRITER_KEY", SECRET)
    folder = tmp_path / "rows"
    with teaching() as teacher:
        key = "synthesis.teacher.key=WRITER_KEY"
        price = ("synthesis.teacher.price.input=2", "synthesis.teacher.price.output=10")
        asked_for = from_server(teacher.url, "synthesis.rows=12", key, *price)
        assert synthesize(folder, data, *asked_for, "output=json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest == json.loads((folder / "manifest.json").read_text())
    rows = read_rows(folder / "train.jsonl")
    assert len(rows) == manifest["rows"] == 12
    assert manifest["sha256"] == digest(folder / "train.jsonl")
    assert manifest["cost"]["requests"] == len(teacher.bodies) == 12
    assert manifest["cost"]["price"] == pytest.approx((1200 * 2 + 120 * 10) / 1e6)
    origin = rows[0]["provenance"]
    assert origin["recipe"] == "paraphrase" and origin["teacher"] == f"writer at {teacher.url}"
    assert re.fullmatch(r"train: train.jsonl, line \d+", origin["seed"])
    assert set(origin["scores"]) == {"known_words", "nearest_real", "nearest_new"}
    assert set(origin["attributes"]) == {"style", "length"}
    combinations = {tuple(row["provenance"]["attributes"].items()) for row in rows}
    assert len(combinations) == 12, "no combination comes twice before all have come"
    source = Source(path=str(folder / "train.jsonl"))
    train = Source(path=str(data / "train.jsonl"))
    held_out = {split: str(data / f"{split}.jsonl") for split in ("valid", "test")}
    mixed = load_corpus(Data(name="x", sources={"synthetic": source, "train": train}, **held_out))
    assert len(mixed.sources["synthetic"]) == 12
    assert all(row.synthetic for row in mixed.sources["synthetic"])
    assert not any(row.synthetic for row in mixed.sources["train"])
    assert not [note for note in mixed.notes if "not used" in note], mixed.notes
    assert {header["Authorization"] for header in teacher.headers} == {f"Bearer {SECRET}"}
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_the_same_command_again_prints_the_result_and_asks_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rows"
    with teaching() as teacher:
        few = from_server(teacher.url, "synthesis.rows=4")
        assert synthesize(folder, data, *few) == 0
        first = capsys.readouterr().out
        before = digest(folder / "train.jsonl")
        assert synthesize(folder, data, *few) == 0
        assert capsys.readouterr().out == first and len(teacher.bodies) == 4
        more = from_server(teacher.url, "synthesis.rows=7")
        assert synthesize(folder, data, *more) == 0
        assert len(teacher.bodies) == 7, "the replies that are there are not asked for again"
        lines = (folder / "train.jsonl").read_bytes().split(b"\n")
        assert hashlib.sha256(b"\n".join([*lines[:4], b""])).hexdigest() == before
        assert synthesize(folder, data, *few, "fresh=true") == 0
        assert len(teacher.bodies) == 11 and digest(folder / "train.jsonl") == before
        other = from_server(teacher.url, "synthesis.rows=4", "seed=3")
        capsys.readouterr()
        assert synthesize(folder, data, *other) == 2
        assert "holds rows of other settings (seed)" in capsys.readouterr().err


def test_a_killed_synthesis_continues_without_a_lost_or_doubled_row(
    data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with teaching(delayed(0.15)) as teacher:

        def command(folder: Path) -> list[str]:
            return [
                *(sys.executable, "-m", "orchestrator", "job=synthesize", "model=tiny"),
                *("data=files", f"data.folder={data}", f"synthesis.folder={folder}"),
                *from_server(teacher.url, "synthesis.rows=30", "synthesis.teacher.requests=4"),
            ]

        whole = tmp_path / "whole"
        subprocess.run(command(whole), env=environment(cache), check=True, capture_output=True)
        asked_once = len(teacher.bodies)
        killed = tmp_path / "killed"
        replies = killed / ".synthesis" / "replies.jsonl"
        for least in (5, 15):
            process = subprocess.Popen(
                command(killed), env=environment(cache), stderr=subprocess.PIPE
            )
            while not (replies.exists() and replies.read_bytes().count(b"\n") >= least):
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (killed / "manifest.json").exists()
        with replies.open("ab") as stream:
            stream.write(b'{"ask": "29.0", "request": "torn')
        subprocess.run(command(killed), env=environment(cache), check=True, capture_output=True)
        asked_again = len(teacher.bodies) - asked_once
    assert (killed / "train.jsonl").read_bytes() == (whole / "train.jsonl").read_bytes()
    assert len(read_rows(killed / "train.jsonl")) == 30
    prompts = [row["prompt"] for row in read_rows(killed / "train.jsonl")]
    assert len(set(prompts)) == 30
    most_in_flight = 2 * 4
    assert asked_again <= asked_once + most_in_flight
    names = [json.loads(line)["ask"] for line in replies.read_text().splitlines()]
    assert len(names) == len(set(names))


def test_a_server_that_takes_few_requests_is_asked_fewer_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def narrow(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        time.sleep(0.05)
        if teacher.at_once > 2:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}
        return rewritten(teacher, body, number)

    with teaching(narrow) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=40", "synthesis.teacher.requests=32")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
    assert len(read_rows(tmp_path / "rows" / "train.jsonl")) == 40
    assert teacher.most_at_once <= 8, "the limit rises by one a round, not to all that is allowed"
    assert len(teacher.bodies) < 120


def test_a_server_that_answers_429_for_a_while_is_waited_for_as_long_as_it_asks(
    data: Path, tmp_path: Path
) -> None:
    times: list[float] = []

    def busy(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        times.append(time.monotonic())
        if times[-1] - times[0] < 1.5:
            return 429, {"error": "busy"}, {"Retry-After": "1"}
        return rewritten(teacher, body, number)

    with teaching(busy) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=5")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
    assert len(read_rows(tmp_path / "rows" / "train.jsonl")) == 5
    refused = [moment - times[0] for moment in times if moment - times[0] < 1.5]
    assert len(refused) <= 10, "nothing is asked while the server wants to be left alone"


@pytest.mark.parametrize(
    ("respond", "words", "code"),
    [
        (
            lambda t, b, n: (401, {"error": {"message": "bad key"}}, {}),
            ["answers 401", "bad key", "synthesis.teacher.key names"],
            2,
        ),
        (
            lambda t, b, n: (404, {"detail": "Not Found"}, {}),
            ["answers 404", "usually ends in /v1", "writer"],
            2,
        ),
        (lambda t, b, n: (302, b"", {"Location": "http://elsewhere"}), ["answers 302"], 2),
        (
            lambda t, b, n: (400, {"error": {"message": "max_tokens is unknown"}}, {}),
            ["refuses every request", "max_tokens is unknown", "synthesis.teacher.body"],
            2,
        ),
        (
            lambda t, b, n: (200, b"<html>Welcome</html>", {}),
            ["no OpenAI-compatible server", "<html>Welcome"],
            2,
        ),
        (
            lambda t, b, n: (429, {"error": "quota"}, {"Retry-After": "3600"}),
            ["pause of 3600 s", "patience_seconds"],
            1,
        ),
        (
            lambda t, b, n: (500, {"error": "broken"}, {}),
            ["none of", "teacher failed", "broken"],
            1,
        ),
    ],
    ids=["key", "path", "redirect", "refused", "html", "long pause", "broken"],
)
def test_a_server_that_cannot_be_used_is_one_message(
    respond: Any,
    words: list[str],
    code: int,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jobs.synthesis.chat_server.FIRST_PAUSE", 0.01)
    with teaching(respond) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=2", "synthesis.tries=2")
        assert synthesize(tmp_path / "rows", data, *settings) == code
        address = teacher.url
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("error:") == 1
    assert all(word in said for word in words), said
    assert address in said or code == 1
    assert not (tmp_path / "rows" / "train.jsonl").exists()


def test_a_server_that_is_not_there_is_bad_input(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert synthesize(tmp_path / "rows", data, *from_server(url, "synthesis.rows=2")) == 2
    said = capsys.readouterr().err
    assert f"synthesis.teacher.url={url} cannot be reached: connection refused" in said
    assert "start it, or name another one" in said


def test_a_server_that_goes_away_leaves_all_rows_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rows"

    def leaves(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        if number == 9:
            teacher.stop()
            return 500, b"", {}
        return rewritten(teacher, body, number)

    teacher = ChatTeacher(leaves)
    settings = from_server(teacher.url, "synthesis.rows=20")
    settings += ["synthesis.teacher.patience_seconds=2", "synthesis.teacher.requests=1"]
    assert synthesize(folder, data, *settings) == 1
    said = capsys.readouterr().err
    assert f"synthesis.teacher.url={teacher.url} has answered nothing for" in said
    assert "connection refused" in said and "start it, or name another one" in said
    assert f"8 replies and 8 rows are kept in {folder}, and the same command continues" in said
    assert len(read_rows(folder / "train.jsonl")) == 8
    assert not (folder / "manifest.json").exists()
    assert synthesize(folder, data, *settings) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said and "8 rows are kept" in said
    again = ChatTeacher(rewritten, teacher.port)
    assert synthesize(folder, data, *settings) == 0
    again.stop()
    assert len(again.bodies) == 12 and len(read_rows(folder / "train.jsonl")) == 20


def test_a_teacher_that_times_out_is_tried_again_and_a_request_that_always_does_is_given_up(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.synthesis.chat_server.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("jobs.synthesis.chat_server.ATTEMPTS", 2)
    slow: set[str] = set()
    once: set[str] = set()

    def sometimes(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        text = asked(body)
        if number == 2:
            slow.add(text)
        if number == 4:
            once.add(text)
            time.sleep(1.5)
        if text in slow:
            time.sleep(1.5)
        return rewritten(teacher, body, number)

    with teaching(sometimes) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=6")
        settings += ["synthesis.teacher.timeout_seconds=1"]
        assert synthesize(tmp_path / "rows", data, *settings, "output=json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["rows"] == 6 and manifest["rejected"] == {"teacher failed": 1}
    assert "no answer within 1 s" in manifest["examples"]["teacher failed"]


def test_nonsense_is_rejected_by_reason(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nonsense(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        source = re.search(r"^Text: (.*)$", asked(body), re.MULTILINE)
        assert source is not None
        kinds = [
            "",
            "I'm sorry, but as an AI I cannot help with that.",
            "zxqv wlmk prrt gbbn",
            source[1],
            source[1] + " " + "please " * 200,
            "one line\nand another one in the kitchen",
            "please start the thing that is in the other room",
            "<|im_start|>please start the lamp",
        ]
        if number == 9:
            return 200, completion(source[1] + " and then so", "length"), {}
        return kinds[(number - 1) % len(kinds)] if number < 9 else rewritten(teacher, body, number)

    with teaching(nonsense) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=3", "synthesis.teacher.requests=1")
        settings.append("synthesis.tries=20")
        assert synthesize(tmp_path / "rows", data, *settings, "output=json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["rejected"] == {
        "chatter": 3,
        "empty": 1,
        "vocabulary": 1,
        "duplicate": 1,
        "length": 1,
        "values": 1,
        "cut off": 1,
    }
    rejected = read_rows(tmp_path / "rows" / ".synthesis" / "rejected.jsonl")
    assert len(rejected) == 9 and all(row["seed"] for row in rejected)


def test_a_teacher_of_nonsense_alone_is_given_up_and_no_file_of_rows_is_left(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(lambda t, b, n: "zxqv wlmk prrt gbbn") as teacher:
        settings = from_server(teacher.url, "synthesis.rows=500", "synthesis.give_up_after=10")
        assert synthesize(tmp_path / "rows", data, *settings) == 1
    said = capsys.readouterr().err
    assert "none of 10 drafts became a row (vocabulary 10)" in said
    assert "rejected.jsonl" in said
    assert not (tmp_path / "rows" / "train.jsonl").exists()
    assert len(teacher.bodies) < 40


def test_a_preview_makes_ten_rows_says_the_cost_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        settings = from_server(teacher.url, "synthesis.rows=1000", "synthesis.preview=true")
        settings.append("synthesis.teacher.price.input=3")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
        told = capsys.readouterr().out
        assert len(teacher.bodies) == 10
        assert synthesize(tmp_path / "rows", data, *settings, "output=json") == 0
    record = json.loads(capsys.readouterr().out)["preview"]
    assert len(record["rows"]) == 10 and record["estimate"]["requests"] == 1000
    assert record["estimate"]["price"] == pytest.approx(0.3)
    assert len(re.findall(r"^row ", told, re.MULTILINE)) == 10
    assert "all     1,000 rows: 1,000 requests, 100,000 tokens read and 10,000 written" in told
    assert "price 0.3" in told and "wrote   nothing" in told
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_asks_nobody_and_shows_the_first_request(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    settings = [*from_server(url, "synthesis.rows=50"), "dry_run=true"]
    assert synthesize(tmp_path / "rows", data, *settings) == 0
    told = capsys.readouterr().out
    assert "plan    paraphrase of 72 training rows of home, by writer at" in told
    assert "50 rows of at most 200 drafts" in told and "Rewrite the input text" in told
    assert list(tmp_path.iterdir()) == []


def test_rows_of_others_are_not_written_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    mine = write_rows(folder / "train.jsonl", [{"prompt": "a", "completion": "b"}])
    before = mine.read_bytes()
    assert synthesize(folder, data, "synthesis.recipe=corrupt", "synthesis.rows=3") == 2
    assert "was not written by job=synthesize" in capsys.readouterr().err
    assert mine.read_bytes() == before and len(os.listdir(folder)) == 1
