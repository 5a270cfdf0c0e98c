"""The shape of the project: who may import what, how large a file may be, that every choice
composes, that the door opens fast.
"""

from __future__ import annotations

import ast
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from jobs.files.cache import cache_folder
from orchestrator.config.compose import choices, compose
from orchestrator.config.settings import SECTIONS
from tests.support.distribution import TRAINING_FILES
from tests.support.settings import build

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
LAYERS = [
    ["orchestrator/__main__.py"],
    ["orchestrator/cli.py", "orchestrator/chat.py"],
    ["orchestrator/fleet"],
    ["orchestrator/commands", "orchestrator/runs"],
    ["orchestrator/pipeline.py"],
    [
        "orchestrator/break_off.py",
        "orchestrator/earlier_result.py",
        "orchestrator/finalist_training.py",
        "orchestrator/mixture_merging.py",
        "orchestrator/restart.py",
    ],
    ["orchestrator/outcome.py"],
    ["orchestrator/launch"],
    ["orchestrator/kuberay"],
    ["orchestrator/evaluation"],
    ["orchestrator/sweep", "orchestrator/remote"],
    ["orchestrator/report"],
    ["orchestrator/output"],
    ["orchestrator/tracking", "orchestrator/plan"],
    ["orchestrator/storage"],
    ["orchestrator/config"],
    ["orchestrator/process"],
    ["orchestrator/errors.py", "orchestrator/project.py", "orchestrator/job_environment.py"],
    ["jobs/workers"],
    [
        "jobs/pack/opening.py",
        "jobs/pack/loop.py",
        "jobs/pack/compatibility.py",
        "jobs/pack/evaluation.py",
        "jobs/pack/generation.py",
        "jobs/pack/mixtures.py",
    ],
    ["jobs/pack/engine.py"],
    ["jobs/pack/slot.py"],
    ["jobs/pack/layers"],
    ["jobs/pack/attention", "jobs/pack/cuda_graphs.py"],
    ["jobs/pack/batch", "jobs/pack/membership.py", "jobs/pack/loss_curves.py"],
    ["jobs/pack/task_numbers.py"],
    ["jobs/endpoint"],
    ["jobs/synthesis"],
    ["jobs/training", "jobs/serving"],
    ["jobs/export"],
    ["jobs/onnx_genai"],
    ["jobs/llama_cpp"],
    ["jobs/evaluation", "jobs/base_models"],
    ["jobs/model"],
    ["jobs/data/checks"],
    ["jobs/data"],
    ["jobs/machine"],
    ["jobs/files", "jobs/config.py", "jobs/foreign_code.py"],
    [
        "jobs/neighbour_settings.py",
        "jobs/synthesis_settings.py",
        "jobs/check_settings.py",
        "jobs/mix_settings.py",
        "jobs/optim_settings.py",
        "jobs/source_rows.py",
    ],
    ["jobs/settings_checks.py"],
]
"""From the top down. A room may import what stands below it, never what stands beside or above."""
OWNERS = {
    "hydra": {"orchestrator/config/compose.py"},
    "omegaconf": {"orchestrator/config/compose.py"},
    "mlflow": {
        "orchestrator/tracking/mlflow_store.py",
        "orchestrator/tracking/datasets.py",
        "orchestrator/tracking/serving_files.py",
        "orchestrator/tracking/system_metrics.py",
        "jobs/serving/responses_agent.py",
    },
    "optuna": {"orchestrator/sweep/sampler.py", "orchestrator/report/importance.py"},
    "kubernetes": {"orchestrator/kuberay/auth.py"},
    "gguf": {"jobs/base_models/wheel.py", "jobs/export"},
    "xllamacpp": {"jobs/llama_cpp"},
    "onnxruntime_genai": {"jobs/onnx_genai"},
    "starlette": {"jobs/endpoint/app.py", "jobs/endpoint/side_by_side.py"},
    "uvicorn": {"jobs/endpoint/app.py"},
    "ray": {
        "orchestrator/launch",
        "orchestrator/remote/ray_jobs_client.py",
        "orchestrator/sweep",
        "orchestrator/evaluation/held_out_judge.py",
        "jobs/workers",
    },
}
"""Which files and rooms may import a library."""
HEAVY = ("torch", "transformers", "peft", "ray", "mlflow", "numpy")


def imports(file: Path, at_top: bool = False) -> set[str]:
    """Top-level packages that a file imports, inside functions too unless `at_top`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


NAMES = [str(file.relative_to(ROOT)) for file in SOURCES]


def lies_in(name: str, place: str) -> bool:
    """Whether a file is `place`, or lies below it."""
    return name == place or name.startswith(f"{place}/")


def layer_of(name: str) -> int:
    """The number of a file's layer, from the top. Raises StopIteration for a file without one."""
    return next(n for n, places in enumerate(LAYERS) if any(lies_in(name, p) for p in places))


def first_party(file: Path) -> set[str]:
    """The files of this project that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {f"{module.replace('.', '/')}.py" for module in modules}
    return found & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_imports_run_downward(name: str) -> None:
    if name.endswith("__init__.py"):
        assert not first_party(ROOT / name), "a room's __init__.py holds one sentence"
        return
    for imported in first_party(ROOT / name):
        beside = Path(imported).parent == Path(name).parent
        above, below = layer_of(name), layer_of(imported)
        assert below > above or (beside and below == above), f"{name} imports {imported}"


def test_no_imports_run_in_a_circle() -> None:
    graph = {name: first_party(ROOT / name) for name in NAMES}
    open_names: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        assert name not in open_names, f"a circle: {' -> '.join([*open_names, name])}"
        if name in done:
            return
        open_names.append(name)
        for imported in sorted(graph[name]):
            visit(imported)
        open_names.pop()
        done.add(name)

    for name in NAMES:
        visit(name)


@pytest.mark.parametrize("name", NAMES)
def test_each_outside_library_has_its_owners(name: str) -> None:
    used = imports(ROOT / name)
    for library, owners in OWNERS.items():
        owned = any(lies_in(name, owner) for owner in owners)
        assert library not in used or owned, f"{name} imports {library}"
    if name.startswith("orchestrator/"):
        assert not used & {"torch", "transformers", "peft"}
    else:
        assert "orchestrator" not in used


@pytest.mark.parametrize(
    "name", [str(file.relative_to(ROOT)) for file in [*SOURCES, *TESTS, *BENCHMARKS]]
)
def test_files_and_functions_stay_small(name: str) -> None:
    file = ROOT / name
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{name} is too long: split it by topic"
    assert file.stem not in ("utils", "common", "core", "helpers", "base")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 100, f"{node.name} is too long"


@pytest.mark.parametrize("name", [str(file.relative_to(ROOT)) for file in TESTS])
def test_no_test_imports_another(name: str) -> None:
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            is_test = module.startswith("tests.") and module.split(".")[-1].startswith("test_")
            assert not is_test, f"{name} imports {module}: what tests share is in tests/support"


def test_every_choice_of_every_group_composes_and_builds() -> None:
    found = choices()
    assert set(found) >= {
        "model",
        "data",
        "adapter",
        "optim",
        "train",
        "cluster",
        "tracking",
        "job",
        "sweep",
        "experiment",
        "fleet",
    }
    assert len(list((ROOT / "conf").rglob("*.yaml"))) == 1 + sum(map(len, found.values()))
    shared = ["storage=/mnt/shared/outputs", "tracking.uri=http://mlflow:5000"]
    image = f"cluster.image=registry.example.com/orchestrator@sha256:{'0' * 64}"
    needs = {
        "attached": ["cluster.address=http://head:8265", *shared],
        "kuberay": ["cluster.namespace=a", image, "cluster.claim=b", *shared],
    }
    needs |= {
        "path": ["model.path=x"],
        "hub": ["model.id=a/b"],
        "files": ["data.folder=x"],
        "mix": ["data=icd10"],
        "predict": ["model_uri=x", "prompt=y"],
        "promote": ["model_uri=models:/x/3", "job.reason=y"],
        "rollback": ["model_uri=models:/x", "job.reason=y"],
        "export": ["model_uri=x"],
        "serve": ["model_uri=x"],
    }
    for group, names in found.items():
        for name in names:
            build(compose([f"{group}={name}", *needs.get(name, [])], None))


def test_no_configuration_file_is_long_or_carries_code() -> None:
    for file in (ROOT / "conf").rglob("*"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            assert text.count("\n") < 30
            assert "_target_" not in text


def test_every_settings_class_refuses_unknown_keys() -> None:
    assert all(kind.__pydantic_config__["extra"] == "forbid" for kind in SECTIONS.values())  # type: ignore[attr-defined]


def test_the_command_line_loads_nothing_heavy(cache: Path) -> None:
    code = f"import sys; from orchestrator.cli import main; main(['model=tiny', 'dry_run=true']); print([m for m in {HEAVY} if m in sys.modules])"
    environment = {**os.environ, "ORCHESTRATOR_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip().endswith("[]")


def seconds(cache: Path, *arguments: str) -> float:
    """Processor time of one command: a busy machine makes it wait, and not work."""
    began = processor_seconds()
    environment = {**os.environ, "ORCHESTRATOR_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *arguments], capture_output=True, env=environment, check=False)
    return processor_seconds() - began


def processor_seconds() -> float:
    """Processor time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_mistakes_and_the_plan_answer_at_once(cache: Path) -> None:
    commands = {
        "hydra": ("-c", "import hydra"),
        "help": ("-m", "orchestrator", "--help"),
        "mistake": ("-m", "orchestrator", "optim.lrr=1"),
        "plan": ("-m", "orchestrator", "+sweep=lora", "model=tiny", "dry_run=true"),
        "default": ("-m", "orchestrator", "+sweep=lora", "dry_run=true"),
    }
    here = cache_folder()
    if fetch.locate(build(compose([], None)).model, here) is None:
        del commands["default"]  # nothing is fetched for a test; `make setup` has it measured
    measured = [
        [seconds(here if name == "default" else cache, *c) for name, c in commands.items()]
        for _ in range(3)
    ]
    times = {
        name: statistics.median(column)
        for name, column in zip(commands, zip(*measured, strict=True), strict=True)
    }
    assert times["help"] < 4 * times["hydra"], times
    assert times["mistake"] < 4 * times["hydra"], times
    assert max(times["plan"], times.get("default", 0)) < 8 * times["hydra"], times


def test_a_dry_run_shows_what_carries_loss_and_writes_nothing(cache: Path, tmp_path: Path) -> None:
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    environment = {**os.environ, "ORCHESTRATOR_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "orchestrator", "+sweep=lora", "model=tiny", "dry_run=true"]
    done = subprocess.run(
        line, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert '»{"intent":"HassBroadcast","message":"dinner is at the door"}<|im_end|>«' in done.stdout
    assert "supervised tokens" in done.stdout
    assert "trial     6" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_dry_run_without_the_base_model_says_what_needs_setup(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "ORCHESTRATOR_CACHE": str(tmp_path / "empty"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "dry_run=true"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "orchestrator job=setup model=smollm2-135m first" in done.stdout
    assert not (tmp_path / "empty").exists()


def test_the_files_that_are_distributed_first_are_there() -> None:
    assert not [name for name in TRAINING_FILES if not (ROOT / name).is_file()]
