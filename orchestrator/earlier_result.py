"""The result of an earlier run of the same sweep: whether it is all that is asked for, and whether
it is still true of the store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.config.settings import Config
from orchestrator.errors import ExperimentDeleted, TrackingError
from orchestrator.evaluation import kept_result as evaluation_kept_result
from orchestrator.evaluation.kept_result import renew, unchecked
from orchestrator.outcome import Outcome
from orchestrator.output import result
from orchestrator.output.heartbeat import print_line
from orchestrator.output.sweep_result import SweepResult
from orchestrator.plan import planner as planning
from orchestrator.plan import sizing
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import Node
from orchestrator.storage.json_files import read_sealed, write_sealed
from orchestrator.storage.paths import sweep_folder
from orchestrator.tracking import mlflow_store, shown_commands
from orchestrator.tracking.outbox import OutboxWorker
from orchestrator.tracking.uri import database_file


def as_begun(plan: Plan, asked: Config, nodes: tuple[Node, ...] | None) -> Plan:
    """The plan with what an earlier run of the sweep has chosen of what `asked` leaves open, once
    the storage has told it. Raises ConfigError for a budget that pays nothing more.
    """
    folder = sweep_folder(asked.storage, plan.name)
    chooses = (asked.left_open or asked.sweep.space) and (folder / sizing.FILE).exists()
    if asked.fresh or not (chooses or asked.budget.is_set):
        return plan
    return planning.make(asked, nodes)


def kept_result(config: Config, plan: Plan, folder: Path, about: Outcome) -> SweepResult | None:
    """What an earlier run of the same sweep has found, if that covers all that is asked for now."""
    earlier = result.read(read_sealed(folder / "result.json"))
    if earlier is None and (folder / "result.json").exists():
        print_line(
            f"{folder / 'result.json'} is damaged, or of another version: the winner is judged "
            "again"
        )
    if earlier is None or earlier.state != "finished" or earlier.steps < config.train.steps:
        return None
    if earlier.judging != about.judging():
        print_line(
            "the winner is judged again: before it was by other rules (job.confidence, "
            "job.max_new_tokens, job.examples, tracking.same_task, registry.*, final.*, export.*, "
            "device.*)"
        )
        return None
    wider = earlier.trials.total - earlier.copies < plan.num_trials or allows_more(earlier, config)
    again = config.retry and earlier.trials.failed > 0
    elsewhere = earlier.target != about.target()
    gone = about.uri.startswith("sqlite:") and not database_file(about.uri).exists()
    return None if wider or again or elsewhere or gone else earlier


def allows_more(earlier: SweepResult, config: Config) -> bool:
    """Whether the limit that has ended an earlier run is a larger one now, or gone."""
    budget = earlier.budget or {}
    name = budget.get("reached")
    if name is None:
        return False
    if name == "deadline":
        return config.budget.deadline != budget.get("deadline")
    before = (budget.get("limits") or {}).get(name, 0.0)
    limit = config.budget.amounts().get(name)
    return limit is None or limit > before


def show_again(
    earlier: SweepResult,
    config: Config,
    plan: Plan,
    folder: Path,
    connect: Callable[[], mlflow_store.MlflowStore],
) -> SweepResult | None:
    """The earlier result, as far as the tracking store still has it so; None where its end has to
    be done again.
    """
    asked = {
        "steps": (earlier.steps, config.train.steps),
        "trials": (earlier.trials.total - earlier.copies, plan.num_trials),
    }
    more = [
        f"{had} {quantity}, not the {wanted} asked for now"
        for quantity, (had, wanted) in asked.items()
        if had != wanted
    ]
    description = f"its result, of {' and '.join(more)}" if more else "its result"
    shown = f"sweep {plan.name} is finished; this is {description} (fresh=true starts anew)"
    try:
        store = connect()
        gone = evaluation_kept_result.missing(store, earlier)
        if gone is not None:
            print_line(
                f"sweep {plan.name} is finished, but {gone}: its winner is judged and registered "
                "again"
            )
            (folder / "tracking.json").unlink(
                missing_ok=True
            )  # what MLflow lacks is told again; what it has is found again
            return None
        changed = renew(store, earlier)
    except ExperimentDeleted:
        raise
    except TrackingError as error:
        unchecked(earlier, str(error))
        print_line(shown)
        return earlier
    print_line(shown)
    if earlier.missing:
        writer = OutboxWorker(lambda: store, folder)
        writer.start()
        earlier.missing = missing(writer, config)
        changed = True
    if changed:
        write_sealed(folder / "result.json", earlier.as_json())
    return earlier


def missing(writer: OutboxWorker, config: Config) -> str | None:
    """What the tracking store lacks after it was given time, in words."""
    left = writer.close(config.tracking.patience_seconds)
    where = (
        f"{writer.refused_file} on the cluster" if shown_commands.away() else writer.refused_file
    )
    return result.unfinished(left, writer.error, writer.num_refused, where)
