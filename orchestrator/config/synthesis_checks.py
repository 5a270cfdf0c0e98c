"""What job=synthesize looks at, which of its settings change nothing for a recipe or a teacher, and
what it cannot do.
"""

from __future__ import annotations

from orchestrator.config.settings import Config

SYNTHESIZE = (
    *("synthesis", "model", "data", "seed", "storage", "fresh", "output", "dry_run"),
    *("tracking.uri", "tracking.experiment", "job.kind", "cluster"),
    *("budget.minutes", "budget.money"),
)
FOR_RECIPES = {
    "documents": ("questions",),
    "passage_words": ("questions",),
    "with_passage": ("questions",),
    "languages": ("back_translation",),
    "language": ("back_translation",),
    "corruptions": ("corrupt",),
    "error_rate": ("corrupt",),
    "abbreviations": ("corrupt",),
    "examples": ("new", "rare"),
    "attributes": ("new", "paraphrase", "rare", "questions"),
    "labels": ("new", "paraphrase", "back_translation", "corrupt"),
}
"""Settings of job=synthesize that some recipes look at, and which."""
FOR_SERVERS = (
    *("key", "temperature", "requests", "timeout_seconds", "patience_seconds", "price", "body"),
)
"""Settings of a teacher or a judge that only a server looks at."""


def of_other_recipe(config: Config, path: str) -> str | None:
    """A setting of job=synthesize that its recipe, teacher or judge does not look at."""
    if config.job.kind != "synthesize":
        return f"job={config.job.kind} makes no rows; write job=synthesize"
    synthesis = config.synthesis
    _, name, *deeper = path.split(".")
    recipes = FOR_RECIPES.get(name)
    if recipes is not None and synthesis.recipe not in recipes:
        return f"synthesis.recipe={synthesis.recipe} does not look at it; {', '.join(recipes)} does"
    if name == "teacher" and synthesis.recipe == "corrupt":
        return "synthesis.recipe=corrupt needs no teacher; leave it out"
    asked = synthesis.judge if name == "judge" else synthesis.teacher
    if name not in ("teacher", "judge") or asked is None or not deeper:
        return None
    if deeper[0] in FOR_SERVERS and asked.url is None:
        return f"a model on this machine has no such setting; synthesis.{name}.url names a server"
    if name == "judge" and synthesis.judge is not None and synthesis.judge.version is not None:
        answers = "the version answers as it was trained"
        return None if deeper[0] == "version" else f"synthesis.judge.version is set: {answers}"
    return None


def of_other_budget(config: Config, path: str) -> str | None:
    """A limit that job=synthesize has not."""
    if config.job.kind != "synthesize" or not path.startswith("budget."):
        return None
    return "job=synthesize is ended by budget.minutes and budget.money alone"


def has_price(config: Config) -> bool:
    """Whether a teacher or a judge costs money."""
    asked = (config.synthesis.teacher, config.synthesis.judge)
    prices = [one.price for one in asked if one is not None and one.price is not None]
    return any(price.input or price.output for price in prices)


def problems(config: Config) -> list[tuple[str, str]]:
    """Where rows cannot be made."""
    if config.job.kind != "synthesize" or config.runs_here:
        return []
    return [
        (
            "cluster",
            f"job=synthesize works where it is typed, not on cluster={config.cluster.kind}; leave "
            "it out, and name a server there: synthesis.teacher.url=http://HOST:PORT/v1",
        )
    ]
