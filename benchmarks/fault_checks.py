"""Whether a hurt command ended as it should: its code, its words, and what `runs list` says."""

from __future__ import annotations

import json
import signal

from benchmarks.fault_actions import ACTIONS
from benchmarks.fault_injection import SIGNALS
from benchmarks.stage import RUN_SECONDS, Ended, Stage

SILENT_SECONDS = 20.0
"""How soon a command must have ended whose Ray is lost, or that was asked to stop."""


def check_end(stage: Stage, ended: Ended, kind: str, phase: str) -> list[str]:
    """What is wrong with how the hurt command has ended. Ray ends the command where it stands when
    it loses its daemons while it connects to them, so that nothing is written of it.
    """
    target, _, name = kind.partition("-")
    found = []
    if ended.code == -999:
        return [f"hangs: no end within {RUN_SECONDS:g} s; its last words: {last_words(ended)}"]
    if "Traceback" in ended.err:
        found.append(f"traceback: {last_words(ended)}")
    killed = target == "checkpoint" or (name == "kill" and target in ("driver", "group"))
    if killed:
        return found + (
            [] if ended.code == -signal.SIGKILL else [f"code {ended.code} of a killed command"]
        )
    asked = target in ("driver", "group", "all") and name in SIGNALS
    if ended.code == 0:
        return found
    expected = 130 if asked else 1
    if ended.code != expected:
        found.append(f"code {ended.code}, not {expected}: {last_words(ended)}")
    waits = kind in ACTIONS  # for room, for a server, or for a process that stands still
    if not waits and ended.after_fault is not None and ended.after_fault > SILENT_SECONDS:
        found.append(f"ended {ended.after_fault:.0f} s after the fault")
    errors = [line for line in ended.err.splitlines() if line.startswith("error:")]
    if not ended.result and len(errors) != 1:
        found.append(f"{len(errors)} error lines: {last_words(ended)}")
    if any("same command" not in line for line in errors):
        found.append(f"the error does not say what continues: {errors[0][:200]}")
    states = ("interrupted",) if asked else ("failed", "interrupted")
    unwritten = target == "disk" or phase == "starting"
    if unwritten and not asked:
        states = (*states, "died")
    return found + check_listed(stage, states)


def check_listed(stage: Stage, states: tuple[str, ...]) -> list[str]:
    """Whether `runs list` knows how the sweep stands."""
    if not (stage.storage / "sweeps").exists():
        return []
    done = stage.runs("list", "--json")
    records = json.loads(done.out) if done.code == 0 else []
    return [
        f"runs list says {record['state']}, not {states[0]}"
        for record in records
        if record["state"] not in states
    ]


def last_words(ended: Ended) -> str:
    """The end of what a command has said."""
    return " / ".join(line.strip()[:160] for line in ended.err.strip().splitlines()[-3:])
