"""`python -m orchestrator.chat MODEL`: answers in the terminal, as they come.

MODEL is a registered model's name (its champion), models:/NAME/3, a version's folder, an export's
folder or a GGUF file. Settings follow as for the main command, such as storage=DIR.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.commands import serve
from orchestrator.config import credentials
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.settings import Config
from orchestrator.config.validation import build
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.launch import preflight
from orchestrator.output import console

if TYPE_CHECKING:
    from jobs.endpoint.shipped_model import ShippedModel
    from jobs.llama_cpp.runtime import Runtime

USAGE = """python -m orchestrator.chat MODEL [SETTING=VALUE ...]

MODEL     a registered model's name (its champion), NAME/3, models:/NAME@ALIAS, the folder of a
          version or of an export, or a GGUF file
settings  storage=DIR, tracking.uri=URI, serve.threads=N

In the chat /new forgets what was said, /exit ends it (Ctrl-D too); Ctrl-C stops an answer."""


def main(arguments: list[str]) -> int:
    """Chat; returns the exit code."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    credentials.remember_environment()
    try:
        config = settings(arguments)
        models = serve.shipped_models(config)
        from jobs.endpoint.shipped_model import one_runtime

        with one_runtime(models, 1, config.serve.threads) as runtime:
            return talk(models[0], runtime)
    except OrchestratorError as error:
        console.error(str(error))
        return error.exit_code
    except (ValueError, RuntimeError) as error:
        console.error(str(error))
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def settings(arguments: list[str]) -> Config:
    """The configuration of a chat. Raises ConfigError."""
    model, *overrides = arguments
    odd = next((text for text in overrides if "=" not in text or text.startswith("-")), None)
    if odd is not None or "=" in model or model.startswith("-"):
        raise InputError(f"{odd or model}: write python -m orchestrator.chat MODEL SETTING=VALUE")
    typed = ["job=serve", f"model_uri={address(model)}", *overrides]
    checks = (preflight.problems,)
    return build(compose(typed, None, checks), typed_settings(typed), checks)


def address(model: str) -> str:
    """MODEL as model_uri takes it."""
    if ":" in model or Path(model).expanduser().exists() or model.endswith(".gguf"):
        return model
    name, slash, version = model.partition("/")
    if slash and version.isdigit():
        return f"models:/{name}/{version}"
    return model if slash else f"models:/{name}@champion"


def talk(model: ShippedModel, runtime: Runtime) -> int:
    """Ask and answer until the input ends."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{model.name}; /new forgets what was said, /exit ends", file=sys.stderr)
    history: list[dict[str, Any]] = []
    while True:
        try:
            line = input("> ") if interactive else input()
        except EOFError:
            return 0
        said = line.strip()
        if said == "/exit":
            return 0
        if said == "/new":
            history = []
            continue
        if not said:
            continue
        history.append({"role": "user", "content": said})
        text = answer(model, runtime, history)
        if text is None:
            history.pop()
        else:
            history.append({"role": "assistant", "content": text})


def answer(model: ShippedModel, runtime: Runtime, history: list[dict[str, Any]]) -> str | None:
    """Print the answer to a conversation as it comes; its text, None where there is none."""
    texts: list[str] = []
    try:
        question = model.question(runtime, {"messages": history})
        if question.prompt.cut_note is not None:
            console.note(question.prompt.cut_note)
        for piece in model.pieces(runtime, question):
            if isinstance(piece, str):
                texts.append(piece)
                print(piece, end="", flush=True)
            else:
                print(flush=True)
                print(f"({piece})", file=sys.stderr)
    except KeyboardInterrupt:
        print(" ...", flush=True)
    except ValueError as error:
        console.error(str(error))
        return None
    return "".join(texts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
