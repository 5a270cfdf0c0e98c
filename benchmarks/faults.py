"""A small sweep, hurt at a random moment and continued by the same command, again and again: is the
outcome the undisturbed one?

python -m benchmarks.faults --rounds 50 --seed 0 [--kinds driver-kill,gcs-kill,...] [--executors
pack,plain] [--results FOLDER]

A round starts the sweep in a storage of its own and hurts it: a signal to one of its processes (or
to its whole group, as a terminal or `timeout` does, or to all of its processes, as systemd does), a
process that stands still for a while, a full, failing or hanging disk, a damaged checkpoint, a
killed MLflow server, a second command on the same storage (`benchmarks/fault_actions.py`). Where
the command has ended without its result, the same command is given again. Then trials and scores
must be those of an undisturbed sweep, adapters the same to the bit, MLflow must hold each trial
once, with every step once, and within seconds after each end nothing may be left of it: processes,
locks, temporary files, shared memory. A command that ends must say so in one line, without a
traceback, and `runs list` must know.

Rounds are kept in RESULTS/rounds.jsonl by seed, kinds, executors and code: the same command again
goes on with those that are missing; --fresh begins anew. All kinds take their turn; a round is the
same for the same seed, number, kinds and executors but for the machine's own timing. Exit code 1
when a round was not as it should be; its storage is kept for a look, and the command to repeat it
alone (--only NUMBER) is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import aftermath, contenders
from benchmarks.disks import NoDisk
from benchmarks.fault_actions import ACTIONS, fault_of
from benchmarks.fault_checks import check_end, check_listed, last_words
from benchmarks.fault_injection import KINDS, SIGNALS, TARGETS, times_of, wait_for_phase
from benchmarks.stage import Stage
from orchestrator.project import ROOT

MOST_TRIES = 4
FILES = (
    *(*contenders.COMMAND_FILES, "benchmarks/aftermath.py", "benchmarks/disks.py"),
    *("benchmarks/fault*.py", "benchmarks/stage.py"),
)
"""The code that decides what a round does."""


@dataclass
class Round:
    """What was done to a sweep, and what came of it."""

    number: int
    kind: str
    executor: str
    phase: str
    """starting, training or judging: when the fault came."""
    moment: float = 0.0
    """And how many seconds after the start."""
    hit: bool = False
    codes: list[int] = field(default_factory=list)
    lost_seconds: float = 0.0
    end_seconds: float | None = None
    problems: list[str] = field(default_factory=list)
    key: str = ""
    """Of the seed, kinds, executors and code by which it was played."""


def key_of(options: argparse.Namespace, code: str) -> str:
    """What rounds of the same number have to agree in to be the same."""
    parts = [options.seed, options.kinds, options.executors, code]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def give_along(known: Path, storage: Path) -> None:
    """Let a sweep find what an earlier one in its store has found out about the base model: judging
    that takes a third of its time.
    """
    storage.mkdir(parents=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(known / "base-scores.json", storage)


def kind_of(number: int, options: argparse.Namespace) -> str:
    """The fault of a round: all kinds in turn, in an order that the seed decides."""
    turn, place = divmod(number - 1, len(options.kinds))
    return random.Random(f"{options.seed} turn {turn}").sample(options.kinds, len(options.kinds))[
        place
    ]


def play(number: int, options: argparse.Namespace, wanted: dict[str, Any], toy: Path) -> Round:
    """One round."""
    chance = random.Random(f"{options.seed} {number}")
    kind, executor = kind_of(number, options), chance.choice(options.executors)
    normal = wanted[executor]
    this, folder = Round(number, kind, executor, ""), options.results / f"round-{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    fault = fault_of(kind, chance)
    try:
        stage = fault.stage(folder, toy, executor)
    except NoDisk as error:
        this.phase = f"left out: {error}"
        return this
    give_along(options.results / f"undisturbed-{executor}" / "storage", stage.storage)
    try:
        began = time.monotonic()
        process = stage.start()
        this.phase = wait_for_phase(stage, process, kind, chance, normal["times"])
        while process.poll() is None and not this.hit:
            this.hit = fault.strike(stage, process)
            time.sleep(0.0 if this.hit else 0.05)
        at = time.monotonic()
        this.moment = round(at - began, 2)
        ended = stage.finish(process, began, at)
        fault.heal(stage)
        this.end_seconds = None if ended.code == 0 else round(ended.after_fault or 0.0, 1)
        (folder / "first.err").parent.mkdir(parents=True, exist_ok=True)
        (folder / "first.err").write_text(ended.err, encoding="utf-8")
        this.codes, seconds = [ended.code], ended.seconds
        if this.hit:
            this.problems += fault.problems + check_end(stage, ended, kind, this.phase)
        left = [text for text in stage.left() if not fault.excuses(text)]
        this.problems += [f"left behind: {text}" for text in left]
        while ended.code != 0 and len(this.codes) < MOST_TRIES:
            ended = stage.run()
            seconds += ended.seconds
            this.codes.append(ended.code)
            (folder / f"again-{len(this.codes)}.err").write_text(ended.err, encoding="utf-8")
            if ended.code != 0:
                this.problems.append(f"continued with code {ended.code}: {last_words(ended)}")
        this.lost_seconds = round(seconds - normal["seconds"], 1)
        if ended.code == 0:
            this.problems += aftermath.differences(
                aftermath.account(stage.storage, stage.database, ended.result), normal["account"]
            )
            this.problems += check_listed(stage, ("finished",)) + aftermath.litter(stage.storage)
        this.problems += [f"left behind at the end: {text}" for text in stage.left()]
    finally:
        fault.heal(stage)
        stage.close()
        fault.leave(stage)
    if not this.problems and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return this


def undisturbed(options: argparse.Namespace, toy: Path, code: str) -> dict[str, Any]:
    """What the sweep comes to by itself, for each executor; kept for the next time, while the code
    is the same.
    """
    file = options.results / "undisturbed.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    known = kept["sweeps"] if kept.get("code") == code else {}
    for executor in sorted({*options.executors}):
        if executor in known:
            continue
        folder = options.results / f"undisturbed-{executor}"
        shutil.rmtree(folder, ignore_errors=True)
        stage = Stage(folder, toy, executor)
        try:
            ended = stage.run()
            if ended.code != 0:
                sys.exit(
                    f"the undisturbed sweep with executor={executor} ends with code {ended.code}: "
                    f"{ended.err[-2000:]}"
                )
            left = stage.left() + aftermath.litter(stage.storage)
            known[executor] = {"seconds": ended.seconds, "left": left}
            known[executor] |= {
                "account": aftermath.account(stage.storage, stage.database, ended.result),
                "times": times_of(stage.storage, ended.seconds),
            }
        finally:
            stage.close()
        say(
            f"undisturbed  {executor}  {ended.seconds:.1f} s"
            + "".join(f"\n    left behind: {text}" for text in left)
        )
        file.write_text(json.dumps({"code": code, "sweeps": known}))
    return known


def say(text: str) -> None:
    """A line of the table, at once."""
    print(text, flush=True)


def make_toy(folder: Path) -> Path:
    """300 rows whose answer is a letter for the first word of the prompt."""
    names = ("alpha", "beta", "gamma")
    rows = [
        {"prompt": f"{names[(7 * i) % 3]} {i}", "completion": "ABC"[(7 * i) % 3]}
        for i in range(300)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return folder


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds",
        default=",".join((*KINDS, *ACTIONS)),
        help="faults to choose from, TARGET-SIGNAL or one of " + ", ".join(ACTIONS),
    )
    parser.add_argument("--executors", default="pack,pack,plain", help="executors to choose from")
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks/.results/faults",
        help="folder that keeps rounds and storages",
    )
    parser.add_argument("--only", type=int, metavar="NUMBER", help="play this round alone, anew")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds that are kept")
    parser.add_argument("--keep", action="store_true", help="keep the storages of good rounds too")
    options = parser.parse_args(arguments)
    options.kinds, options.executors = options.kinds.split(","), options.executors.split(",")
    for kind in options.kinds:
        target, _, name = kind.partition("-")
        signals = target in (*TARGETS, "driver", "group", "all") and name in SIGNALS
        if not signals and kind not in ACTIONS:
            parser.error(f"no such kind: {kind}; there are {', '.join((*KINDS, *ACTIONS))}")
    if unknown := set(options.executors) - {"pack", "plain"}:
        parser.error(f"no such executor: {', '.join(sorted(unknown))}; there are pack, plain")
    options.results = options.results.absolute()
    return options


def main(arguments: list[str]) -> int:
    """Play the rounds that are missing; returns the exit code."""
    options = parse(arguments)
    if options.fresh:
        shutil.rmtree(options.results, ignore_errors=True)
    toy = make_toy(options.results / "toy")
    file = options.results / "rounds.jsonl"
    code = contenders.digest_of(FILES)
    key = key_of(options, code)
    lines = file.read_text().splitlines() if file.exists() else []
    known = [Round(**json.loads(line)) for line in lines]
    done = {this.number: this for this in known if this.key == key}
    wanted = undisturbed(options, toy, code)
    numbers = (
        [options.only]
        if options.only is not None
        else [n for n in range(1, options.rounds + 1) if n not in done]
    )
    say(
        f"{'round':>5}  {'fault':<17} {'executor':<8} {'moment':>17} {'ended':>7} {'codes':<12} "
        f"{'lost':>7}  outcome"
    )
    for number in sorted({*done} - {*numbers}):
        tell(done[number])
    for number in numbers:
        done[number] = play(number, options, wanted, toy)
        done[number].key = key
        tell(
            done[number],
            f"python -m benchmarks.faults {' '.join(repeatable(options))} --only {number} --keep",
        )
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(done[number])) + "\n")
    bad = [this for this in done.values() if this.problems]
    hits = sum(this.hit for this in done.values())
    lost = sorted(this.lost_seconds for this in done.values() if this.hit)
    middle = (
        f", {lost[len(lost) // 2]:.0f} s lost in the middle, {lost[-1]:.0f} s at most"
        if lost
        else ""
    )
    say(f"{len(done)} rounds, {hits} of them hit{middle}; {len(bad)} not as they should be")
    return 1 if bad else 0


def repeatable(options: argparse.Namespace) -> list[str]:
    """The options that decide what a round does."""
    return [
        f"--seed {options.seed}",
        f"--kinds {','.join(options.kinds)}",
        f"--executors {','.join(options.executors)}",
    ]


def tell(this: Round, repeat: str | None = None) -> None:
    """A round as a line of the table, and what was wrong with it below."""
    ended = "-" if this.end_seconds is None else f"{this.end_seconds:.1f} s"
    outcome = (
        "missed"
        if not this.hit and not this.problems
        else "as undisturbed"
        if not this.problems
        else "NOT AS IT SHOULD BE"
    )
    codes = " ".join(map(str, this.codes))
    figures = f"{this.moment:>6.1f} s {ended:>7} {codes:<12} {this.lost_seconds:>5.0f} s"
    say(
        f"{this.number:>5}  {this.kind:<17} {this.executor:<8} {this.phase:<8} {figures}  {outcome}"
    )
    for problem in this.problems[:12]:
        say(f"       {problem}")
    if this.problems and repeat:
        say(f"       again: {repeat}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
