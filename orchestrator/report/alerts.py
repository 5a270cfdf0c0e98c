"""What a sweep's numbers warn of: the best value at an edge of the space, a gain that may be noise,
a baseline that wins, idle slots, a leak, and the like. Pure functions of the sweep's data.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict

from jobs.evaluation import registry
from orchestrator.report.command_text import with_settings
from orchestrator.report.edges import edge_of, widened
from orchestrator.report.judged import Alert, alert, test_values
from orchestrator.report.leaks import leaks
from orchestrator.report.metric_text import is_counted, noise, shown
from orchestrator.report.sweep_data import SweepData, TrialData

IDLE_SHARE = 0.4
FALL_SHARE = 1 / 3
"""More failures than this share of the trials are a warning of their own."""


def alerts(data: SweepData) -> list[Alert]:
    """Every alert, those that change the verdict first."""
    checks = (
        no_score,
        baseline_wins,
        leaks,
        small_gain,
        best_at_edge,
        still_rising,
        not_finite,
        failures,
        idle_slots,
    )
    return [alert for check in checks for alert in check(data)]


def no_score(data: SweepData) -> list[Alert]:
    """Nothing to choose from."""
    if data.trials and not data.ranked():
        return [alert("no_score", f"no trial has a value of {data.metric}: there is no verdict")]
    return []


def baseline_wins(data: SweepData) -> list[Alert]:
    """Who is at least as good as the winner without its training."""
    values = test_values(data)
    candidate = values.pop("candidate", None)
    if candidate is None:
        return []
    sign = 1 if data.maximise else -1
    winners = {name: value for name, value in values.items() if sign * (value - candidate) >= 0}
    command = with_settings(data.command, *longer(data))
    return [
        alert(
            "baseline_wins",
            f"{name} scores {shown(value)} {data.stem} on the test split, the winner "
            f"{shown(candidate)}: do not ship it for this task yet; more steps, more rows, or "
            "another mix may help",
            command,
        )
        for name, value in sorted(winners.items(), key=lambda item: -sign * item[1])
    ]


def longer(data: SweepData) -> list[str]:
    """The settings of a sweep with twice the steps."""
    steps = steps_asked(data)
    return [f"train.steps={2 * steps}"] if steps else []


def steps_asked(data: SweepData) -> int:
    """Steps of a trial that is trained to its end."""
    train = data.config.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    return steps if isinstance(steps, int) else max([t.steps for t in data.trials], default=0)


def small_gain(data: SweepData) -> list[Alert]:
    """Differences that so many rows cannot tell from chance."""
    issued = []
    ties = tied(data)
    if len(ties) > 1:
        numbers = ", ".join(str(trial.index) for trial in ties[:8])
        more = f" and {len(ties) - 8} more" if len(ties) > 8 else ""
        issued.append(
            alert(
                "gain_below_noise",
                f"trials {numbers}{more} are tied: on {data.rows['valid']:,} validation rows their "
                f"{data.stem} differs by less than chance alone gives; more of them would tell",
            )
        )
    values, rows = test_values(data), data.rows.get("test")
    candidate, base = values.get("candidate"), values.get("the untouched base")
    if candidate is None or base is None or not rows or not is_counted(data.metric):
        return issued
    gain = candidate - base
    if 0 < gain <= noise(candidate, base, rows):
        issued.append(
            alert(
                "gain_below_noise",
                f"the gain over the untouched base, {gain:.3f} on {rows:,} test rows, is smaller "
                "than the noise: more test rows would tell",
            )
        )
    return issued


def tied(data: SweepData) -> list[TrialData]:
    """The winner and those that cannot be told from it by the validation rows; nobody for a metric
    whose noise does not follow from the number of rows.
    """
    rows, winner = data.rows.get("valid"), data.winner()
    if not rows or winner is None or winner.score is None or not is_counted(data.metric):
        return []
    top = winner.score
    return [
        trial
        for trial in data.ranked()
        if trial.score is not None
        and abs(top - trial.score) <= noise(top, trial.score, rows)
        and 0 <= trial.score <= 1
        and 0 <= top <= 1
    ]


def best_at_edge(data: SweepData) -> list[Alert]:
    """Knobs whose best value lies at an end of what was searched: the best one may lie beyond."""
    winner = data.winner()
    if winner is None or winner.score is None or len(data.ranked()) < 2:
        return []
    issued = []
    for name, knob in data.space.items():
        if len({str(trial.point.get(knob["path"])) for trial in data.ranked()}) < 2:
            continue
        side = edge_of(knob, winner.point.get(knob["path"]))
        wider = None if side is None else widened(name, knob, side)
        if side is None or wider is None:
            continue
        issued.append(
            alert(
                "best_at_edge",
                f"the best {knob['path']}, {shown(winner.point[knob['path']])}, lies at the "
                f"{side} end of what was searched: a better one may lie beyond",
                with_settings(data.command, wider),
            )
            | {"knob": knob["path"]}
        )
    return issued


def still_rising(data: SweepData) -> list[Alert]:
    """A winner that was still learning when it ended."""
    winner = data.winner()
    if winner is None or len(winner.reports) < 3 or winner.best_step != max(winner.reports):
        return []
    values = [data.value_in(report) for _, report in sorted(winner.reports.items())]
    if len(values) < 3 or values[-1] is None or values[-2] is None:
        return []
    gain = abs(values[-1] - values[-2])
    rows = data.rows.get("valid")
    if is_counted(data.metric) and rows:
        significant = gain > noise(values[-1], values[-2], rows)
    else:
        significant = gain > 0.02 * abs(values[-2] or 1.0)
    if not significant:
        return []
    return [
        alert(
            "still_learning",
            f"trial {winner.index} was still improving when it ended, by {shown(gain)} "
            f"{data.stem} over its last rung: more steps may help",
            with_settings(data.command, *longer(data)),
            "note",
        )
    ]


def not_finite(data: SweepData) -> list[Alert]:
    """Trials whose loss was not a number."""
    bad = [
        trial.index
        for trial in data.trials
        if any(value is None for value in trial.losses.values())
        or any(report.get(registry.VALID_LOSS, 0.0) is None for report in trial.reports.values())
    ]
    if not bad:
        return []
    return [
        alert(
            "diverged",
            f"the loss of {counted(len(bad), 'trial')} was not a number ({numbers_of(bad)}): the "
            "learning rate may be too high there",
            None,
            "note",
        )
    ]


def numbers_of(indices: list[int]) -> str:
    """Some numbers of trials."""
    more = f" and {len(indices) - 6} more" if len(indices) > 6 else ""
    return ", ".join(str(index) for index in indices[:6]) + more


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def causes(data: SweepData) -> dict[str, list[int]]:
    """Failed trials by cause, the most frequent first; numbers in a cause do not tell it from
    another.
    """
    groups: dict[str, list[TrialData]] = defaultdict(list)
    for trial in data.trials:
        if trial.state == "failed":
            groups[re.sub(r"\d+", "#", trial.error or "no cause was told")[:120]].append(trial)
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    return {(g[0].error or "no cause was told"): [t.index for t in g] for g in ordered}


def failures(data: SweepData) -> list[Alert]:
    """Failed trials, one alert a cause."""
    total = max(len(data.trials), 1)
    return [
        alert(
            "failures",
            f"{counted(len(indices), 'trial')} failed ({numbers_of(indices)}): {cause[:300]}",
            with_settings(data.command, "retry=true"),
            "warning" if len(indices) > total * FALL_SHARE else "note",
        )
        for cause, indices in causes(data).items()
    ]


def idle_slots(data: SweepData) -> list[Alert]:
    """Seats that stood empty while the sweep trained."""
    share = idle_share(data)
    if share is None or share < IDLE_SHARE:
        return []
    more = max(2 * (data.num_trials or len(data.trials)), 2 * (data.concurrent or 1))
    return [
        alert(
            "slots_idle",
            f"the {data.concurrent} slots were idle {share:.0%} of the training time: as trials "
            "stop early nobody takes their places; more trials than slots would use them",
            with_settings(data.command, f"sweep.num_trials={more}"),
            "note",
        )
    ]


def idle_share(data: SweepData) -> float | None:
    """Which share of the time of all slots nobody trained in; None where the journal does not tell.
    A trial counts from its start in a command to its last report there; when no trial trains, as
    between two commands, is no training time.
    """
    spans = [span for trial in data.trials for span in trial.spans.items()]
    if not data.concurrent or not spans:
        return None
    training, end = 0.0, -math.inf
    for start, last in sorted(spans):
        training += max(0.0, last - max(start, end))
        end = max(end, last)
    taken = sum(last - start for start, last in spans)
    return max(0.0, 1 - taken / (data.concurrent * training))
