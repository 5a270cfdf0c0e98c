"""What the plan says of neighbours in the prompt, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main
from orchestrator.config.compose import compose
from orchestrator.plan import planner
from orchestrator.plan.planner import Plan
from tests.support.embedding import save_embedding
from tests.support.neighbours import many_answers
from tests.support.settings import build


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return many_answers(tmp_path / "rows")


@pytest.fixture
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    return cache


def settings(rows: Path, *more: str) -> list[str]:
    return ["model=tiny", "data=files", f"data.folder={rows}", "dry_run=true", *more]


def plan(rows: Path, *more: str) -> Plan:
    return planner.make(build(compose(settings(rows, *more), None)))


def test_the_plan_shows_an_example_its_cost_and_how_often_the_answer_is_there(
    rows: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings(rows, "data.neighbours.count=3")) == 0
    told = capsys.readouterr().out
    lines = [line for line in told.splitlines() if line.startswith("shown")]
    assert "3 neighbours before each question, of 48 training rows, each with another" in lines[0]
    assert "more tokens a prompt" in lines[0]
    assert "on 6 validation rows the right answer is the nearest one's in " in lines[1]
    assert " among 3" in lines[1]
    example = told[told.index("example") :]
    assert example.count(" -> L") == 3
    assert "carry loss" in example


def test_without_neighbours_the_plan_is_as_before(
    rows: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings(rows)) == 0
    told = capsys.readouterr().out
    assert "neighbour" not in told
    assert plan(rows).neighbours is None
    assert plan(rows).name == plan(rows, "data.neighbours.count=0").name
    assert plan(rows).name != plan(rows, "data.neighbours.count=2").name


def test_neighbours_are_another_sweep_of_the_same_task(rows: Path, own_cache: Path) -> None:
    plain, shown = plan(rows), plan(rows, "data.neighbours.count=3")
    first = plan(rows, "data.neighbours.count=3", "data.neighbours.order=nearest_first")
    assert len({plain.name, shown.name, first.name}) == 3
    assert plain.task == shown.task == first.task
    assert plain.config.tracking.experiment == shown.config.tracking.experiment


def test_a_searched_count_is_planned_for_each_and_its_trials_share_a_pack(
    rows: Path, own_cache: Path
) -> None:
    space = "{shown: {path: data.neighbours.count, type: choice, values: [0, 2, 4]}}"
    found = plan(rows, f"sweep.space={space}", "sweep.num_trials=3", "sweep.search=grid")
    assert found.neighbours is not None and found.neighbours.counts == (0, 2, 4)
    assert set(found.neighbours.hold) == {2, 4}
    assert {trial.data.neighbours.count for trial in found.trials} == {0, 2, 4}
    assert found.resources.packs == 1
    assert not [note for note in found.notes if "compute the same" in note]
    record = found.neighbours.record()
    assert json.loads(json.dumps(record)) == record


def test_a_range_of_counts_is_planned_by_its_ends_and_its_middle(
    rows: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "{shown: {path: data.neighbours.count, type: randint, low: 0, high: 6}}"
    more = [f"sweep.space={space}", "sweep.num_trials=4", "data.neighbours.order=shuffled"]
    found = plan(rows, *more)
    assert found.neighbours is not None and found.neighbours.counts == tuple(range(7))
    assert set(found.neighbours.hold) == {3, 6}
    assert main(settings(rows, *more)) == 0
    assert "shown   0 to 6 neighbours before each question" in capsys.readouterr().out


def test_neighbours_without_room_are_told(rows: Path, own_cache: Path) -> None:
    notes = plan(rows, "data.neighbours.count=6", "train.max_length=80").notes
    (note,) = [note for note in notes if note.startswith("neighbours: ")]
    assert "show fewer than 6: the farthest are left out where train.max_length=80" in note


def test_neighbours_of_which_none_can_stand_are_refused(
    rows: Path, own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings(rows, "data.neighbours.count=4", "train.max_length=40")) == 2
    said = capsys.readouterr().err
    assert "none has room in train.max_length=40 beside the question" in said
    apart = tmp_path / "apart"
    apart.mkdir()
    for split, letters in (("train", "abcdefgh"), ("valid", "ijkl"), ("test", "mnop")):
        lines = [{"prompt": 4 * letter, "completion": letter.upper()} for letter in letters]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (apart / f"{split}.jsonl").write_text(text, encoding="utf-8")
    space = "{shown: {path: data.neighbours.count, type: choice, values: [0, 2, 4]}}"
    for more in (["data.neighbours.count=4"], [f"sweep.space={space}", "sweep.num_trials=2"]):
        assert main(settings(apart, *more)) == 2
        said = capsys.readouterr().err
        assert "data.neighbours.count=4: none would stand before any of 12 rows" in said
        assert "set data.neighbours.count=0" in said


def free_text(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [{"prompt": f"say {n}", "completion": f"it is {n} times"} for n in range(40)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


SPACE = "{shown: {path: data.neighbours.count, type: choice, values: [0, VALUE]}}"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["data.neighbours.count=-1"], ["data.neighbours.count", "between 0 and 32, got -1"]),
        (["data.neighbours.count=33"], ["between 0 and 32, got 33"]),
        (["data.neighbours.count=2.5"], ["data.neighbours.count", "must be a whole number"]),
        (["data.neighbours=3"], ["data.neighbours", "must be a group of settings"]),
        (["data.neighbours.cuont=3"], ["no such setting", "did you mean data.neighbours.count?"]),
        (["data.neighbours.count=21"], ["is 21", "20 different answers", "set it to 20 or less"]),
        (
            ["data.neighbours.count=3", "data.neighbours.order=last"],
            ["data.neighbours.order", "not one of nearest_last, nearest_first, shuffled"],
        ),
        (
            ["data.neighbours.order=nearest_last"],
            ["data.neighbours.order", "has no effect: data.neighbours.count=0 leaves nothing"],
        ),
        (
            ["data.neighbours.count=1", "data.neighbours.order=nearest_last"],
            ["has no effect: data.neighbours.count=1 leaves nothing to order"],
        ),
        ([f"sweep.space={SPACE.replace('VALUE', '40')}"], ["sweep.space.shown", "got 40"]),
        (
            [f"sweep.space={SPACE.replace('VALUE', '25')}"],
            ["sweep.space.shown", "is 25", "20 different answers"],
        ),
        (
            [
                "sweep.space={o: {path: data.neighbours.order, type: choice, values: [nearest_last]}}"
            ],
            ["data.neighbours.order cannot be searched"],
        ),
    ],
)
def test_neighbours_that_cannot_be_are_refused_with_the_remedy(
    given: list[str],
    told: list[str],
    rows: Path,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(settings(rows, *given)) == 2
    said = capsys.readouterr().err
    assert all(text in said for text in told), said
    assert "Traceback" not in said


def test_free_text_is_shown_its_nearest_rows_too(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = free_text(tmp_path / "free")
    shown = plan(folder, "data.neighbours.count=3").neighbours
    assert shown is not None and shown.counts == (3,) and shown.mean_shown > 2
    assert main(settings(folder, "data.neighbours.count=3")) == 0
    assert "shown   3 neighbours before each question" in capsys.readouterr().out


def test_calls_of_functions_are_no_text_to_show(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "on", "arguments": {"lamp": 1}}}
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"light number {n}"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
        }
        for n in range(40)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    assert main(settings(tmp_path, "data.neighbours.count=3")) == 2
    said = capsys.readouterr().err
    assert "data.neighbours.count   is 3, but answers call functions, which no neighbour" in said


def test_few_layers_are_told_where_neighbours_are_to_be_chosen_among(
    rows: Path, own_cache: Path
) -> None:
    def told(*more: str) -> bool:
        made = plan(rows, "data.neighbours.count=3", *more)
        return any("adapter.layers=0.5" in note for note in made.notes)

    assert told("adapter.layers=0.2")
    assert not told()
    assert not told("adapter=full")
    searched = "+sweep.space.layers={path: adapter.layers, type: grid, values: [0.2, 1]}"
    assert not told("adapter.layers=0.2", searched)


def test_an_embedding_model_is_named_by_the_plan_and_makes_another_sweep(
    rows: Path, own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = fetch.prepare(Model(name="tiny", source="tiny"), own_cache)
    model = save_embedding(base, tmp_path / "letters")
    with_count = "data.neighbours.count=3"
    assert main(settings(rows, with_count, f"data.neighbours.embedding={model}")) == 0
    told = capsys.readouterr().out
    assert "each with another answer, by letters · about" in told
    by_letters = plan(rows, with_count).name
    by_meaning = plan(rows, with_count, f"data.neighbours.embedding={model}").name
    moved = model.rename(tmp_path / "elsewhere")
    assert by_letters != by_meaning
    assert plan(rows, with_count, f"data.neighbours.embedding={moved}").name == by_meaning


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            ["data.neighbours.embedding=nowhere"],
            "data.neighbours.count=0 leaves nothing to look up",
        ),
        (["data.neighbours.embedding=''", "data.neighbours.count=3"], "names no folder"),
        (
            ["data.neighbours.embedding=nowhere", "data.neighbours.count=3"],
            "nowhere is no folder; name one with an embedding model, or hf://ORG/NAME of the hub",
        ),
    ],
)
def test_an_embedding_that_cannot_be_used_is_refused(
    rows: Path, own_cache: Path, capsys: pytest.CaptureFixture[str], more: list[str], reason: str
) -> None:
    assert main(settings(rows, *more)) == 2
    told = capsys.readouterr()
    assert reason in told.err + told.out
    assert "Traceback" not in told.err
