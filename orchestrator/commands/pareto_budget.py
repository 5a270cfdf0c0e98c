"""What a budget means for the bases of +sweep=pareto: none is paid for in vain, and those that have
a score are compared without the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError
from orchestrator.plan import planner as planning


def check_budgets(parts: Mapping[str, Config]) -> None:
    """Raise ConfigError, before any base is paid for, where one of them (by name) cannot be trained
    with its part of the budget. Where one has a score from an earlier command, that is compared.
    """
    refusals: list[tuple[str, str]] = []
    has_score = False
    for base, config in parts.items():
        if not config.budget.is_set or config.cluster.kind != "local":
            continue
        try:
            has_score |= planning.make(config).account.scored
        except ConfigError as error:
            if not is_unpaid(error):
                raise
            refusals += [(path, f"{text} (for {base})") for path, text in error.problems]
    if refusals and not has_score:
        raise ConfigError(refusals)


def why_unpaid(config: Config) -> str | None:
    """Why the budget does not pay a base to its first score, with what is left of it by now; None
    where it does, or where there is a score.
    """
    if not config.budget.is_set:
        return None
    try:
        planning.make(config)
    except ConfigError as error:
        if is_unpaid(error):
            return "; ".join(f"{path} {text}" for path, text in error.problems)
        raise
    return None


def is_unpaid(error: ConfigError) -> bool:
    """Whether nothing but the budget is refused."""
    return all(path.startswith("budget.") for path, _ in error.problems)
