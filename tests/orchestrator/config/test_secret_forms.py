"""A secret of this command is found in whatever form a text holds it, and ordinary words stay."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from orchestrator import chat
from orchestrator.cli import main
from orchestrator.config import credentials
from orchestrator.config.compose import compose
from orchestrator.runs import cli as runs


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of before."""
    monkeypatch.setattr(credentials, "SECRETS", set())
    monkeypatch.setattr(credentials, "USERS", {})


LONG = "canary/4711\"ü'+tok"
"""A secret with characters that JSON, Python and addresses write in their own ways."""


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"x_{LONG}_y",
        f"a{LONG}b",
        json.dumps({"error": f"line\n{LONG}"}),
        json.dumps({"error": f"line\n{LONG}"}, ensure_ascii=False),
        repr(f"it's\n{LONG}"),
        repr(f"\n{LONG}"),
        f"http://host/%3A{quote(LONG, safe='')}",
        f"http://host/x/{quote(LONG)}",
        "http://host/" + quote(LONG, safe="").replace("%2F", "%2f").replace("%C3%BC", "%c3%bc"),
    ],
)
def test_a_secret_is_found_in_the_form_that_a_text_has_it_in(text: str) -> None:
    credentials.remember(LONG + "\n")
    shown = credentials.mask(text)
    assert "***" in shown and "4711" not in shown, shown


@pytest.mark.parametrize("text", ["_canary47", r"a\ncanary47", "%3Acanary47", "(canary47)"])
def test_a_short_secret_is_found_where_it_begins_and_ends(text: str) -> None:
    credentials.remember("canary47")
    assert "canary47" not in credentials.mask(text)
    assert credentials.mask("xcanary47 canary478") == "xcanary47 canary478"


@pytest.mark.parametrize(
    "text",
    [
        r"invalid header value: 'Bearer canary4711tok\n'",
        "bearer canary4711tok",
        "sent Basic " + base64.b64encode(b"me:canary4711").decode(),
    ],
)
def test_what_a_header_holds_is_masked_without_its_name(text: str) -> None:
    shown = credentials.mask(text)
    assert "***" in shown and "canary4711" not in shown and "bWU6Y2FuYXJ5" not in shown


ORDINARY = (
    "a basic understanding of Basic Qwen2.5-0.5B-Instruct, a basic classification of documents",
    "the bearer certificate of the bearer",
    "true database /home/me/.ssh/id_rsa training python -m orchestrator",
    "the column customer_id, 10000000 tokens, https://auth.example.com/token",
)


def test_ordinary_words_stay_whatever_the_environment_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Key File").write_text("x")
    given = {
        "SOME_TOKEN": "true",
        "DB_PASS": "database",
        "DB_PASSWORD": "orchestrator",
        "SSH_KEY": "/home/me/.ssh/id_rsa",
        "TLS_KEY": str(tmp_path / "Key File"),
        "PARTITION_KEY": "customer_id",
        "MAX_TOKENS": "10000000",
        "TOKEN_URL": "https://auth.example.com/token",
        "TOKENIZERS_PARALLELISM": "false",
        "OIDC_WEBHOOK": "training",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    credentials.remember_environment()
    for text in (*ORDINARY, str(tmp_path / "Key File")):
        assert credentials.mask(text) == text


STRING = (
    "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=canary4711key==;EndpointSuffix=x"
)
VARIABLES = {
    "AZURE_STORAGE_ACCOUNT_KEY": "canary4711key==",
    "AZURE_STORAGE_KEY": "canary4711key==",
    "AZURE_STORAGE_CONNECTION_STRING": STRING,
    "SLACK_WEBHOOK_URL": "https://hooks.example.com/services/T0/B0/canary4711key",
    "OPENAI_KEY": "sk-canary4711key",
    "DB_PASS": "canary4711key",
    "my_password": "canary4711key",
    "AWS_ACCESS_KEY_ID": "canary4711key",
    "SSH_PASSPHRASE": "correct-horse-canary4711key",
    "AWS_SECRET_ACCESS_KEY": "/canary4711key/bPxRfiCY",
}


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("command", ["the command", "runs", "chat"])
def test_a_variable_that_holds_a_secret_is_known_to_every_command(
    name: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, VARIABLES[name])
    if command == "runs":
        assert runs.main(["list", "--storage", str(tmp_path)]) == 0
    elif command == "chat":
        assert chat.main(["--nothing"]) == 2
    else:
        assert main(["--nothing"]) == 2
    capsys.readouterr()
    value = VARIABLES[name]
    texts = [f"refused: {value}", f"'{value}\\n'", f"url: {value.partition('.com')[2] or value}"]
    if value is STRING:
        texts.append("the key canary4711key== is wrong")
    for text in texts:
        assert "canary4711key" not in credentials.mask(text)


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("serve.token=canary4711", "serve.token=${secret:SERVE_TOKEN}"),
        ("++serve.token='canary4711'", "++serve.token=${secret:SERVE_TOKEN}"),
        ("serve.token=${secret:MINE}", "serve.token=${secret:MINE}"),
        ("serve={port: 1, token: canary4711}", "serve={port: 1, token: '${secret:SERVE_TOKEN}'}"),
        ("serve={token: '${secret:MINE}'}", "serve={token: '${secret:MINE}'}"),
    ],
)
def test_the_endpoints_key_is_printed_as_the_variable_to_give_it_in(
    typed: str, printed: str
) -> None:
    assert credentials.printable(typed) == printed


def test_the_endpoints_key_is_in_no_configuration_and_no_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary4711/x")
    raw = compose(["job=serve", "model_uri=x", "serve.token=${secret:MY_TOKEN}"], None)
    assert raw["serve"]["token"] == "canary4711%2Fx"
    assert credentials.without_secrets(raw)["serve"]["token"] == "${secret:SERVE_TOKEN}"
    assert "canary" not in credentials.mask("canary4711/x or canary4711%2Fx")
    assert main(["job=serve", "model_uri=x", "serve.token=${secret:MY_TOKEN}", "--cfg", "job"]) == 0
    for value in ("canary4711lit", "canary4711,x", "'canary4711", "[canary4711,1]", "canary7"):
        main(["job=predict", "model_uri=x", "prompt=x", f"serve.token={value}", "dry_run=true"])
        main(["model=tiny", f"serve.token={value}", "dry_run=true"])
    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
    assert "serve.token=***" in told.err
