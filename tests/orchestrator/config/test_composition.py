"""conf/: every choice composes and builds, alone and together with the sweeps and experiments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import jobs.config
from orchestrator.cli import main
from orchestrator.config import cluster, search_space, settings, simplex
from orchestrator.config.compose import ADDED, choices, compose
from orchestrator.config.dotted_paths import lookup
from orchestrator.config.fleet import build_fleet, is_fleet
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError
from tests.support.settings import build

CONF = Path(__file__).resolve().parents[3] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
SHARED = ("storage=/mnt/shared/outputs", "tracking.uri=http://mlflow:5000")
NEEDS = {
    "data=files": ["data.folder=x"],
    "sweep=mix": ["data=icd10"],
    "job=predict": ["model_uri=x", "prompt=y"],
    "job=export": ["model_uri=x"],
    "job=serve": ["model_uri=x"],
    "job=promote": ["model_uri=models:/a/1", "job.reason=x"],
    "job=rollback": ["model_uri=models:/a", "job.reason=x"],
    "model=hub": ["model.id=a/b"],
    "model=path": ["model.path=x"],
    "cluster=attached": ["cluster.address=http://head:8265", *SHARED],
    "cluster=kuberay": [
        "cluster.namespace=a",
        f"cluster.image=registry.example.com/b@sha256:{'0' * 64}",
        "cluster.claim=c",
        *SHARED,
    ],
}
"""What a choice leaves to the user."""
MIXES = ("+sweep=mix", "+experiment=assistant", "+experiment=translation-back")
"""What searches the shares of sources, of which there must be two or more."""
CHOICES = [f"{group}={name}" for group, names in choices().items() for name in names]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_composes_and_builds(choice: str) -> None:
    built(compose([choice, *NEEDS.get(choice, [])], None))


def built(raw: dict[str, Any]) -> Config:
    """The configuration; of several tasks the first one's."""
    return build_fleet(raw)[0].config if is_fleet(raw) else build(raw)


def test_every_file_is_a_choice_of_a_group_or_the_table_of_contents() -> None:
    assert len(FILES) == len(CHOICES) + 1 >= 20
    assert {str(file.relative_to(CONF)) for file in FILES} == {
        f"{c.replace('=', '/')}.yaml" for c in CHOICES
    } | {"config.yaml"}


@pytest.mark.parametrize("choice", sorted(set(NEEDS) - {"sweep=mix"}))
def test_what_a_choice_leaves_open_is_asked_for(
    choice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([choice]) == 2
    message = capsys.readouterr().err
    assert all(need.split("=")[0] in message for need in NEEDS[choice])


@pytest.mark.parametrize("data", choices()["data"])
@pytest.mark.parametrize(
    "added", [f"+{group}={name}" for group in ADDED for name in choices()[group]]
)
def test_sweeps_and_experiments_go_with_any_data(added: str, data: str) -> None:
    more = [f"+data.sources.{name}.path=x.jsonl" for name in ("more", "less")]
    more = more if added in MIXES else []
    needed = [] if added.startswith("+fleet=") else NEEDS.get(f"data={data}", [])
    arguments = [added, f"data={data}", *needed, *more]
    if added.startswith("+fleet=") and data != "files":
        with pytest.raises(
            ConfigError, match=f"data={data} has no effect: each task of data.tasks"
        ):
            compose(arguments, None)
        return
    config = built(compose(arguments, None))
    raw = dataclasses.asdict(config)
    paths = [path for knob in config.sweep.space.values() for path in knob.paths]
    assert all(lookup(raw, path) for path in paths)


def test_an_experiment_begins_with_the_command_that_runs_it() -> None:
    for file in (CONF / "experiment").glob("*.yaml"):
        head = [
            line
            for line in file.read_text(encoding="utf-8").splitlines()
            if not line.startswith("# @package")
        ]
        assert head[0] == f"# python -m orchestrator +experiment={file.stem}"


def test_the_default_composition_sets_nothing_that_no_class_declares() -> None:
    raw = compose([], None)
    assert set(raw) <= {entry.name for entry in dataclasses.fields(settings.Config)}
    build(raw)


def settings_classes() -> list[Any]:
    """Every dataclass of the modules that declare settings."""
    modules = (jobs.config, settings, cluster, search_space)
    return [
        kind
        for module in modules
        for kind in vars(module).values()
        if dataclasses.is_dataclass(kind) and kind is not simplex.Simplex
    ]


def test_every_settings_class_is_frozen_keyword_only_and_refuses_unknown_keys() -> None:
    assert len(set(settings_classes())) >= 13
    for kind in settings_classes():
        assert kind.__pydantic_config__["extra"] == "forbid", kind
        assert kind.__dataclass_params__.frozen, kind
        assert all(entry.kw_only for entry in dataclasses.fields(kind)), kind
