"""job=promote and job=rollback on a real registry: where the alias goes, who moved it and why, and
what cannot be done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.tracking.mlflow_store import MlflowStore
from tests.support.stores import SWEEP, append, carry, run_of, trial

NAME = "icd10-tiny"


@pytest.fixture
def registered(store: MlflowStore, tmp_path: Path) -> MlflowStore:
    """Three versions, of which the first is the champion."""
    append(tmp_path, SWEEP, trial(1))
    run_id = run_of(carry(tmp_path, store), 1)
    for number in (1, 2, 3):
        folder = tmp_path / f"version{number}"
        folder.mkdir()
        (folder / "weights").write_text(str(number))
        store.log_artifacts(run_id, folder, f"model/{number}")
        store.register(NAME, run_id, f"model/{number}", {"sweep": f"lora-{number}"}, "")
    store.set_champion(NAME, 1)
    return store


@pytest.fixture
def ask(registered: MlflowStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the registry; gives its code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"])
        return code, *capsys.readouterr()

    return run


def test_a_promoted_version_is_the_champion_and_tells_by_whom_and_why(
    ask: Any, registered: MlflowStore
) -> None:
    named = ("job.reason=it is kinder", "job.author=Ada")
    promote = ("job=promote", f"model_uri=models:/{NAME}/2", *named)
    code, out, err = ask(*promote, "output=json")
    assert code == 0, err
    told = json.loads(out)
    assert told["model"]["version"] == 2 and told["previous"] == f"models:/{NAME}/1"
    champion = registered.champion(NAME)
    assert champion is not None and champion.version == 2
    tags = champion.tags
    assert (tags["alias.reason"], tags["alias.author"]) == ("it is kinder", "Ada")
    assert (tags["alias.moved_by"], tags["alias.moved_from"]) == ("promote", f"models:/{NAME}/1")


def test_rolling_back_gives_the_alias_to_who_had_it_before_and_twice_undoes_itself(
    ask: Any, registered: MlflowStore
) -> None:
    assert ask("job=promote", f"model_uri=models:/{NAME}/3", "job.reason=newer")[0] == 0
    back = ("job=rollback", f"model_uri=models:/{NAME}@champion", "job.reason=complaints")
    code, out, err = ask(*back)
    assert code == 0, err
    assert f"models:/{NAME}/1 -> alias champion (it was at models:/{NAME}/3): complaints" in out
    champion = registered.champion(NAME)
    assert champion is not None and champion.version == 1
    assert ask(*back)[0] == 0
    again = registered.champion(NAME)
    assert again is not None and again.version == 3


def test_a_dry_run_moves_nothing(ask: Any, registered: MlflowStore) -> None:
    promote = ("job=promote", f"model_uri=models:/{NAME}/2", "job.reason=look")
    code, out, _ = ask(*promote, "dry_run=true")
    assert code == 0 and f"would give models:/{NAME}/2 the alias champion" in out
    champion = registered.champion(NAME)
    assert champion is not None and champion.version == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("job=promote", "model_uri=models:/icd10-tiny/9", "job.reason=x"), "versions 1, 2, 3"),
        (("job=promote", "model_uri=models:/other/1", "job.reason=x"), "models:/other/1"),
        (("job=promote", "model_uri=models:/icd10-tiny/1", "job.reason=x"), "champion already"),
        (("job=promote", "model_uri=models:/icd10-tiny/2"), "job.reason"),
        (("job=rollback", "model_uri=models:/icd10-tiny@champion"), "job.reason"),
        (
            ("job=rollback", "model_uri=models:/icd10-tiny@champion", "job.reason=x"),
            "no version has the alias previous",
        ),
        (("job=promote", "job.reason=x"), "model_uri"),
        (
            ("job=promote", "model_uri=models:/icd10-tiny/99999999999999999999", "job.reason=x"),
            "versions 1, 2, 3",
        ),
        (("job=promote", "model_uri=models:/icd10-tiny/0", "job.reason=x"), "versions 1, 2, 3"),
        (
            ("job=promote", "model_uri=models:/icd10-tiny@nobody", "job.reason=x"),
            "versions 1, 2, 3",
        ),
        (("job=promote", "model_uri=models:/icd10-tiny/2", "job.reason=   "), "job.reason"),
        (
            ("job=promote", "model_uri=models:/icd10-tiny/2", f"job.reason={'x' * 6000}"),
            "job.reason",
        ),
        (
            ("job=promote", "model_uri=models:/icd10-tiny/2", "job.reason=x", "job.author= "),
            "author",
        ),
        (("job=promote", "model_uri=runs:/abc/model", "job.reason=x"), "runs:/abc/model"),
    ],
)
def test_what_cannot_be_moved_is_told_and_nothing_moves(
    ask: Any, registered: MlflowStore, arguments: tuple[str, ...], told: str
) -> None:
    code, out, err = ask(*arguments)
    assert (code, out) == (2, ""), err
    assert told in err and "Traceback" not in err
    champion = registered.champion(NAME)
    assert champion is not None and champion.version == 1


def test_a_reason_may_have_any_letters_and_lines(ask: Any, registered: MlflowStore) -> None:
    reason = "plus doux \U0001f937\U0001f3fd, weiter so"
    code, _, err = ask("job=promote", f"model_uri=models:/{NAME}/2", f"job.reason={reason}")
    assert code == 0, err
    champion = registered.champion(NAME)
    assert champion is not None and champion.tags["alias.reason"] == reason
