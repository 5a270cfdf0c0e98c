"""Each recipe of job=synthesize as a command, judges, and rows of conversations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data
from jobs.data.corpus import load_corpus
from orchestrator.cli import main
from orchestrator.commands import synthesis_report as report
from orchestrator.storage.file_lock import Lock
from tests.support.chat_server import ChatTeacher, asked, completion, rewritten, teaching
from tests.support.synthesis import from_server, home_like, read_rows, synthesize, write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_like(tmp_path_factory.mktemp("data") / "home")


def test_corrupted_copies_are_the_same_each_time_and_ask_nobody(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        settings = ("synthesis.recipe=corrupt", "synthesis.rows=40", "seed=4")
        assert synthesize(tmp_path / name, data, *settings) == 0
    told = capsys.readouterr().out
    first = (tmp_path / "one" / "train.jsonl").read_bytes()
    assert first == (tmp_path / "two" / "train.jsonl").read_bytes()
    rows = read_rows(tmp_path / "one" / "train.jsonl")
    kinds = {row["provenance"]["attributes"]["corruption"] for row in rows}
    assert len(rows) == 40 and kinds == {"typos", "abbreviations", "dictation"}
    assert {row["provenance"]["teacher"] for row in rows} == {"none"}
    assert "by rule, without a teacher" in told and "+data.sources.synthetic.path=" in told
    assert synthesize(tmp_path / "one", data, *settings, "synthesis.rows=41", "seed=5") == 2


def test_rows_that_were_changed_by_hand_are_not_written_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rows"
    settings = ("synthesis.recipe=corrupt", "synthesis.rows=6")
    assert synthesize(folder, data, *settings) == 0
    file = folder / "train.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    capsys.readouterr()
    assert synthesize(folder, data, *settings) == 2
    assert "was changed since it was written, and would be lost" in capsys.readouterr().err
    assert len(read_rows(file)) == 3
    file.unlink()
    assert synthesize(folder, data, *settings) == 0 and file.read_bytes() == whole


def test_a_folder_is_filled_by_one_command_at_a_time(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        if number == 1:
            lock = Lock(tmp_path / "rows" / ".synthesis" / ".lock")
            taken.append(lock.acquire())
        return rewritten(teacher, body, number)

    taken: list[bool] = []
    with teaching(again) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=2")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
        lock = Lock(tmp_path / "rows" / ".synthesis" / ".lock")
        assert taken == [False] and lock.acquire()
        capsys.readouterr()
        assert synthesize(tmp_path / "rows", data, *settings) == 2
        lock.release()
    assert "is being filled by another command" in capsys.readouterr().err


def test_replies_that_a_disk_has_changed_are_asked_for_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        settings = from_server(teacher.url, "synthesis.rows=4")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
        rows = (tmp_path / "rows" / "train.jsonl").read_bytes()
        (tmp_path / "rows" / "manifest.json").unlink()
        replies = tmp_path / "rows" / ".synthesis" / "replies.jsonl"
        lines = replies.read_text().splitlines()
        lines[1] = lines[1].replace("kindly", "rudely")
        lines[2] = lines[2][:-9]
        replies.write_text("\n".join(lines) + "\n")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
        assert len(teacher.bodies) == 6
    assert (tmp_path / "rows" / "train.jsonl").read_bytes() == rows
    assert "cannot be read; asked for again" in capsys.readouterr().err


def test_tokens_that_a_server_does_not_count_are_estimated_and_said_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def uncounted(teacher: ChatTeacher, body: dict[str, Any], number: int) -> Any:
        content = completion(rewritten(teacher, body, number))
        del content["usage"]
        return 200, content, {}

    with teaching(uncounted) as teacher:
        settings = from_server(teacher.url, "synthesis.rows=2")
        body = ("synthesis.teacher.body={max_tokens: null, top_p: 0.5}",)
        assert synthesize(tmp_path / "rows", data, *settings, *body) == 0
    told = capsys.readouterr().out
    read = sum(-(-len(asked(body)) // 4) for body in teacher.bodies)
    assert f"2 requests, about {read} tokens read" in told
    assert all(body["top_p"] == 0.5 and "max_tokens" not in body for body in teacher.bodies)


def test_rare_labels_get_rows(data: Path, tmp_path: Path) -> None:
    def writes(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        answer = json.loads(re.findall(r"exactly: (.*)", asked(body))[0])
        return f"would you stop the {answer['device']} that is in the {answer['room']} {number}"

    with teaching(writes) as teacher:
        settings = from_server(teacher.url, "synthesis.recipe=rare", "synthesis.rows=9")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
    intents = {
        json.loads(row["completion"])["intent"]
        for row in read_rows(tmp_path / "rows" / "train.jsonl")
    }
    assert intents == {"turn_off"}


def test_new_rows_with_answers_of_another_form_are_rejected(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def writes(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        intent = ("turn_on", "explode")[number % 2]
        answer = json.dumps({"intent": intent, "device": "fan", "room": "hall"})
        return f"Prompt: number {number} asks to start the fan in the hall\nAnswer: {answer}"

    with teaching(writes) as teacher:
        settings = from_server(teacher.url, "synthesis.recipe=new", "synthesis.rows=4")
        settings += ["synthesis.filters.diversity=0", "output=json"]
        assert synthesize(tmp_path / "rows", data, *settings) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["rejected"].keys() == {"schema"} and manifest["rows"] == 4
    assert "intent='explode' is no label" in manifest["examples"]["schema"]


def test_back_translation_makes_two_requests_for_a_row(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def translates(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        text = asked(body).splitlines()[-1]
        return f"wie {text}" if "Translate into" in asked(body) else f"kindly {text[4:]} now"

    with teaching(translates) as teacher:
        settings = from_server(teacher.url, "synthesis.recipe=back_translation", "synthesis.rows=5")
        assert synthesize(tmp_path / "rows", data, *settings, "output=json") == 0
    assert json.loads(capsys.readouterr().out)["cost"]["requests"] == 10 == len(teacher.bodies)
    rows = read_rows(tmp_path / "rows" / "train.jsonl")
    assert all(row["prompt"].startswith("kindly please") for row in rows)
    assert {row["provenance"]["attributes"]["language"] for row in rows} <= {
        "German",
        "French",
        "Spanish",
        "Italian",
    }


def test_questions_come_from_a_folder_of_documents(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    for n in range(6):
        (documents / f"{n}.txt").write_text(
            f"Bridge {n} was built in {1800 + n} by the town of Ork{n}ney."
        )
    (documents / "table.pdf").write_bytes(b"%PDF")

    def writes(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        n = re.findall(r"Bridge (\d)", asked(body))[0]
        answer = f"in {1800 + int(n)}" if n != "3" else "nobody can say"
        return (
            f"Question: When was bridge number {n} finished at last, friend{n}?\nAnswer: {answer}"
        )

    with teaching(writes) as teacher:
        settings = from_server(teacher.url, "synthesis.recipe=questions", "synthesis.rows=5")
        settings += [f"synthesis.documents={documents}", "synthesis.tries=2", "output=json"]
        assert synthesize(tmp_path / "rows", data, *settings) == 0
    told = capsys.readouterr()
    manifest = json.loads(told.out)
    assert f"not read in {documents}: table.pdf" in told.err
    assert manifest["rows"] == 5 and set(manifest["rejected"]) >= {"values"}
    rows = read_rows(tmp_path / "rows" / "train.jsonl")
    assert {row["provenance"]["seed"] for row in rows} == {
        f"{n}.txt, passage 1" for n in (0, 1, 2, 4, 5)
    }
    assert all(row["completion"].startswith("in 18") for row in rows)


def test_a_judge_at_a_server_drops_rows_whose_answer_it_does_not_agree_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def judges(teacher: ChatTeacher, body: dict[str, Any], number: int) -> str:
        return ["Yes.", "no", "I could not say"][number % 3]

    with teaching() as teacher, teaching(judges) as judge:
        settings = from_server(teacher.url, "synthesis.rows=6", "synthesis.teacher.requests=1")
        settings += [f"synthesis.judge.url={judge.url}", "synthesis.judge.model=critic"]
        assert synthesize(tmp_path / "rows", data, *settings, "output=json") == 0
        assert "Is this the right answer" in asked(judge.bodies[0])
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["rejected"].keys() == {"judge", "judge unclear"}
    rows = read_rows(tmp_path / "rows" / "train.jsonl")
    assert len(rows) == 6 and {row["provenance"]["scores"]["judge"] for row in rows} == {1.0}


def test_rows_of_conversations_stay_conversations(tmp_path: Path) -> None:
    def chat(n: int) -> dict[str, Any]:
        words = ("red", "blue", "green")[n % 3]
        return {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "yes?"},
                {"role": "user", "content": f"what is the colour of {words} thing number {n}"},
                {"role": "assistant", "content": words},
            ]
        }

    data = tmp_path / "chats"
    data.mkdir()
    write_rows(data / "train.jsonl", [chat(n) for n in range(60)])
    with teaching() as teacher:
        settings = from_server(teacher.url, "synthesis.rows=5")
        assert synthesize(tmp_path / "rows", data, *settings) == 0
    rows = read_rows(tmp_path / "rows" / "train.jsonl")
    assert all(row.keys() == {"messages", "provenance"} for row in rows)
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant"]
        assert row["messages"][3]["content"].startswith("kindly tell me about what is the colour")
        assert row["messages"][4]["content"] in row["messages"][3]["content"]
    held_out = {}
    for split in ("valid", "test"):
        others = [{"prompt": f"{split} {n}?", "completion": "a"} for n in range(9)]
        held_out[split] = str(write_rows(tmp_path / f"{split}.jsonl", others))
    corpus = load_corpus(Data(name="x", folder=str(tmp_path / "rows"), **held_out))
    assert len(corpus.sources["train"]) == 5, "the folder is read as it is"


def test_synthetic_rows_and_sources_without_weight_are_no_seeds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(rewritten) as teacher:
        first = from_server(teacher.url, "synthesis.rows=5")
        assert synthesize(tmp_path / "first", data, *first) == 0
        source = f"+data.sources.made.path={tmp_path / 'first' / 'train.jsonl'}"
        again = from_server(teacher.url, "synthesis.rows=90", source, "synthesis.tries=1")
        capsys.readouterr()
        assert synthesize(tmp_path / "second", data, *again) == 0
    assert "5 training rows are no seeds: synthetic themselves" in capsys.readouterr().err
    seeds = {
        row["provenance"]["seed"].partition(":")[0]
        for row in read_rows(tmp_path / "second" / "train.jsonl")
    }
    assert seeds == {"train"}
    only = (source, "data.sources.train.weight=0", "synthesis.recipe=corrupt", "synthesis.rows=2")
    assert synthesize(tmp_path / "third", data, *only) == 2
    assert "no training row can be a seed: 5 synthetic themselves" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["synthesis.recipe=questions"],
            "synthesis.documents must be set|must be set for synthesis.recipe=questions",
        ),
        (
            ["synthesis.recipe=questions", "synthesis.documents=/no/such/folder"],
            "does not exist; name a folder",
        ),
        (["synthesis.teacher.url=ftp://x"], "must begin with http"),
        (
            ["synthesis.teacher.url=http://me:secret@x/v1", "synthesis.teacher.model=a"],
            "must not hold a name or a password",
        ),
        (["synthesis.teacher.url=http://x/v1"], "the model's name at the server"),
        (
            [
                "synthesis.teacher.url=http://x/v1",
                "synthesis.teacher.model=a",
                "synthesis.teacher.key=sk-abcdef123",
            ],
            "must be the name of an environment variable",
        ),
        (
            [
                "synthesis.teacher.url=http://x/v1",
                "synthesis.teacher.model=a",
                "synthesis.teacher.key=NO_SUCH_KEY_HERE",
            ],
            "variable NO_SUCH_KEY_HERE.*is not set",
        ),
        (["synthesis.teacher.temperature=0.7"], "a model on this machine has no such setting"),
        (
            ["synthesis.teacher.model=no-such-model"],
            "is neither one of .*smollm2-135m.*nor a folder",
        ),
        (["synthesis.rows=0"], "between 1 and"),
        (["synthesis.attributes.topic=[]"], "must be a list of texts"),
        (
            ["synthesis.recipe=corrupt", "synthesis.languages=[German]"],
            "has no effect: synthesis.recipe=corrupt does not look at it",
        ),
        (
            ["synthesis.label=colour", "synthesis.recipe=rare"],
            "synthesis.label=colour: no answer has a field",
        ),
        (["synthesis.filters.vocabulary=2"], "between 0 and 1"),
        (
            ["cluster=attached", "cluster.address=http://h:8265", "tracking.uri=http://m:5000"],
            "works where it is typed",
        ),
    ],
)
def test_settings_that_cannot_work_are_one_message(
    settings: list[str], words: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthesize(tmp_path / "rows", data, *settings) == 2
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert "Traceback" not in said and "sk-abcdef" not in said and "secret" not in said
    assert not (tmp_path / "rows" / "manifest.json").exists()


def test_settings_of_rows_are_refused_where_none_are_made(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.cli import main

    line = ["model=tiny", "data=files", f"data.folder={data}", "synthesis.rows=5", "dry_run=true"]
    assert main(line) == 2
    assert (
        "synthesis.rows   has no effect: job=train makes no rows; write job=synthesize"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["+experiment=translation", "job=synthesize"], ["+experiment=translation"]),
        (["data=icd10", "+sweep=mix", "seed=3"], ["data=icd10", "+sweep=mix"]),
        (["model=tiny", "synthesis.rows=4"], ["+sweep=lora", "model=tiny"]),
        (["+experiment=one"], ["--config-dir", "FOLDER", "+sweep=lora", "+experiment=one"]),
    ],
)
def test_the_next_command_trains_on_the_same_rows_with_one_sweep(
    tmp_path: Path, typed: list[str], kept: list[str]
) -> None:
    own = None
    if "FOLDER" in kept:
        own = str(tmp_path)
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "one.yaml").write_text("data: {folder: rows}\n")
        kept = [own if word == "FOLDER" else word for word in kept]
    assert report.same_rows(typed, own) == kept


def test_an_experiments_metric_is_no_remark_of_making_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["+experiment=translation", "job=synthesize", "synthesis.recipe=corrupt"]
    assert main([*typed, f"synthesis.folder={tmp_path / 'rows'}", "synthesis.rows=4"]) == 0
    told = capsys.readouterr()
    assert "sweep.metric" not in told.err + told.out
    assert "+experiment=translation" in told.out and "+sweep=lora" not in told.out
