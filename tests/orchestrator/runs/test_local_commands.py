"""runs report, compare and debug on sweeps of a storage, as a user calls them."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config import credentials
from orchestrator.config.compose import compose
from orchestrator.runs import cli, comparison
from orchestrator.storage import requests
from tests.support.in_process import runs_tool
from tests.support.journals import write_sweep

SECRET = "hunter2hunter2"
EMPTY = {"value": None, "low": None, "high": None}
TOKEN = "tok-0123456789abcdef0123456789"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "sweeps" / "first", 12)
    write_sweep(tmp_path / "sweeps" / "second", 12, best_lr=4e-3, seed=1)
    return tmp_path


@pytest.fixture
def tool(storage: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    return runs_tool(capsys, "--storage", str(storage))


def test_a_report_is_made_anew_from_the_folder_alone(tool: Any, storage: Path) -> None:
    code, out, _ = tool("report", "first", "--json")
    record = json.loads(out)
    assert code == 0 and record["report"] == str(storage / "sweeps/first/report.html")
    page = Path(record["report"]).read_text()
    assert "Trial" in page and {alert["kind"] for alert in record["alerts"]}
    assert tool("show", "first")[1].count("report.html") == 1


def test_the_alerts_stand_in_what_show_tells(tool: Any) -> None:
    record = json.loads(tool("show", "first", "--json")[1])
    assert {"kind", "level", "text", "command"} <= record["alerts"][0].keys()
    assert "warning: " in tool("show", "first")[1]


def test_two_sweeps_are_compared_by_settings_scores_and_rows(tool: Any, storage: Path) -> None:
    result = json.loads(tool("compare", "first", "second", "--json")[1])
    assert "winner: optim.lr" in result["settings"]
    assert all(entry["test"]["low"] < entry["test"]["value"] for entry in result["scores"])
    assert result["paired"] is None or result["paired"]["rows"] < 850
    shutil.copytree(storage / "sweeps/first", storage / "sweeps/third")
    same = json.loads(tool("compare", "first", "third", "--json")[1])
    assert same["settings"] == {} and same["paired"]["rows"] == 850
    assert same["paired"]["p_value"] == 1 and same["verdict"].startswith("tied")
    result_file = storage / "sweeps/third/result.json"
    told = json.loads(result_file.read_text())
    told["best"]["metrics"]["valid/exact_match"] = 0.123
    result_file.write_text(json.dumps(told))
    trained_again = json.loads(tool("compare", "first", "third", "--json")[1])
    assert trained_again["scores"][1]["valid"]["value"] == 0.123, "the winner's own"
    file = storage / "sweeps/third/export/predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    better = [row | {"prediction": row["reference"]} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in better))
    won = json.loads(tool("compare", "first", "third", "--json")[1])
    assert won["verdict"].startswith("third is better") and won["paired"]["only_first"] == 0
    assert "third is better" in tool("compare", "first", "third")[1]


@pytest.mark.parametrize(
    ("common", "said"), [(9, "on the same rows"), (4, "on rows that are not the same")]
)
@pytest.mark.parametrize("low", [1.0, 5.0])
def test_scores_that_are_no_shares_are_compared_by_intervals(
    common: int, said: str, low: float
) -> None:
    pair: Any = [
        SimpleNamespace(name=name, stem="chrf", metric="valid/chrf", maximise=True)
        for name in ("first", "second")
    ]
    tests = [
        {"metric": "chrf", "valid": EMPTY, "test": {"value": start + 1, "low": start, "high": 4.0}}
        for start in (1.0, low)
    ]
    paired = {"rows": common, "all_rows": [9, 9], "only_first": 1, "only_second": 2, "p_value": 1.0}
    result = {"sweeps": ["first", "second"], "scores": tests, "settings": {}, "paired": paired}
    told = comparison.verdict(pair, result)
    assert said in told and ("second is better" in told) == (low > 4)


def test_scores_of_different_metrics_stand_under_both_names() -> None:
    scores = [{"metric": name, "valid": EMPTY, "test": EMPTY} for name in ("chrf", "macro_f1")]
    told = comparison.text(
        {"sweeps": ["first", "second"], "scores": scores, "settings": {}, "verdict": ""}
    )
    assert "valid/chrf and macro_f1" in told and "test/chrf and macro_f1" in told


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (1, 9), (0, 20), (400, 460)])
def test_the_paired_test_is_scipys(first: int, second: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert comparison.mcnemar(first, second) == pytest.approx(expected, abs=1e-9)


def test_a_debug_archive_holds_what_helps_and_no_secret(
    tool: Any, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "SECRETS", set())
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    folder = storage / "sweeps/first"
    uri = f"postgresql://user:{SECRET}@db/mlflow"
    with (folder / "config.yaml").open("w") as stream:
        stream.write(f"tracking:\n  uri: {uri}\n")
    event = {
        "t": 1,
        "kind": "end",
        "trial": 3,
        "state": "failed",
        "error": f"401 for {TOKEN}; again {SECRET}",
    }
    with (folder / "journal.jsonl").open("a") as stream:
        stream.write(json.dumps(event) + "\n")
    code, out, _ = tool("debug", "first", "--json")
    record = json.loads(out)
    assert code == 0
    with tarfile.open(record["archive"]) as archive:
        texts = {m.name.split("/")[1]: archive.extractfile(m).read().decode() for m in archive}  # type: ignore[union-attr]
    assert {
        "versions.json",
        "config.yaml",
        "journal-end.jsonl",
        "sweep.json",
        "files.txt",
    } <= texts.keys()
    assert "ray" in json.loads(texts["versions.json"])["libraries"]
    whole = "\n".join(texts.values())
    assert SECRET not in whole and TOKEN not in whole and "***" in whole
    assert "<b>diagnosis</b>" not in whole


def test_a_debug_archive_holds_no_rows_and_no_prompts(tool: Any, storage: Path) -> None:
    folder = storage / "sweeps/first"
    row, told = "canary: my knee hurts", 'canary: answer as a "nurse"'
    other = "canary: answer as a doctor"
    space = {"how": {"path": "data.instruction", "type": "choice", "values": [told, other]}}
    settings: dict[str, Any] = {
        "data": {"name": "a", "instruction": told, "description": "canary: patients"}
    }
    settings["sweep"] = {"space": space}
    (folder / "config.yaml").write_text(json.dumps(settings))
    start = {"t": 1, "kind": "sweep", "name": "first", "notes": [f"train: 2 rows say {row!r}"]}
    start |= {"config": json.dumps(settings), "command": f"orchestrator 'data.instruction={told}'"}
    trial = {"t": 2, "kind": "trial", "trial": 90, "point": {"how": other}, "params": {}}
    with (folder / "journal.jsonl").open("a") as stream:
        stream.write(f"{json.dumps(start)}\n{json.dumps(trial)}\n")
        stream.write('{"t": 3, "kind": "sweep", "notes": ["canary torn')
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"command": start["command"]}))
    code, out, _ = tool("debug", "first", "--json")
    assert code == 0
    with tarfile.open(json.loads(out)["archive"]) as archive:
        texts = {m.name.split("/")[1]: archive.extractfile(m).read().decode() for m in archive}  # type: ignore[union-attr]
    assert [name for name, text in texts.items() if "canary" in text] == []
    assert "(left out)" in texts["config.yaml"] and '"trial": 90' in texts["journal-end.jsonl"]
    assert "(left out)" in texts["result.json"] and '"trial": 1' in texts["journal-end.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("drop", "first"), "drop takes the name of a sweep and the number of a trial"),
        (("drop", "first", "x"), "x is no number of a trial"),
        (("clone", "first", "3"), "what is to differ: clone NAME 3 optim.lr=0.001"),
        (("compare", "first"), "the names of two sweeps"),
        (("compare", "first", "first"), "compare takes two sweeps, got first twice"),
        (("report", "nobody"), "no sweep nobody; what it has: first, second"),
        (("drop", "first", "3"), "first has finished, so nothing of it can be changed"),
    ],
)
def test_bad_words_are_answered_with_the_remedy(
    tool: Any, words: tuple[str, ...], message: str
) -> None:
    code, out, err = tool(*words)
    assert (code, out) == (2, "") and message in err


def test_what_waits_already_is_not_asked_again(tool: Any, storage: Path) -> None:
    folder = write_sweep(storage / "sweeps" / "died", 8, judged=False)
    (folder / "config.yaml").write_text(
        json.dumps(compose(["+sweep=lora", "data=icd10", "model=tiny"], None))
    )
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text(
        "".join(line for line in lines if "sweep_end" not in line)
    )
    assert tool("drop", "died", "3")[0] == 0
    code, out, err = tool("drop", "died", "3")
    assert (code, out) == (2, "") and "dropping trial 3 is asked for already" in err
    assert tool("drop", "died", "4")[0] == 0
    assert tool("clone", "died", "1", "lr=0.0123")[0] == 0
    code, out, err = tool("clone", "died", "1", "optim.lr=0.0123")
    assert (code, out) == (2, "") and "exactly these settings is asked for already" in err
    assert tool("clone", "died", "1", "lr=0.0124")[0] == 0
    assert len(requests.waiting(str(folder))) == 4
    (folder / "config.yaml").unlink()
    code, out, err = tool("clone", "died", "1", "lr=0.0125")
    assert code == 2 and "config.yaml is not there" in err
    code, out, err = tool("drop", "died", "99")
    assert code == 2 and f"runs show died --storage {storage}" in err
    assert "drop NAME 3 ends one trial" in tool("stop", "died", "3")[2]


def test_what_needs_the_storage_says_so_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["report", "a", "--address", "http://127.0.0.1:9"])
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err
