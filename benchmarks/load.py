"""Many trials, several sweeps at once on one storage, and an endpoint that many ask at once: is
anything lost, does anything grow, is every error one that is documented?

    python -m benchmarks.load [--parts trials,sweeps,endpoint] [--trials 256] [--sweeps 4]
        [--clients 50] [--minutes 5] [--json FILE] [--folder FOLDER]

`trials` is one sweep of so many real trials of the tiny model; the memory of its command is looked
at when a quarter of them have ended and at the end. `sweeps` are commands that are given at the
same time on one storage, each a sweep of its own: a folder is one command's at a time, so the
others have to be refused in one line, and to finish when they are given again. `endpoint` trains a
model, serves it and asks it from so many threads for so long. After each part every trial, step and
row has to be there once, and no process, lock, temporary file or shared memory may be left. Exit
code 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks import aftermath, answer
from benchmarks.faults import make_toy
from benchmarks.stage import Ended, Stage
from orchestrator.storage.json_files import write_json

PARTS = ("trials", "sweeps", "endpoint")
STEPS, EVERY = 20, 10
MOST_PER_TRIAL = 0.5
"""Megabytes by which a command may grow for each trial that it has known."""
MOST_GROWTH = 1.25
"""How many times what it took after a fifth of the time an endpoint may take at the end."""
ANSWER_SECONDS = 120.0
HELD = " is in use by process "
"""In the one line that refuses a second command on a storage."""
WORDS = ("alpha", "beta", "gamma")


@dataclass
class Part:
    """What one part has come to."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def search_of(trials: int) -> tuple[str, ...]:
    """A sweep of so many different trials, all at another learning rate."""
    rates = [round(0.0001 * (number + 1), 6) for number in range(trials)]
    space = f"{{rate: {{path: optim.lr, type: grid, values: {rates}}}}}"
    return (f"sweep.space={space}", f"train.steps={STEPS}", f"train.eval_every={EVERY}")


def many_trials(folder: Path, options: argparse.Namespace) -> Part:
    """One sweep of many trials."""
    part = Part("trials")
    stage = Stage(folder, make_toy(folder / "toy"), "pack", search_of(options.trials))
    sizes: dict[int, float] = {}
    try:
        began = time.monotonic()
        process = stage.start()
        watcher = threading.Thread(
            target=watch, args=(process.pid, stage.storage, sizes), daemon=True
        )
        watcher.start()
        ended = stage.finish(process, began)
        watcher.join(10)
        part.problems += wrong_sweep(stage, ended, options.trials)
        part.problems += stage.left()
    finally:
        stage.close()
    quarter = min((count for count in sizes if count >= options.trials / 4), default=None)
    last = max(sizes, default=None)
    part.figures = {"trials": options.trials, "seconds": round(ended.seconds, 1)}
    if quarter is not None and last is not None and last > quarter:
        grown = (sizes[last] - sizes[quarter]) / (last - quarter)
        part.figures |= {"mb_at_the_end": round(sizes[last]), "mb_per_trial": round(grown, 3)}
        if grown > MOST_PER_TRIAL:
            part.problems.append(f"the command grows by {grown:.2f} MB for each trial")
    return part


def watch(pid: int, storage: Path, sizes: dict[int, float]) -> None:
    """Note the memory of a command by how many of its trials have ended, until it is gone."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            known = aftermath.trials(storage).values()
            ended = sum(trial["state"] is not None for trial in known)
            sizes.setdefault(ended, process.memory_info().rss / 1e6)
            time.sleep(1)


def wrong_sweep(stage: Stage, ended: Ended, trials: int, name: str = "") -> list[str]:
    """What of a sweep is missing, or is there twice."""
    if ended.code != 0:
        last = (ended.err.strip().splitlines() or ["nothing said"])[-1]
        return [f"{name or 'the sweep'} ends with code {ended.code}: {last[:300]}"]
    found = []
    counts = ended.result["trials"]
    if counts["finished"] + counts["stopped"] != trials or counts["failed"]:
        found.append(f"{name}: {json.dumps(counts)} of {trials} trials")
    tracked = aftermath.tracked(stage.database)
    prefix = ended.result["sweep"]
    runs = {run: entry for run, entry in tracked.items() if re.search(r"trial-\d+$", str(run))}
    mine = {run: entry for run, entry in runs.items() if not name or prefix in str(run)}
    for run, entry in mine.items():
        steps = [step for step, _ in entry["metrics"].get("valid/loss", [])]
        if len(set(steps)) != len(steps):
            found.append(f"{run}: steps {steps} in MLflow")
    return found + aftermath.litter(stage.storage)


def several_sweeps(folder: Path, options: argparse.Namespace) -> Part:
    """Sweeps that run at the same time on one storage."""
    part = Part("sweeps")
    toy, storage = make_toy(folder / "toy"), folder / "storage"
    stages = [
        Stage(
            folder / f"s{number}", toy, "pack", (*search_of(4), f"sweep.name=load{number}"), storage
        )
        for number in range(options.sweeps)
    ]
    try:
        ends, refused = together(stages)
        for number, (stage, ended) in enumerate(zip(stages, ends, strict=True)):
            part.problems += wrong_sweep(stage, ended, 4, f"load{number}")
            part.problems += stage.left()
        listed = json.loads(stages[0].runs("list", "--json").out or "[]")
        states = Counter(record["state"] for record in listed)
        if states != {"finished": options.sweeps}:
            part.problems.append(f"runs list says {dict(states)}")
    finally:
        for stage in stages:
            stage.close()
    seconds = [round(end.seconds, 1) for end in ends]
    part.figures = {"sweeps": options.sweeps, "refused": refused, "seconds": seconds}
    return part


def together(stages: list[Stage]) -> tuple[list[Ended], int]:
    """Give all commands at once, and again those that are refused since another one has the
    storage; how each ended at last, and how often one was refused.
    """
    ends: dict[int, Ended] = {}
    refused = 0
    for _ in stages:
        waiting = [number for number in range(len(stages)) if number not in ends]
        with ThreadPoolExecutor(len(stages)) as pool:
            tried = dict(
                zip(waiting, pool.map(lambda number: stages[number].run(), waiting), strict=True)
            )
        held = {number for number, end in tried.items() if end.code == 2 and HELD in end.err}
        refused += len(held)
        ends |= {number: end for number, end in tried.items() if number not in held}
        if not held:
            break
    return [ends[number] for number in sorted(ends)], refused


def asked_endpoint(folder: Path, options: argparse.Namespace) -> Part:
    """A served model that many ask at once."""
    part = Part("endpoint")
    stage = Stage(folder, make_toy(folder / "toy"), "pack", search_of(1))
    try:
        ended = stage.run()
        if ended.code != 0:
            part.problems += wrong_sweep(stage, ended, 1)
            return part
        (export,) = stage.storage.glob("sweeps/*/export")
        stage.line = [
            *(sys.executable, "-m", "orchestrator", "job=serve", "serve.port=0", "output=json"),
            *(f"model_uri={export}", f"storage={stage.storage}"),
        ]
        with (folder / "server.txt").open("w", encoding="utf-8") as said_there:
            server = stage.start(said_there)
        try:
            ask_for(server, part, options)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
        said = (folder / "server.txt").read_text(encoding="utf-8")
        if server.returncode != 0 or "Traceback" in said:
            part.problems.append(f"the server ends with code {server.returncode}: {said[-300:]}")
        # torch keeps a cache of its own for each user, whoever imports it.
        part.problems += [text for text in stage.left() if "torchinductor_" not in text]
    finally:
        stage.close()
    return part


def ask_for(server: subprocess.Popen[str], part: Part, options: argparse.Namespace) -> None:
    """Ask a server that is starting from many threads for some minutes."""
    address, model = told_address(server)
    begun = time.monotonic()
    until = begun + 60 * options.minutes
    sizes: list[float] = []
    answers: Counter[str] = Counter()
    seconds: list[float] = []

    def ask(number: int) -> None:
        content = f"{WORDS[number % 3]} {number}"
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        while time.monotonic() < until:
            asked = time.monotonic()
            answers[one_answer(f"{address}/chat/completions", body)] += 1
            seconds.append(time.monotonic() - asked)

    with ThreadPoolExecutor(options.clients) as pool:
        asking = [pool.submit(ask, number) for number in range(options.clients)]
        while time.monotonic() < until:
            time.sleep(max(until - begun, 1) / 50)
            sizes.append(memory_mb(server.pid))
        for one in asking:
            one.result(ANSWER_SECONDS)
    early, late = sizes[len(sizes) // 5], statistics.median(sizes[-5:])
    part.figures = {
        "clients": options.clients,
        "minutes": options.minutes,
        "answers": dict(answers),
        "median_seconds": round(statistics.median(seconds), 3),
        "slowest_seconds": round(max(seconds), 3),
        "mb_after_a_fifth": round(early),
        "mb_at_the_end": round(late),
    }
    wrong = {text: count for text, count in answers.items() if text != "answered"}
    if wrong:
        part.problems.append(f"not answered: {wrong}")
    if late > MOST_GROWTH * early:
        part.problems.append(f"the server has grown from {early:.0f} to {late:.0f} MB")


def one_answer(address: str, body: dict[str, Any]) -> str:
    """ "answered", or what came instead."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.netloc, timeout=ANSWER_SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", place.path, json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            return f"status {response.status}"
        whole = json.loads(content)["choices"][0]
    except (OSError, ValueError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()
    return "answered" if whole["finish_reason"] in ("stop", "length") else "an unfinished answer"


def told_address(server: subprocess.Popen[str]) -> tuple[str, str]:
    """Where a server that is starting listens, and its model's name: from its record."""
    line = server.stdout.readline() if server.stdout is not None else ""
    if not line:
        raise SystemExit(f"the server has not started; its exit code is {server.wait(10)}")
    record = json.loads(line)
    return str(record["address"]), str(record["models"][0])


def memory_mb(pid: int) -> float:
    """Memory of a process and of all below it."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for one in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss / 1e6
    return total


RUN = {"trials": many_trials, "sweeps": several_sweeps, "endpoint": asked_endpoint}


def main() -> int:
    """Run the parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--sweeps", type=int, default=4)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in RUN]
    if unknown:
        parser.error(f"--parts: {', '.join(unknown)} is none of {', '.join(PARTS)}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="load-"))
    parts = []
    for name in options.parts:
        parts.append(RUN[name](folder / name, options))
        print(f"{name:<10} {json.dumps(parts[-1].figures)}", flush=True)
        for problem in parts[-1].problems:
            print(f"           wrong: {problem}", flush=True)
    if options.json:
        write_json(options.json, {part.name: part.figures for part in parts})
    wrong = any(part.problems for part in parts)
    if not wrong and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(answer(main))
