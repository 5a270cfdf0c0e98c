"""A version that is shown neighbours answers in use as it was judged, with the rows that it
carries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.config import BaseModel, Data, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.neighbour_prompt import Neighbour
from jobs.data.readers import Row
from jobs.data.task_prompt import encode_asked_row, from_prompt
from jobs.data.tokenization import Example
from jobs.data.version_rows import rows_of_version
from jobs.evaluation.copying import copying
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.generate import answer
from jobs.evaluation.scored_rows import ScoredRow
from jobs.evaluation.scores import EvaluationSettings
from jobs.export.model_folder import export
from jobs.model.loading import pick_device, restore
from jobs.serving.chat_request import row_of
from jobs.serving.predict import LoadedVersion, predict
from orchestrator.tracking.serving_files import add_serving_files, requirements
from tests.support.neighbours import many_answers, with_neighbours
from tests.support.plain import make

RULE = EvaluationSettings(0.95, 3, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("neighbours")


@pytest.fixture(scope="module", autouse=True)
def own_cache(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def trial(folder: Path) -> Trial:
    plain = make(many_answers(folder / "rows") / "train.jsonl", max_length=256)
    return with_neighbours(plain, 4)


@pytest.fixture(scope="module")
def scores(trial: Trial, base: BaseModel) -> Any:
    return evaluate_on_test(trial, base, None, RULE)


@pytest.fixture(scope="module")
def version(trial: Trial, base: BaseModel, scores: Any, folder: Path) -> Path:
    export(trial, base, Path(base.path), scores, folder / "version", licence="CC0 (LICENSE)")
    add_serving_files(folder / "version")
    return folder / "version"


def predictions(version: Path) -> list[dict[str, Any]]:
    lines = (version / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def question(row: Any) -> str:
    return str(row.context[-1]["content"]).removeprefix("Which letter?\n")


def test_a_question_in_use_is_shown_what_the_test_row_was_shown(
    trial: Trial, base: BaseModel, version: Path
) -> None:
    told, rows = predictions(version), load_corpus(trial.data).test
    task = json.loads((version / "task.json").read_text(encoding="utf-8"))
    carried, template = rows_of_version(version, task), ChatTokenizer(base.path)
    assert carried is not None and all(line["text"].count(" -> L") == 4 for line in told)
    for row, line in zip(rows, told, strict=True):
        shown = carried.shown(from_prompt(question(row), task))
        assert encode_asked_row(shown, task, template).ids == template.encode(line["text"])
        assert predict(base, version, question(row)) == line["prediction"]
        typed = json.dumps([row.context[-1]])
        assert predict(base, version, None, typed) == line["prediction"]


def test_plain_generation_from_the_text_of_predictions_gives_the_same_answers(
    base: BaseModel, version: Path
) -> None:
    told, template = predictions(version), ChatTokenizer(base.path)
    model = restore(base, version / "model", "float32", pick_device())  # type: ignore[arg-type]
    prompts = [template.encode(line["text"]) for line in told]
    given = answer(model, prompts, template, 3, lambda rows: None)
    assert given == [line["prediction"] for line in told]


def test_a_version_carries_its_rows_with_digest_and_licence_and_no_pickle(
    trial: Trial, version: Path
) -> None:
    task = json.loads((version / "task.json").read_text(encoding="utf-8"))["neighbours"]
    content = (version / "neighbours.jsonl").read_bytes()
    assert task["sha256"] == hashlib.sha256(content).hexdigest()
    assert (task["count"], task["order"], task["licence"]) == (4, "nearest_last", "CC0 (LICENSE)")
    rows = [json.loads(line) for line in content.decode().splitlines()]
    assert task["rows"] == len(rows) > 20
    asked = {question(row) for row in load_corpus(trial.data).test}
    assert all(set(row) == {"question", "answer"} for row in rows)
    assert not asked & {row["question"] for row in rows}
    assert "neighbours.jsonl" in (version / "SHA256SUMS").read_text(encoding="utf-8")
    assert not [f for f in version.rglob("*") if f.suffix in (".pkl", ".pickle", ".joblib", ".npz")]


def test_the_chat_interface_shows_them_too(trial: Trial, base: BaseModel, version: Path) -> None:
    loaded = LoadedVersion(base, version)
    for row, line in zip(load_corpus(trial.data).test[:3], predictions(version), strict=False):
        asked = row_of({"input": question(row)}, loaded.task)
        assert loaded.answer(asked) == line["prediction"]


def test_scikit_learn_is_required_where_neighbours_are_shown_and_nowhere_else(
    version: Path, trial: Trial, base: BaseModel, tmp_path: Path
) -> None:
    assert "scikit-learn==" in (version / "requirements.txt").read_text(encoding="utf-8")
    plain = with_neighbours(trial, 0)
    export(plain, base, Path(base.path), evaluate_on_test(plain, base, None, RULE), tmp_path / "v")
    add_serving_files(tmp_path / "v")
    assert "scikit" not in (tmp_path / "v" / "requirements.txt").read_text(encoding="utf-8")
    assert requirements("hub") == (tmp_path / "v" / "requirements.txt").read_text(encoding="utf-8")
    assert not (tmp_path / "v" / "neighbours.jsonl").exists()
    assert "neighbours" not in json.loads((tmp_path / "v" / "task.json").read_text("utf-8"))


def test_each_version_is_judged_as_it_was_trained_whatever_the_sweep_shows(
    trial: Trial, base: BaseModel, version: Path, scores: Any, tmp_path: Path
) -> None:
    plain = with_neighbours(trial, 0)
    untouched = evaluate_on_test(plain, base, None, RULE)
    export(plain, base, Path(base.path), untouched, tmp_path / "plain")
    for asked, folder, expected in (
        (plain, version, scores),
        (trial, tmp_path / "plain", untouched),
        (trial, version, scores),
    ):
        rule = dataclasses.replace(RULE, version=str(folder))
        judged = evaluate_on_test(asked, base, str(folder / "model"), rule)
        assert [row["text"] for row in judged.predictions] == [
            row["text"] for row in expected.predictions
        ]
        assert judged.value == expected.value


def test_a_champions_rows_do_not_show_it_the_answers_of_other_test_rows(
    trial: Trial, base: BaseModel, version: Path, tmp_path: Path
) -> None:
    rows = load_corpus(trial.data).sources["train"]
    lines = [{"prompt": question(row), "completion": row.answer} for row in rows]
    for name, some in (("train", lines[20:]), ("valid", lines[8:20]), ("test", lines[:8])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in some), encoding="utf-8")
    data = Data(name="toy", folder=str(tmp_path), instruction="Which letter?")
    other = dataclasses.replace(trial, data=data)
    rule = dataclasses.replace(RULE, version=str(version))
    for line, row in zip(
        evaluate_on_test(other, base, str(version / "model"), rule).predictions, lines, strict=False
    ):
        assert line["text"].count(f"{row['prompt']}") == 1, "the question alone"


def test_nor_where_something_stands_before_the_same_question(version: Path) -> None:
    task = json.loads((version / "task.json").read_text(encoding="utf-8"))
    carried = rows_of_version(version, task)
    assert carried is not None
    first = carried.index.rows[0]
    asked = {"role": "user", "content": first.messages[0]["content"]}
    system = {"role": "system", "content": "Answer with a letter."}
    row = Row((system, asked, first.messages[1]), json.dumps([system, asked]), "here")
    (shown,) = carried.all_shown([row], left_out=True)
    assert asked["content"] not in [one.question for one in shown.neighbours]
    assert asked["content"] in [one.question for one in carried.shown(row).neighbours]


def test_a_version_is_judged_with_its_own_instruction_and_longest_prompt(
    trial: Trial, base: BaseModel, version: Path, scores: Any
) -> None:
    data = dataclasses.replace(trial.data, instruction="Say something else:")
    train = dataclasses.replace(trial.train, max_length=40)
    other = with_neighbours(dataclasses.replace(trial, data=data, train=train), 0)
    rule = dataclasses.replace(RULE, version=str(version))
    judged = evaluate_on_test(other, base, str(version / "model"), rule)
    assert [row["text"] for row in judged.predictions] == [
        row["text"] for row in scores.predictions
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.splitlines()[0] + "\n", "SHA-256 differs"),
        (lambda text: "", "SHA-256 differs"),
    ],
)
def test_rows_that_are_not_what_was_written_are_refused(
    version: Path, tmp_path: Path, change: Any, reason: str
) -> None:
    broken = Path(shutil.copytree(version, tmp_path / "broken"))
    file = broken / "neighbours.jsonl"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    task = json.loads((broken / "task.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=rf"neighbours\.jsonl.*{reason}.*fetch the version"):
        rows_of_version(broken, task)
    del task["neighbours"]["file"]
    with pytest.raises(ValueError, match="'file' is missing"):
        rows_of_version(broken, task)


def test_rows_that_are_gone_or_of_another_form_are_told_in_one_line(
    version: Path, base: BaseModel, tmp_path: Path
) -> None:
    shutil.copytree(version, tmp_path / "gone")
    (tmp_path / "gone" / "neighbours.jsonl").unlink()
    with pytest.raises(ValueError, match=r"neighbours\.jsonl.*fetch the version again"):
        predict(base, tmp_path / "gone", "a?")
    shutil.copytree(version, tmp_path / "newer")
    task = json.loads((version / "task.json").read_text(encoding="utf-8"))
    task["neighbours"]["form"] = 99
    (tmp_path / "newer" / "task.json").write_text(json.dumps(task), encoding="utf-8")
    with pytest.raises(ValueError, match="in the form 99, and this program knows 1"):
        predict(base, tmp_path / "newer", "a?")


def test_what_the_model_adds_over_copying_is_counted() -> None:
    def asked(*answers: str) -> tuple[Row, Example]:
        shown = tuple(Neighbour("q", text, rank) for rank, text in enumerate(answers))[::-1]
        messages = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
        room = min(len(shown), 3)
        row = Row(messages, "q", "here", neighbours=shown)
        return row, Example([1], 1, "q", "a", num_neighbours=room)

    pairs = [asked("A", "B", "C"), asked("A", "B"), asked("B", "A"), asked("B", "C", "D", "A")]
    pairs.append(asked())
    answers = [("A", "a"), ("B", "A"), ("A", "A"), ("A", "B"), ("A", "A")]
    rows = [ScoredRow("q", reference, said) for reference, said in answers]
    told = copying([row for row, _ in pairs], [example for _, example in pairs], rows)
    assert told == {
        "neighbours_shown": pytest.approx(10 / 5),
        "neighbours_hold": 3 / 5,  # there was no room for the fourth of the fourth row
        "neighbours_nearest": 1 / 5,
        "neighbours_copied": 3 / 5,
        "neighbours_further_rows": 2,
        "neighbours_further": 1 / 2,
    }
    assert copying([asked()[0]], [asked()[1]], rows[:1]) == {}


def test_the_pyfunc_agent_answers_alike(trial: Trial, version: Path) -> None:
    from mlflow.types.responses import ResponsesAgentRequest

    from jobs.serving.responses_agent import Agent

    agent = Agent()
    agent.load_context(SimpleNamespace(artifacts={"version": str(version)}))
    row, line = load_corpus(trial.data).test[0], predictions(version)[0]
    request: Any = {"input": [{"role": "user", "content": question(row)}]}
    response = agent.predict(ResponsesAgentRequest(**request))
    assert response.output[0].content[0]["text"] == line["prediction"]  # type: ignore[index]
