"""What job=export and job=serve need, and where they cannot work."""

from __future__ import annotations

from orchestrator.config.settings import Config

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""


def shipping_problems(config: Config) -> list[tuple[str, str]]:
    """Settings of job=export and job=serve that cannot work, as (dotted path, message) pairs."""
    kind = config.job.kind
    if kind not in ("export", "serve"):
        return []
    faults = []
    if not (config.model_uri or "").strip() and not (kind == "serve" and config.serve.models):
        faults.append(
            ("model_uri", f"must be set for job={kind}: models:/NAME@champion, or a folder")
        )
    if not config.runs_here:
        faults.append(("cluster", f"job={kind} runs on this machine; leave it out"))
    if kind == "export" and not config.export.score and config.export.rows is not None:
        faults.append(("export.rows", "has no effect: export.score=false scores no row"))
    if kind == "serve" and config.serve.host not in LOOPBACK and config.serve.token is None:
        faults.append(
            (
                "serve.token",
                f"must be set for serve.host={config.serve.host}, where others can ask: write "
                "serve.token='${secret:NAME}' with the token in the variable NAME",
            )
        )
    return faults
