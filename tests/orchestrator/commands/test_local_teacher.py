"""job=synthesize with a model on this machine: the tiny one writes nonsense, and is told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.config import BaseModel
from jobs.synthesis import local_model
from jobs.synthesis.drafts import Ask
from jobs.synthesis.local_model import LocalModel
from jobs.synthesis_settings import Teacher
from tests.support.chat_server import teaching
from tests.support.synthesis import from_server, home_like, read_rows, synthesize
from tests.support.versions import long_prompts, untouched_version


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_like(tmp_path_factory.mktemp("data") / "home")


def test_the_rows_of_a_tiny_local_teacher_are_rejected_by_reason(
    data: Path,
    base: BaseModel,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    folder = tmp_path / "rows"
    settings = ["synthesis.rows=6", "synthesis.tries=3", "synthesis.teacher.max_new_tokens=6"]
    assert synthesize(folder, data, *settings) == 1
    said = capsys.readouterr().err
    assert "none of 18 drafts became a row (cut off" in said and "Traceback" not in said
    rejected = read_rows(folder / ".synthesis" / "rejected.jsonl")
    assert [row["draft"] for row in rejected] == list(range(18))
    replies = read_rows(folder / ".synthesis" / "replies.jsonl")
    assert len(replies) == 18 and all(reply["reply"]["output_tokens"] <= 6 for reply in replies)
    assert synthesize(folder, data, *settings) == 1
    assert len(read_rows(folder / ".synthesis" / "replies.jsonl")) == 18, "nothing is asked again"
    assert synthesize(folder, data, *settings, "synthesis.preview=true", "output=json") == 0
    record = json.loads(capsys.readouterr().out)["preview"]
    assert record["rows"] == [] and record["estimate"] is None
    assert record["rejected"]["cut off"] > 0


def test_a_local_model_answers_a_batch_as_it_answers_one(
    base: BaseModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import queue

    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    # In bfloat16, where a machine is faster so, rounding decides between tokens that are as likely.
    monkeypatch.setattr(local_model, "pick_dtype", lambda *_: torch.float32)
    asks = [
        Ask(f"{n}.0", ({"role": "user", "content": f"{'word ' * n}{n}"},)) for n in range(1, 19)
    ]

    def answers(batches: list[list[Ask]]) -> dict[str, str]:
        done: queue.Queue = queue.Queue()
        model = LocalModel(base, Teacher(max_new_tokens=4), done)
        for batch in batches:
            for ask in batch:
                model.submit(ask)
            model.answer_gathered()
        entries = [done.get_nowait() for _ in asks]
        assert all(not reply.error and reply.input_tokens > 0 for _, reply in entries)
        return {ask.name: reply.text for ask, reply in entries}

    assert answers([asks]) == answers([[ask] for ask in asks])
    too_long = Ask("x", ({"role": "user", "content": "word " * 5000},))
    done: queue.Queue = queue.Queue()
    model = LocalModel(base, Teacher(max_new_tokens=4), done)
    model.submit(too_long)
    model.answer_gathered()
    assert "the request is too long" in done.get_nowait()[1].error


def test_a_student_keeps_only_rows_that_it_answers_alike(
    data: Path,
    base: BaseModel,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    version = untouched_version(long_prompts(tmp_path), base, tmp_path / "version")
    with teaching() as teacher:
        settings = from_server(teacher.url, "synthesis.rows=2", "synthesis.tries=2")
        settings.append(f"synthesis.judge.version={version}")
        assert synthesize(tmp_path / "rows", data, *settings) == 1
    said = capsys.readouterr().err
    assert "none of 4 drafts became a row (judge 4)" in said
    rejected = read_rows(tmp_path / "rows" / ".synthesis" / "rejected.jsonl")
    assert all("for '{" in row["detail"] for row in rejected)
