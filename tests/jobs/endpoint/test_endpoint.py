"""The endpoint as the official client meets it: chat, stream, stop, errors, eight at once; and that
nothing of it stays when it is stopped or killed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from jobs.config import BaseModel
from jobs.export.formats import FORMATS
from jobs.export.shipment import Shipment, ShipmentSettings
from jobs.serving.predict import predict
from tests.support.shipping import adapted_version

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-token-for-tests"


@pytest.fixture(scope="module")
def versions(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("versions")
    return {name: adapted_version(base, folder, seed, name) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def exports(
    versions: dict[str, Path],
    base: BaseModel,
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Both as adapters of the tiny base, not scored."""
    before = os.environ.get("ORCHESTRATOR_CACHE")
    os.environ["ORCHESTRATOR_CACHE"] = str(cache)
    folder = tmp_path_factory.mktemp("exports")
    for name, version in versions.items():
        settings = ShipmentSettings(name, name, score=False, threads=(1,))
        form = FORMATS["gguf-adapter"]
        Shipment(version, base, form, settings, lambda line: None).run(folder / name)
    if before is None:
        del os.environ["ORCHESTRATOR_CACHE"]
    else:
        os.environ["ORCHESTRATOR_CACHE"] = before
    return {name: folder / name for name in versions}


def start(cache: Path, folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    environment = os.environ | {"ORCHESTRATOR_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator", "job=serve", "serve.port=0", "output=json"),
            *("serve.threads=1", f"serve.token={TOKEN}", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, json.loads(line)["address"]


@pytest.fixture(scope="module")
def address(
    exports: dict[str, Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    models = f"serve.models={{a: '{exports['a']}', b: '{exports['b']}'}}"
    process, address = start(cache, tmp_path_factory.mktemp("cwd"), models)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key=TOKEN, max_retries=0)


def ask(client: openai.OpenAI, text: str, model: str = "a", **settings: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], **settings
    )


def test_each_adapter_answers_by_its_name_what_its_version_answers(
    client: openai.OpenAI, versions: dict[str, Path], base: BaseModel
) -> None:
    assert [model.id for model in client.models.list()] == ["a", "b"]
    for name, version in versions.items():
        for question in ("Ticket 3 from d?", "Ticket 8 from i?"):
            answered = ask(client, question, name)
            assert answered.choices[0].message.content == predict(base, version, question)
            assert answered.usage.total_tokens > answered.usage.completion_tokens >= 1


def test_a_streamed_answer_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = ask(client, "Ticket 5 from f?")
    chunks = list(
        ask(client, "Ticket 5 from f?", stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == whole.choices[0].message.content
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finish[-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_an_answer_ends_at_a_stop_and_at_the_most_tokens(client: openai.OpenAI) -> None:
    whole = ask(client, "Ticket 5 from f?").choices[0].message.content
    assert len(whole) > 2
    cut = ask(client, "Ticket 5 from f?", stop=whole[1]).choices[0]
    assert cut.message.content == whole[: whole.index(whole[1])] and cut.finish_reason == "stop"
    short = ask(client, "Ticket 5 from f?", max_tokens=1)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 1


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"model": "c"}, openai.NotFoundError, "there are: a, b"),
        ({"n": 2}, openai.BadRequestError, "n=2"),
        ({"temperature": 9}, openai.BadRequestError, "temperature must be between 0 and 2"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens must be"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"messages": []}, openai.BadRequestError, "messages is empty"),
        ({"messages": [{"role": "user", "content": "  "}]}, openai.BadRequestError, "is empty"),
        ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError, "alone"),
        ({"messages": [{"role": "x", "content": "hi"}]}, openai.BadRequestError, "role of item 1"),
        ({"extra_body": {"model": []}}, openai.BadRequestError, "model must be the name of one"),
        ({"extra_body": {"tools": 3}}, openai.BadRequestError, "tools must be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         openai.BadRequestError, "image_url"),
        ({"extra_body": {"frobnicate": 1}}, openai.BadRequestError, "frobnicate"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_an_error_that_says_why(
    settings: dict[str, Any], kind: type[Exception], words: str, client: openai.OpenAI
) -> None:
    request = {"model": "a", "messages": [{"role": "user", "content": "hi"}], **settings}
    with pytest.raises(kind, match=words):
        client.chat.completions.create(**request)
    assert ask(client, "Ticket 1 from b?").choices


def test_a_prompt_that_is_cut_is_told_in_a_header(client: openai.OpenAI) -> None:
    for settings in ({}, {"stream": True}):
        for text, told in (("Ticket 5 from f?", False), ("Ticket 5 from f? " * 2000, True)):
            asked: list[Any] = [{"role": "user", "content": text}]
            answered = client.chat.completions.with_raw_response.create(
                model="a", messages=asked, **settings
            )
            header = answered.headers.get("X-Prompt-Shortened")
            assert (header is not None) == told
            if header is not None and not settings:
                read = json.loads(answered.text)["usage"]["prompt_tokens"]
                assert re.fullmatch(rf"{read} of \d{{5}} tokens are read", header)


@pytest.mark.parametrize("num_bytes", [5_000_000, 40_000_000])
def test_a_body_that_is_too_large_is_told_so_to_whoever_sends_it_whole(
    num_bytes: int, address: str
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(address.split(":")[2].split("/")[0]))
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", "/v1/chat/completions", b"x" * num_bytes, headers)
    answered = connection.getresponse()
    assert answered.status == 413
    assert "may have 4,000,000 bytes" in json.loads(answered.read())["error"]["message"]
    connection.close()


def test_a_wrong_key_and_a_strange_name_get_no_answer(address: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=address, api_key="wrong", max_retries=0).models.list()
    port = int(address.split(":")[2].split("/")[0])
    for host, status in (("evil.example", 403), ("localhost", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Host": f"{host}:{port}", "Authorization": f"Bearer {TOKEN}"}
        connection.request("GET", "/v1/models", headers=headers)
        assert connection.getresponse().status == status
        connection.close()


def test_eight_at_once_get_the_answers_that_they_get_alone(client: openai.OpenAI) -> None:
    questions = [(f"Ticket {i} from {chr(97 + i)}?", "ab"[i % 2]) for i in range(8)]
    alone = [ask(client, *question).choices[0].message.content for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: ask(client, *question), questions))
    same = sum(
        answered.choices[0].message.content == text
        for answered, text in zip(together, alone, strict=True)
    )
    assert same >= 7  # random weights have near ties, and rows that are computed together round so


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_of_a_server_that_is_stopped_or_killed(
    number: signal.Signals, exports: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    process, address = start(cache, tmp_path, f"model_uri={exports['a']}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(number)
    process.wait(60)
    waited_until = time.monotonic() + 120
    while any(alive(int(child)) for child in children):
        assert time.monotonic() < waited_until, "the runtime outlives its server"
        time.sleep(0.1)
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url=address, api_key=TOKEN, max_retries=0).models.list()
    assert not list(tmp_path.iterdir())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")
