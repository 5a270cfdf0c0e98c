"""What travels to a cluster, what is said of it, and what the machines of a cluster must share."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator import project as orchestrator_project
from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError, InputError
from orchestrator.job_environment import MARK
from orchestrator.output.log_relay import Relay
from orchestrator.plan.resources import Node, describe, divide
from orchestrator.project import ROOT
from orchestrator.remote import code_archive
from orchestrator.remote.submission import Submission, remote_arguments
from orchestrator.storage import sent_files, staging
from tests.support.settings import build


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small repository with a tracked, a changed, an ignored and an untracked file."""
    root = tmp_path / "project"
    (root / "jobs").mkdir(parents=True)
    (root / ".gitignore").write_text("*.log\n")
    (root / "jobs" / "a.py").write_text("first = 1\n")
    for line in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(root), *line], check=True)
    (root / "jobs" / "a.py").write_text("second = 2\n")
    (root / "jobs" / "b.py").write_text("new = 3\n")
    (root / "jobs" / "c.log").write_text("ignored")
    return root


def test_what_git_tracks_travels_as_it_is_now_and_what_stays_is_named(
    project: Path, tmp_path: Path
) -> None:
    assert code_archive.pack(tmp_path / "code.zip", {}, project) == {}
    with zipfile.ZipFile(tmp_path / "code.zip") as made:
        assert sorted(made.namelist()) == [".gitignore", "jobs/a.py"]
        assert made.read("jobs/a.py") == b"second = 2\n"
    assert code_archive.untracked(project) == ["jobs/b.py"]


def test_the_same_files_make_the_same_bytes(project: Path, tmp_path: Path) -> None:
    code_archive.pack(tmp_path / "one.zip", {}, project)
    os.utime(project / "jobs" / "a.py", (1, 1))
    code_archive.pack(tmp_path / "two.zip", {}, project)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_the_users_data_travels_and_its_settings_point_at_the_new_place(
    project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("{}\n")
    single = tmp_path / "more.jsonl"
    single.write_text("[]\n")
    named = {
        "data.folder": str(folder),
        "data.sources.mine.path": str(single),
        "data.test": "/no/such",
    }
    named = code_archive.local(named, tmp_path / "storage", [], project)
    assert named == {"data.folder": folder, "data.sources.mine.path": single}
    places = code_archive.pack(tmp_path / "code.zip", named, project)
    with zipfile.ZipFile(tmp_path / "code.zip") as made:
        assert made.read(f"{places['data.folder']}/train.jsonl") == b"{}\n"
        assert made.read(places["data.sources.mine.path"]) == b"[]\n"


def test_what_is_hidden_or_linked_from_elsewhere_stays_on_this_machine(
    project: Path, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    (folder / ".git").mkdir(parents=True)
    (elsewhere / "train").mkdir(parents=True)
    for file in (folder / ".env", folder / ".git" / "config", elsewhere / "keys.txt"):
        file.write_text("canary4711")
    (folder / "valid.jsonl").write_text("{}\n")
    (elsewhere / "rows.jsonl").write_text("[]\n")
    (elsewhere / "train" / "part-1.jsonl").write_text("[]\n")
    (elsewhere / "train" / "keys.txt").write_text("canary4711")
    (folder / "link.txt").symlink_to("../elsewhere/keys.txt")
    (folder / "test.jsonl").symlink_to("../elsewhere/rows.jsonl")
    (folder / "train").symlink_to("../elsewhere/train")
    (folder / "around").symlink_to(folder)
    wanted = ["test.jsonl", "train/part-1.jsonl", "valid.jsonl"]
    places = code_archive.pack(tmp_path / "code.zip", {"data.folder": folder}, project)
    with zipfile.ZipFile(tmp_path / "code.zip") as made:
        names = [name for name in made.namelist() if name.startswith("shipped/")]
    assert names == [f"{places['data.folder']}/{name}" for name in wanted]
    copy = staging.copied(folder, tmp_path / "storage")
    files = [str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()]
    assert sorted(files) == wanted


def test_a_base_model_in_the_hubs_cache_travels_with_all_that_its_links_name(
    tmp_path: Path,
) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("merges.txt", "model.safetensors"):
        (blobs / name).write_text("x")
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert [file.name for file in sent_files.files_of(snapshot)] == [
        "merges.txt",
        "model.safetensors",
    ]


def test_inside_the_project_what_git_does_not_track_travels_and_what_it_tracks_has_a_new_place(
    project: Path, tmp_path: Path
) -> None:
    tracked, new, kept = (
        str(project / "jobs" / "a.py"),
        str(project / "jobs"),
        str(tmp_path / "storage" / "x"),
    )
    os.makedirs(kept)
    named = {"data.valid": tracked, "data.folder": new, "data.test": kept}
    assert code_archive.local(named, tmp_path / "storage", [], project) == {
        "data.folder": Path(new)
    }
    typed = ["data=files", f"+data.valid={tracked}", f"data.test={kept}"]
    places = code_archive.pack(
        tmp_path / "code.zip",
        code_archive.local(named, tmp_path / "storage", typed, project),
        project,
    )
    assert places["data.valid"] == "jobs/a.py"
    with zipfile.ZipFile(tmp_path / "code.zip") as made:
        assert made.read(f"{places['data.folder']}/b.py") == b"new = 3\n"


def test_too_much_is_refused_with_the_largest_files(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_archive, "LIMIT_BYTES", 2 * 2**20)
    (tmp_path / "large.jsonl").write_bytes(os.urandom(9 * 2**20))
    with pytest.raises(
        InputError,
        match=r"9 MiB of code, data and models do not pack into the 2 MiB .*large.jsonl 9 MiB, .*code=image",
    ):
        code_archive.pack(tmp_path / "code.zip", {"data.folder": tmp_path / "large.jsonl"}, project)
    assert (tmp_path / "code.zip").stat().st_size < 4 * 2**20, "it stops where the limit is"


def test_a_file_that_cannot_be_sent_is_named(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "good.txt").write_text("good")
    (folder / "gone").symlink_to("/no/such/file")
    assert set(code_archive.pack(tmp_path / "a.zip", {"model.path": folder}, project)) == {
        "model.path"
    }
    (folder / "model.safetensors").symlink_to("/proc/self/mem")  # there, and not to be read
    with pytest.raises(InputError, match="model.safetensors cannot be sent: Input/output error"):
        code_archive.pack(tmp_path / "a.zip", {"model.path": folder}, project)
    (folder / "model.safetensors").unlink()
    Path(os.fsdecode(os.fsencode(folder) + b"/b\xff.txt")).write_text("bad")
    with pytest.raises(
        InputError, match=r"b.udcff.txt' cannot be sent: its name is no UTF-8; rename it"
    ):
        code_archive.pack(tmp_path / "a.zip", {"model.path": folder}, project)


def test_what_runs_there_is_the_same_command_in_the_cluster_that_it_finds() -> None:
    typed = [
        "+sweep=lora",
        "cluster=kuberay",
        "cluster.image=x",
        "++cluster.workers=3",
        "dry_run=true",
        "prompt=it's $5",
        "output=json",
    ]
    arguments = remote_arguments(typed, dry_run=False)
    assert arguments == [
        "+sweep=lora",
        "prompt=it's $5",
        "output=json",
        "cluster=attached",
        "cluster.address=auto",
    ]
    sent = Submission("lora-1", arguments, "")
    assert sent.command(arguments).endswith(
        "'prompt=it'\"'\"'s $5' output=json cluster=attached cluster.address=auto"
    )
    assert Submission("lora-1", [a for a in arguments if a != "output=json"], "x").key == sent.key
    assert Submission("lora-1", [*arguments, "seed=2"], "").key != sent.key


def test_a_deadline_is_the_same_moment_over_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        typed = ["budget.deadline=2026-12-01T08:00", "++budget.deadline='2026-12-01'"]
        typed += ["budget.deadline=2026-12-01T08:00Z", "budget.deadline=soon", "budget.minutes=5"]
        arguments = remote_arguments(typed, dry_run=False)
        of_file = remote_arguments(["+experiment=one"], False, "2026-12-01T08:00")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert arguments[:5] == [
        "budget.deadline=2026-12-01T08:00:00+05:30",
        "++budget.deadline=2026-12-01T00:00:00+05:30",
        *typed[2:],
    ]
    assert of_file[:2] == ["+experiment=one", "budget.deadline=2026-12-01T08:00:00+05:30"]
    raw = compose(of_file[1:2], None)
    assert raw["budget"]["deadline"] == "2026-12-01T08:00:00+05:30"


def test_a_log_told_again_from_its_beginning_is_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = f"Running entrypoint for job x: y\nplan a\ntrial 1\n{MARK}\nbest trial 1\nlast"
    relay = Relay()
    for cut in (9, 40, 55, len(log)):
        relay.restart()
        for start in range(0, cut, 7):
            relay.feed(log[start : min(start + 7, cut)])
    relay.close()
    out, err = capsys.readouterr()
    assert (out, err) == ("best trial 1\nlast\n", "plan a\ntrial 1\n")


def test_data_is_copied_into_the_storage_once_by_content(tmp_path: Path, toy: Path) -> None:
    config = build(
        compose(["model=tiny", "data=files", f"data.folder={toy}", f"storage={tmp_path}"], None)
    )
    shared = staging.stage_data(config)
    place = Path(str(shared.data.folder))
    assert (
        place.is_relative_to(tmp_path / "data")
        and (place / "train.jsonl").read_bytes() == (toy / "train.jsonl").read_bytes()
    )
    assert staging.stage_data(config).data.folder == shared.data.folder
    assert staging.stage_data(shared).data.folder == shared.data.folder
    assert len(list((tmp_path / "data").iterdir())) == 1


def test_a_base_model_that_came_along_is_kept_in_the_storage(
    tmp_path: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base.path, tmp_path / "code" / "shipped" / "mine")
    monkeypatch.setattr(orchestrator_project, "ROOT", tmp_path / "code")
    for path, moves in {
        str(tmp_path / "code" / "shipped" / "mine"): True,
        base.path: False,
    }.items():
        config = build(
            compose(["model=path", f"model.path={path}", f"storage={tmp_path / 'storage'}"], None)
        )
        shared = str(staging.stage_data(config).model.path)
        assert (
            shared.startswith(str(tmp_path / "storage" / "data")) == moves
            and (Path(shared) / "config.json").is_file()
        )


def nodes(*sizes: tuple[int, int]) -> tuple[Node, ...]:
    return tuple(Node(cpus, gpus) for cpus, gpus in sizes)


SPREAD: list[tuple[tuple[Node, ...], list[str], str, tuple[int, int, int, float]]] = [
    # nodes, settings, executor -> packs, at once, cores and GPUs per worker
    (nodes((4, 0), (4, 0), (4, 0)), [], "pack", (3, 20, 4, 0)),
    (nodes((4, 0), (16, 0)), [], "pack", (2, 20, 8, 0)),
    (nodes((1, 0), (1, 0), (1, 0)), ["train.num_workers=3"], "pack", (1, 12, 1, 0)),
    (nodes((4, 0), (4, 0), (4, 0)), ["train.num_workers=2"], "pack", (3, 20, 2, 0)),
    (nodes((16, 4), (16, 4), (32, 0)), [], "pack", (8, 20, 4, 1)),
    (nodes((8, 1), (8, 1), (8, 1)), ["train.num_workers=3"], "plain", (0, 1, 8, 1)),
    (nodes((4, 0), (4, 0)), [], "plain", (0, 8, 1, 0)),
    (nodes((2, 0), (2, 0)), ["train.cpus_per_worker=2"], "plain", (0, 2, 2, 0)),
]


@pytest.mark.parametrize(("there", "settings", "executor", "expected"), SPREAD)
def test_work_is_spread_over_the_nodes(
    there: Any, settings: list[str], executor: Any, expected: tuple[float, ...]
) -> None:
    config = build(compose(["model=tiny", "+sweep=lora", "sweep.num_trials=20", *settings], None))
    found = divide(config, 20, there, executor)
    assert (found.packs, found.concurrent, found.cpus, found.gpus) == expected
    groups = (found.packs or found.concurrent) * found.workers
    assert sum(node.holds(found.cpus, found.gpus) for node in there) >= groups


def test_what_no_node_holds_is_refused_with_what_there_is() -> None:
    shared = [
        "cluster=attached",
        "cluster.address=auto",
        "storage=/tmp/x",
        "tracking.uri=http://h:5000",
    ]
    config = build(compose(["model=tiny", "train.cpus_per_worker=3", *shared], None))
    with pytest.raises(
        ConfigError,
        match="1 workers of 3 cores do not fit into 2 nodes of 2 CPU cores, 1 node of 1 CPU core",
    ):
        divide(config, 1, nodes((2, 0), (2, 0), (1, 0)))
    assert (
        describe(nodes((8, 2), (8, 2), (4, 0)))
        == "2 nodes of 8 CPU cores and 2 GPUs, 1 node of 4 CPU cores"
    )
    both = build(
        compose(["model=tiny", "train.gpus_per_worker=1", "train.num_workers=2", *shared], None)
    )
    with pytest.raises(
        ConfigError,
        match="1 for each of 2 workers is more than what this cluster has or may scale to: 1 node of 4 CPU cores",
    ):
        divide(both, 1, nodes((4, 1)))


def test_a_base_model_in_a_folder_is_named_as_the_nodes_will_see_it(tmp_path: Path) -> None:
    there = [
        "model=path",
        "cluster=attached",
        "cluster.address=auto",
        f"storage={tmp_path}",
        "tracking.uri=http://h:5000",
    ]
    for path, words in {
        str(tmp_path / "m"): "every node reads it from the storage",
        str(ROOT / "shipped" / "m"): "it comes with the code",
        "/home/me/m": "every node reads it there, so each must see it",
    }.items():
        config = build(compose([*there, f"model.path={path}"], None))
        assert staging.notes(config, None)[0] == f"base model at {path}: {words}"


def test_what_fits_a_pattern_travels_and_keeps_its_pattern(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    (rows / "deep").mkdir(parents=True)
    for name in ("part-1.jsonl", "deep/part-2.jsonl", "other.jsonl"):
        (rows / name).write_text('{"prompt": "a", "completion": "b"}\n')
    pattern = str(rows / "**" / "part-*.jsonl")
    named = {"data.folder": pattern, "data.test": str(rows / "none-*.jsonl")}
    data = code_archive.local(named, tmp_path / "storage", ["data.folder=x", "data.test=x"])
    assert data == {"data.folder": Path(pattern)}
    archive = tmp_path / "code.zip"
    there = code_archive.pack(archive, data)["data.folder"]
    assert there.startswith("shipped/") and there.endswith("/**/part-*.jsonl")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "there")
    found = (tmp_path / "there" / there.partition("/**")[0]).rglob("*.jsonl")
    assert sorted(file.name for file in found) == ["part-1.jsonl", "part-2.jsonl"]
