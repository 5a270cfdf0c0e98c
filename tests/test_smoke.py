"""The README's commands on one finished sweep of a tiny model: a real Ray Tune, real Ray Train
workers and a real MLflow store.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from tests.support.finished_sweeps import champion, decided, journal
from tests.support.trials import SHORT_SWEEP

SCORES = ("test/exact_match", "test/exact_match_low", "test/exact_match_high")
SCHEMA = {
    "version": None,
    "sweep": None,
    "finalists": None,
    "state": None,
    "trials": {"total", "finished", "stopped", "failed"},
    "metric": None,
    "best": {"trial", "run_id", "params", "metrics"},
    "base": {"metrics"},
    "baselines": {"most_frequent", "nearest_prompt", "linear_classifier", "base_with_examples"},
    "model": {"name", "version", "alias", "uri"},
    "seconds": {"setup", "train", "total", "planned"},
    "tracking_uri": None,
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def swept(command: Any, storage: Path) -> Any:
    """One finished sweep of three trials under halving."""
    done = command(*SHORT_SWEEP, f"storage={storage}")
    assert done.code == 0, done.err
    return done


def test_a_sweep_prints_one_json_line_that_names_winner_base_and_model(swept: Any) -> None:
    result = swept.result
    assert len(swept.out.strip().splitlines()) == 1
    assert result["state"] == "finished"
    assert (
        result["trials"]["total"]
        == 3
        == sum(result["trials"][state] for state in ("finished", "stopped", "failed"))
    )
    assert {
        key: set(value) if isinstance(value, dict) else None for key, value in result.items()
    } == SCHEMA
    assert {*SCORES, "valid/exact_match", "valid/loss"} <= set(result["best"]["metrics"])
    assert {*SCORES} <= set(result["base"]["metrics"])
    for metrics in (result["best"]["metrics"], result["base"]["metrics"]):
        assert (
            metrics["test/exact_match_low"]
            <= metrics["test/exact_match"]
            <= metrics["test/exact_match_high"]
        )
    assert (
        result["best"]["metrics"]["test/exact_match"]
        > result["base"]["metrics"]["test/exact_match"]
    )
    assert result["model"]["alias"] == "champion"


def test_progress_is_plain_lines_without_chatter_or_tracebacks(swept: Any) -> None:
    assert "plan    lora-" in swept.err
    assert "valid/accuracy" in swept.err, "few labels that repeat: sweep.metric=auto takes it"
    for noise in ("Traceback", "Warning", "WARNING", "raylet", "\x1b["):
        assert noise not in swept.err


def test_every_trial_is_a_child_run_with_the_same_parameters_its_data_and_its_metrics(
    swept: Any, storage: Path
) -> None:
    with sqlite3.connect(storage / "mlflow.db") as database:
        children = database.execute(
            "select run_uuid from tags where key = 'mlflow.parentRunId'"
        ).fetchall()
        assert len(children) == 3
        keys = [
            set(database.execute("select key from params where run_uuid = ?", child).fetchall())
            for child in children
        ]
        assert keys[0] == keys[1] == keys[2]
        assert {("adapter.rank",), ("optim.lr",)} <= keys[0]
        assert (swept.result["best"]["run_id"],) in children
        for child in children:
            metrics = {
                key
                for (key,) in database.execute(
                    "select distinct key from metrics where run_uuid = ?", child
                )
            }
            assert {
                "train/loss",
                "valid/loss",
                "valid/exact_match",
                "train/tokens_per_second",
            } <= metrics
            twice = "select key, step from metrics where run_uuid = ? group by key, step having count(*) > 1"
            assert database.execute(twice, child).fetchall() == []
            inputs = database.execute(
                "select count(*) from inputs where destination_id = ?", child
            ).fetchone()[0]
            assert inputs == 3, "train, valid and test"


def test_the_version_says_what_it_was_made_of(swept: Any, storage: Path) -> None:
    model = swept.result["model"]
    with sqlite3.connect(storage / "mlflow.db") as database:
        tags = dict(
            database.execute(
                "select key, value from model_version_tags where name = ? and version = ?",
                (model["name"], model["version"]),
            ).fetchall()
        )
        logged = dict(
            database.execute("select key, value from metrics where key like 'data/%'").fetchall()
        )
    assert (tags["data.train.rows"], tags["data.synthetic_share"]) == ("240", "0.0000")
    assert tags["data.train.supervised_tokens"] == "480", "a letter and the end of the turn"
    assert tags["data.train.licence"] == "not stated beside its files"
    assert logged["data/rows_train"] == 240.0 and logged["data/synthetic_share"] == 0.0
    made_of = next(file.read_text() for file in storage.rglob("result.json"))
    assert tags["data.train.digest"] in made_of and '"synthetic_share": 0.0' in made_of


def test_plain_transformers_and_peft_reproduce_the_registered_predictions(
    swept: Any, storage: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    uri = f"sqlite:///{storage / 'mlflow.db'}"
    name = swept.result["model"]["name"]
    assert champion(storage, name) == swept.result["model"]["version"]
    # In a process of its own: setting MLflow's address here would reach every later test through
    # the environment.
    code = f"from mlflow.artifacts import download_artifacts; print(download_artifacts('models:/{name}@champion'))"
    fetched = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(fetched.stdout.splitlines()[-1])
    base, task = (json.loads((folder / name).read_text()) for name in ("base.json", "task.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base["path"], dtype=task["dtype"]), folder / "adapter"
    ).eval()
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        inputs = tokenizer(row["text"], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            given = model.generate(**inputs, **task["generate"])
        assert (
            tokenizer.decode(
                given[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            ).strip()
            == row["prediction"]
        )


def test_the_same_command_again_prints_the_same_result_at_once(
    command: Any, swept: Any, storage: Path
) -> None:
    began = time.monotonic()
    again = command(*SHORT_SWEEP, f"storage={storage}")
    assert time.monotonic() - began < 15
    assert again.code == 0
    assert again.result == swept.result
    assert "ray     starting" in swept.err and "ray     starting" not in again.err


def test_the_champion_answers_a_prompt(command: Any, swept: Any, storage: Path) -> None:
    answer = command(
        "job=predict",
        f"model_uri=models:/{swept.result['model']['name']}@champion",
        f"storage={storage}",
        "prompt=beta 7",
    )
    assert answer.code == 0, answer.err
    assert answer.result["answer"] == "B"


def test_a_prompt_may_have_any_punctuation_and_a_model_that_does_not_exist_is_one_line(
    swept: Any,
    storage: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    asked = ("job=predict", f"storage={storage}", "output=json")
    prompt = "gamma, {3}: \"x\" (y) = 'z' \\"
    assert main([*asked, f"model_uri={swept.result['model']['uri']}", f"prompt={prompt}"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == prompt
    assert main([*asked, "model_uri=models:/nosuch@champion", "prompt=x"]) == 2
    printed = capsys.readouterr()
    assert (
        printed.out == ""
        and printed.err.count("\n") == 1
        and "there is no model nosuch" in printed.err
    )


@pytest.mark.slow
def test_more_trials_repeat_nothing_and_a_second_command_on_the_store_stops(
    command: Any, swept: Any, storage: Path
) -> None:
    # A worker may be some steps ahead when its trial is paused, so a step can stand there twice
    # before; it must not stand there once more.
    before = Counter(
        (e["trial"], e["step"]) for e in journal(storage) if e["kind"] == "metrics" and e["trial"]
    )
    finished = {
        e["trial"] for e in journal(storage) if e["kind"] == "end" and e["state"] == "finished"
    }
    wider = command(
        *SHORT_SWEEP[:1], "sweep.num_trials=4", *SHORT_SWEEP[2:], f"storage={storage}", start=True
    )
    time.sleep(8)
    second = command(*SHORT_SWEEP, f"storage={storage}")
    assert second.code == 2
    assert "in use by process" in second.err
    out, err = wider.communicate(timeout=300)
    assert wider.returncode == 0, err
    assert json.loads(out)["sweep"] == swept.result["sweep"]
    assert json.loads(out)["trials"]["total"] == 4
    after = Counter(
        (e["trial"], e["step"]) for e in journal(storage) if e["kind"] == "metrics" and e["trial"]
    )
    assert finished
    assert all(after[key] == count for key, count in before.items() if key[0] in finished)


def test_stopped_trials_give_their_resources_back_while_the_sweep_runs(
    swept: Any, storage: Path
) -> None:
    # Three trials of one core each on two cores under halving: had the paused ones kept their
    # cores, the third could never have started.
    events = [e for e in journal(storage) if e["kind"] in ("trial", "report")]
    started = [e["trial"] for e in events if e["kind"] == "trial"]
    assert set(started) >= {1, 2, 3}
    states = {e["trial"]: e["state"] for e in journal(storage) if e["kind"] == "end"}
    assert "stopped" in states.values()


def test_another_confidence_judges_the_winner_again_and_trains_nothing(
    command: Any, swept: Any, storage: Path
) -> None:
    trained = [e for e in journal(storage) if e["kind"] == "metrics" and e["trial"]]
    again = command(*SHORT_SWEEP, f"storage={storage}", "job.confidence=0.5")
    assert again.code == 0, again.err
    assert "the winner is judged again" in again.err
    assert [e for e in journal(storage) if e["kind"] == "metrics" and e["trial"]] == trained
    assert again.result["model"] == swept.result["model"]
    narrow, wide = again.result["best"]["metrics"], swept.result["best"]["metrics"]
    assert narrow["test/exact_match"] == wide["test/exact_match"]
    assert (
        narrow["test/exact_match_low"] > wide["test/exact_match_low"]
        or wide["test/exact_match_low"] == 1
    )
    fewer = command(
        "+sweep=lora",
        "sweep.num_trials=2",
        *SHORT_SWEEP[2:],
        f"storage={storage}",
        "job.confidence=0.5",
    )
    assert "its result, of 3 trials, not the 2 asked for now" in fewer.err


def test_another_task_of_the_same_name_leaves_the_alias_and_says_so_before_it_trains(
    command: Any, swept: Any, storage: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"{'beta' if i % 2 else 'alpha'} {i}", "completion": "BA"[i % 2 == 0]}
        for i in range(300, 400)
    ]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    name, version = swept.result["model"]["name"], swept.result["model"]["version"]
    other = (
        "train.steps=1",
        f"storage={storage}",
        f"data.folder={tmp_path}",
        f"tracking.model={name}",
    )
    told = f"{name}: another task than that of the champion models:/{name}/{version}: the champion was chosen by other test rows and by another sweep.metric (valid/accuracy); it keeps"
    planned = command(*other, "dry_run=true")
    assert told in planned.result["plan"]["notes"][-1] + planned.err, planned.out
    done = command(*other)
    assert done.code == 0, done.err
    assert f"note    {told}" in done.err.partition("trial 1/1")[0], "said before it trains"
    assert done.result["model"] == {
        "name": name,
        "version": version + 1,
        "alias": None,
        "uri": f"models:/{name}/{version + 1}",
    }
    assert "tracking.same_task=true compares them all the same" in "\n".join(decided(storage))
    same = command(*other, "tracking.same_task=true")
    assert "note    " + told not in same.err and "the winner is judged again" in same.err
    assert any(
        "does not beat" in text and text.endswith("the champion was chosen by other test rows")
        for text in decided(storage)
    )
    assert champion(storage, name) == version
    with sqlite3.connect(storage / "mlflow.db") as database:
        marked = database.execute(
            "select count(distinct value) from model_version_tags where key = 'task' and name = ?",
            (name,),
        ).fetchone()
    assert marked == (2,), "each version carries its task's fingerprint"
