"""The commands that are printed: what a shell and Hydra read back is what was meant, no secret
stands in them, and where they act is named.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.tracking import shown_commands
from orchestrator.tracking.shown_commands import bare, needs, quoted, reachable, setting

AWKWARD = [
    "a b",
    "it's",
    'say "x"',
    "$HOME",
    "a;b",
    "a,b",
    "{a: 1}",
    "[1]",
    "my%20runs",
    "a=b",
    "",
    "'q'",
    '"q"',
    "ä",
    "a\nb",
    "#x",
    "~x",
    "\\",
    "null",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_a_prompt_comes_back_from_the_shell_and_from_hydra(text: str) -> None:
    line = shown_commands.orchestrator(
        ["job=predict", "model_uri=models:/a b@champion", f"prompt={text}"], ""
    )
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "orchestrator"] and words[-1] == f"prompt={text}"
    if text not in ("", "null"):
        raw = compose(words[3:], None)
        assert (raw["prompt"], raw["model_uri"]) == (text, "models:/a b@champion")


@pytest.mark.parametrize("text", [text for text in AWKWARD if text])
def test_a_storage_comes_back_as_it_is(text: str) -> None:
    words = shlex.split(quoted(setting("storage", text)))
    assert compose(words, None)["storage"] == text


@pytest.mark.parametrize(
    "argument",
    [
        "+sweep=lora",
        "'x",
        "~data.sources.terms",
        "+data.sources.mine={path: more.jsonl, weight: 0.5}",
        "--config-dir",
        "my conf",
    ],
)
def test_settings_of_every_form_come_back(argument: str) -> None:
    assert shlex.split(shown_commands.orchestrator([argument], "")) == [
        "python",
        "-m",
        "orchestrator",
        argument,
    ]


ADDRESSES = {
    "http://h:5000": ("http://h:5000", None),
    "http://me:s3cret@h:5000/prefix": ("http://h:5000/prefix", "MLFLOW_TRACKING_USERNAME"),
    "https://s3cret@h": ("https://h", "MLFLOW_TRACKING_USERNAME"),
    "http://me:s3c@ret@h:5000": ("http://h:5000", "MLFLOW_TRACKING_USERNAME"),
    "http://h:5000/?token=s3cret": ("http://h:5000/", "MLFLOW_TRACKING_USERNAME"),
    "postgresql://me:s3cret@h:5432/d": ("postgresql+psycopg://me@h:5432/d", "PGPASSWORD"),
    "postgres://me:s3c/ret@h/d": ("postgresql+psycopg://me@h/d", "PGPASSWORD"),
    "postgresql+psycopg://me@h/d?password=s3cret&sslmode=require": (
        "postgresql+psycopg://me@h/d?sslmode=require",
        "PGPASSWORD",
    ),
    "postgres://me:s3c?ret@h/d": ("postgresql+psycopg://me@h/d", "PGPASSWORD"),
    "postgres://me:s3c#ret@h/d?a=b": ("postgresql+psycopg://me@h/d?a=b", "PGPASSWORD"),
    "https://me:s3c?x=ret@h/x": ("https://h/x", "MLFLOW_TRACKING_USERNAME"),
    "postgresql://h/d?oauth_client_secret=s3cret&a=b": (
        "postgresql+psycopg://h/d?a=b",
        "PGPASSWORD",
    ),
    "postgresql:///d?host=/run&password=s3cret": (
        "postgresql+psycopg:///d?host=/run",
        "PGPASSWORD",
    ),
    "postgresql://me@h/d": ("postgresql+psycopg://me@h/d", None),
    "postgresql://me:s3cret@[::1]:5432/d": ("postgresql+psycopg://me@[::1]:5432/d", "PGPASSWORD"),
    "sqlite:////tmp/a b@c.db": ("sqlite:////tmp/a b@c.db", None),
}


@pytest.mark.parametrize("uri", ADDRESSES)
def test_no_secret_stands_in_a_command_and_how_to_give_it_does(uri: str) -> None:
    shown, names = ADDRESSES[uri]
    assert bare(uri) == shown
    typed = shown_commands.without_secrets([f"+tracking.uri={uri}", "seed=1"])
    assert typed[1] == "seed=1" and not any(
        secret in typed[0] for secret in ("s3cret", "s3c@ret", "s3c/ret")
    )
    assert ("${secret:" in typed[0]) == (names is not None)
    said = needs(uri) or ""
    assert (names in said) if names else said == ""
    printed = [
        shown_commands.mlflow(uri, "experiments", "search"),
        shown_commands.ui(uri),
        shown_commands.mlflow_on_database(uri, "db", "upgrade"),
        said,
    ]
    assert not any(part in text for text in printed for part in ("s3c", "ret@"))
    if names and not uri.startswith("http"):
        assert all("PGPASSWORD set in the environment" in text for text in printed)


def test_a_file_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bare("sqlite:///a/mlflow.db") == f"sqlite:///{tmp_path}/a/mlflow.db"


def test_what_only_its_cluster_reaches_is_named_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = "http://mlflow.tracking.svc.cluster.local:80"
    assert reachable(inside) == (inside, None), "typed on a machine that reaches it"
    monkeypatch.setenv("ORCHESTRATOR_TYPED", "+sweep=lora")
    assert reachable(inside) == (
        "http://localhost:5000",
        "kubectl --namespace tracking port-forward service/mlflow 5000:80",
    )
    assert reachable("http://mlflow.tracking.svc:5000/x")[0] == "http://localhost:5000/x"
    assert reachable("https://mlflow.example.org") == ("https://mlflow.example.org", None)
    assert reachable("http://mlflow:5000") == ("http://mlflow:5000", None), "no pod"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(shown_commands, "NAMESPACE_FILE", tmp_path / "namespace")
    (tmp_path / "namespace").write_text("slm\n")
    assert (
        reachable("http://mlflow:5000")[1]
        == "kubectl --namespace slm port-forward service/mlflow 5000"
    )
    assert (
        reachable("http://mlflow.tracking:5000")[1]
        == "kubectl --namespace tracking port-forward service/mlflow 5000"
    )
    assert (
        reachable("http://10.1.2.3:5000")[1] is None
        and reachable("http://localhost:5000")[1] is None
    )
    restore = shown_commands.mlflow(
        "http://mlflow.tracking:5000", "experiments", "restore", "-x", "3"
    )
    assert restore.startswith(
        "MLFLOW_TRACKING_URI=http://localhost:5000 mlflow experiments restore -x 3 (while this runs: kubectl "
    )
