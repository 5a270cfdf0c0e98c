"""What stands beside an exported file for people: README.md with scores and costs and what to copy
where, and a Modelfile for Ollama.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jobs.export.model_folder import CARD


def version_card(version: Path) -> str:
    """The version's own model card; empty where it has none."""
    file = version / CARD
    return file.read_text(encoding="utf-8") if file.exists() else ""


def licences(version: Path) -> tuple[str | None, str | None]:
    """Under what terms base and data stand, as the version's card tells."""
    text = version_card(version)
    of_base = re.search(r"^- Base model [^:\n]*: (.+)$", text, re.M)
    of_data = re.findall(r"^- Data, ([^:\n]*): (.+)$", text, re.M)
    terms = [of_data[0][1]] if len(of_data) == 1 else [f"{one[1]} ({one[0]})" for one in of_data]
    return None if of_base is None else of_base[1], "; ".join(terms) or None


def data_name(version: Path) -> str | None:
    """What the version was trained on, by name."""
    match = re.search(r"trained on (.+?) by the sweep", version_card(version), re.S)
    return None if match is None else " ".join(match[1].split())


def score_line(version: Path) -> str | None:
    """The trained model's score, in one line."""
    text = version_card(version)
    metric = re.search(r"^\| \| ([^|]+) \|", text, re.M)
    row = re.search(r"^\| this model \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    if metric is None or row is None:
        return None
    return f"{metric[1].strip()} {row[1].strip()} ({row[2].strip()})"


def write_files(folder: Path, report: dict[str, Any], task: dict[str, Any], version: Path) -> None:
    """README.md, and for a GGUF file a Modelfile."""
    if report["file"].endswith(".gguf"):
        (folder / "Modelfile").write_text(modelfile(report, task), encoding="utf-8")
    (folder / CARD).write_text(card(report, task, version), encoding="utf-8")


def modelfile(report: dict[str, Any], task: dict[str, Any]) -> str:
    """What Ollama makes a model of. It reads the chat template out of the file."""
    lines = [f"FROM ./{report['file']}"]
    if report["format"] == "gguf-adapter":
        lines = [f"FROM {report['base_file']}", f"ADAPTER ./{report['file']}"]
    lines += [
        "PARAMETER temperature 0",
        f"PARAMETER num_predict {task['max_new_tokens']}",
        f"PARAMETER num_ctx {task['max_length'] + task['max_new_tokens']}",
    ]
    if task.get("system"):
        lines.append(f'SYSTEM """{task["system"]}"""')
    return "\n".join(lines) + "\n"


def card(report: dict[str, Any], task: dict[str, Any], version: Path) -> str:
    """README.md."""
    base = report["base"]
    sections = [
        f"# {report['name']}, {report['format']}\n\n{report['version']} as one file, made on "
        f"{base['name']} ({base['id']}, revision {base['revision'][:12]}).\n",
        scores_section(report),
        check_section(report),
        costs_section(report),
        prompt_section(report, task),
        use_section(report, task),
        licence_section(version),
    ]
    return "\n".join(section for section in sections if section)


def scores_section(report: dict[str, Any]) -> str:
    """The score of the very file, beside the trained model's."""
    scores = report.get("scores")
    if scores is None:
        return ""
    interval = ""
    if scores["difference_low"] is not None:
        interval = f"{scores['difference_low']:+.3f} to {scores['difference_high']:+.3f}"
    return (
        f"## Score of this file, on {scores['rows']:,} test rows\n\n"
        f"| | {scores['metric']} | interval |\n|---|---|---|\n"
        f"| this file | {scores['value']:.3f} | {scores['low']:.3f} to {scores['high']:.3f} |\n"
        f"| the trained model | {scores['trained']:.3f} | |\n"
        f"| difference | {scores['difference']:+.3f} | {interval} |\n\n"
        f"It gives the trained model's answer to {scores['same_answers']:.1%} of the rows.\n"
    )


def check_section(report: dict[str, Any]) -> str:
    """How it was compared with the trained model."""
    measured = report.get("divergence") or report["check"]
    return (
        "## Compared with the trained model\n\nPrompts byte for byte, tokens and end tokens are "
        f"the same. Mean divergence {measured['mean']:.2g} nats per token (largest "
        f"{measured['largest']:.2g}); the most likely token is the same at "
        f"{measured['equal']:.1%} of {measured['tokens']:,}.\n"
    )


BUILDS = {
    False: "llama.cpp built for any x86-64 processor with AVX2: one built for its own is faster",
    True: "onnxruntime",
}
"""Whose speed it is, by whether the model is ONNX."""


def costs_section(report: dict[str, Any]) -> str:
    """Size, memory and speed."""
    costs = report.get("costs")
    if costs is None:
        return ""
    lines = [
        "## Costs\n",
        f"{costs['size_mb']:,.1f} MB on disk"
        + (
            f", {costs['peak_memory_mb']:,.0f} MB of memory at most while it answers."
            if "peak_memory_mb" in costs
            else "."
        ),
    ]
    if costs["threads"]:
        lines += [
            f"On a machine with {costs['cores']} cores, for a prompt of {costs['prompt_tokens']} "
            f"tokens ({BUILDS[report['format'].startswith('onnx-')]}):\n",
            "| threads | seconds to the first token | tokens per second |",
            "|---|---|---|",
        ]
        lines += [
            f"| {count} | {speed['first_token_seconds']:.3f} | {speed['tokens_per_second']:.1f} |"
            for count, speed in costs["threads"].items()
        ]
    return "\n".join(lines) + "\n"


def who_looks_up(report: dict[str, Any]) -> str:
    """Which programs add the rows that belong before a question."""
    if report["file"].endswith(".gguf"):
        return (
            "`python -m orchestrator job=serve` and `python -m orchestrator.chat` look them up; "
            "other programs do not, and answer worse."
        )
    return (
        "`python -m orchestrator job=predict` on the version looks them up; programs that load "
        "this file do not, and answer worse."
    )


def prompt_section(report: dict[str, Any], task: dict[str, Any]) -> str:
    """What other programs have to put around a question."""
    lines = []
    if task.get("system"):
        lines.append(f"System message: `{task['system']}`")
    if task.get("instruction"):
        lines.append(
            f"Each question stands after this line, in the same message:\n\n"
            f"```\n{task['instruction']}\n```"
        )
    if task.get("neighbours"):
        line = "`QUESTION -> ANSWER`, a line each, and an empty line"
        lines.append(
            "Before each question stand its nearest training rows of `neighbours.jsonl` "
            f"({line}). {who_looks_up(report)}"
        )
    if not lines:
        return ""
    return "## What it has to be asked\n\n" + "\n\n".join(lines) + "\n"


def use_section(report: dict[str, Any], task: dict[str, Any]) -> str:
    """What to copy where."""
    file = report["file"]
    if report["format"].startswith("onnx-"):
        most = task["max_new_tokens"]
        return (
            "## How to use it\n\nCopy `model/`: onnxruntime-genai loads it, on a phone too "
            "(Android, iOS) and in programs in C#, C++, Java and Python. In Python, after `pip "
            "install onnxruntime-genai`, with the prompt as it is described above:\n\n"
            "```python\nimport json, onnxruntime_genai as og\n\nmodel = og.Model('model')\n"
            "tokenizer = og.Tokenizer(model)\n"
            "messages = json.dumps([{'role': 'user', 'content': PROMPT}])\n"
            "ids = tokenizer.encode(tokenizer.apply_chat_template(messages, "
            "add_generation_prompt=True))\nparams = og.GeneratorParams(model)\n"
            f"params.set_search_options(max_length=len(ids) + {most}, do_sample=False)\n"
            "generator = og.Generator(model, params)\ngenerator.append_tokens(ids)\n"
            "while not generator.is_done():\n    generator.generate_next_token()\n"
            "print(tokenizer.decode(generator.get_sequence(0)[len(ids):]))\n```\n"
        )
    if not file.endswith(".gguf"):
        return (
            "## How to use it\n\n`model/` is a folder that transformers, vLLM and "
            "text-generation-inference load as it is: "
            "`AutoModelForCausalLM.from_pretrained('model')`.\n"
        )
    lines = ["## How to use it\n", "With what belongs around a question added by itself:\n"]
    lines.append(
        "```\npython -m orchestrator.chat FOLDER\n"
        "python -m orchestrator job=serve model_uri=FOLDER\n```\n"
    )
    most = task["max_new_tokens"]
    if report["format"] == "gguf-adapter":
        base = report["base_file"]
        lines.append(
            f"It is an adapter: copy it and the base's file ({base}, sha256 "
            f"{report['base_sha256'][:12]}) to where they are used. One base serves many adapters."
        )
        command = f"llama-server -m {base} --lora {file} --temp 0 -n {most}"
    else:
        command = f"llama-server -m {file} --temp 0 -n {most}"
    lines += [
        f"- llama.cpp: `{command}`",
        f"- Ollama: `ollama create {report['name']} -f Modelfile`, then `ollama run "
        f"{report['name']}`",
    ]
    if report["format"] != "gguf-adapter":
        lines += [
            f"- LM Studio: `lms import {file}`, or copy it to `models/{report['name']}/"
            f"{report['name']}/`; temperature 0",
            f"- A phone (PocketPal, ChatterUI) or a browser (wllama): copy `{file}`; the chat "
            "template is in it",
        ]
    return "\n".join(lines) + "\n"


def licence_section(version: Path) -> str:
    """Terms of base and data."""
    of_base, of_data = licences(version)
    lines = [
        f"- {name}: {terms}"
        for name, terms in (("Base model", of_base), ("Data", of_data))
        if terms is not None
    ]
    if not lines:
        return ""
    return "## Licences\n\n" + "\n".join(lines) + "\n\nThe file inherits the terms of both.\n"
