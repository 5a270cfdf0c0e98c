"""The log of a command that runs elsewhere: what Ray writes around it is left out, in the form in
which Ray writes it.
"""

from __future__ import annotations

import pytest

from orchestrator.job_environment import MARK
from orchestrator.output.log_relay import Relay
from orchestrator.output.log_summary import REFUSED, refused, sweep_told
from orchestrator.output.remote_state import RemoteState, as_line
from tests.support.apiserver import recording

NOISE = [
    "2026-11-23 17:37:11,950\tINFO job_manager.py:581 -- Runtime env is setting up.",
    "2026-11-23 17:37:11,950 INFO job_manager.py:581 -- Runtime env is setting up.",
    "Running entrypoint for job train-x7k2p: env --chdir=/app python -m orchestrator",
]
OURS = [
    "plan    lora-7f3a91 · 6 trials",
    "trial 1 INFO of ours",
    "a user's line about job_manager.py:1 -- and more",
]


def test_what_ray_adds_is_not_shown_and_all_else_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Ray puts a tab before the level; the pattern had a space."""
    relay = Relay()
    state = as_line(RemoteState(sweep="lora-7f3a91", ended=1, total=6))
    relay.feed("\n".join([*NOISE, state, *OURS, MARK, "best", REFUSED]) + "\n")
    out, err = capsys.readouterr()
    assert err.splitlines() == OURS and out == "best\n"
    assert relay.refused


def test_the_lines_of_a_recorded_log_that_are_rays_are_known() -> None:
    (message,) = {
        entry["object"]["status"]["message"]
        for entry in recording("03")
        if entry["object"].get("status", {}).get("reason") == "AppFailed"
    }
    lines = message.splitlines()[1:]
    assert any("Runtime env is setting up" in line for line in lines)
    from orchestrator.output.log_relay import NOISE as PATTERN

    assert not [line for line in lines if "job_manager" in line and not PATTERN.search(line)]


def test_the_sweeps_name_and_a_refusal_are_read_from_a_log() -> None:
    line = as_line(RemoteState(sweep="lora-7f3a91"))
    assert sweep_told(f"ray  x\n{line}\ntrial 1") == "lora-7f3a91"
    assert sweep_told(f"a user's text with {line}") is None and sweep_told("") is None
    assert sweep_told(line[:-4]) is None, "a line that is being written"
    assert refused(f"a\n{REFUSED}\n") and not refused(f"a {REFUSED}")
