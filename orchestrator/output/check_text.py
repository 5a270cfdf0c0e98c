"""What the checks of the rows say, as text: in full for job=check, a line each for a dry run."""

from __future__ import annotations

from jobs.check_settings import CHECKS
from orchestrator.plan.data_checks import CheckReport


def full_text(report: CheckReport, title: str) -> str:
    """All checks with their warnings and examples; a state, a name and what was seen."""
    lines = [f"{'data':<8}{title}"]
    states = {result.name: result for result in report.results}
    for name, looks_for in CHECKS.items():
        if name in report.off:
            lines.append(f"{'off':<8}{name}: not made, as data.checks.off says ({looks_for})")
            continue
        if name not in states:
            lines.append(f"{'unknown':<8}{name}: needs the base model, which is not here")
            continue
        result = states[name]
        lines.append(f"{result.state:<8}{name}: {result.summary}")
        lines += [f"{'':<8}- {line}" for line in result.warnings]
        lines += [f"{'':<8}  {line}" for line in result.details]
        if result.fatal:
            lines += [f"{'':<8}! {line}" for line in result.fatal.splitlines()]
    lines.append(f"{'result':<8}{outcome(report)}")
    return "\n".join(lines)


def short_lines(report: CheckReport) -> list[str]:
    """A line for each check; what should be looked at stands among the plan's notes."""
    lines = [f"{result.state:<8}{result.name}: {result.summary}" for result in report.results]
    if report.off:
        lines.append(f"{'off':<8}{', '.join(report.off)}: data.checks.off")
    if report.unknown:
        lines.append(f"{'unknown':<8}{', '.join(report.unknown)}: needs the base model")
    for line in report.refusal.splitlines():
        lines.append(f"{'':<8}! a run is refused: {line}")
    return lines


def outcome(report: CheckReport) -> str:
    """What follows from the checks."""
    fatal = [result.name for result in report.results if result.fatal]
    warned = [result.name for result in report.results if result.state == "warning"]
    if fatal:
        return f"a run is refused: {', '.join(fatal)}"
    if warned:
        return f"a run starts; look at {', '.join(warned)}"
    return "a run starts; nothing to look at"
