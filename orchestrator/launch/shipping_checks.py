"""What job=export, job=serve and a sweep that exports its winner need, and where they cannot
work.
"""

from __future__ import annotations

from jobs.export import k_quants
from jobs.export.formats import FORMATS
from jobs.files import filesystem
from jobs.llama_cpp.runtime import check_installed
from jobs.onnx_genai import runtime as onnx_runtime
from orchestrator.config.device_settings import profiles_of
from orchestrator.config.settings import Config
from orchestrator.config.shipping import DEFAULT_FORMAT, formats_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""


def shipping_problems(config: Config) -> list[tuple[str, str]]:
    """Settings of job=export and job=serve that cannot work, as (dotted path, message) pairs."""
    kind = config.job.kind
    if kind == "train":
        return sweep_problems(config)
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
    if kind == "export" and len(config.export.formats) > 1:
        text = ", ".join(config.export.formats)
        faults.append(("export.format", f"job=export makes one file; write one of {text}"))
    if kind == "export" and profiles_of(config.device):
        faults += export_limit_problems(config)
    if kind == "serve" and config.serve.host not in LOOPBACK and config.serve.token is None:
        faults.append(
            (
                "serve.token",
                f"must be set for serve.host={config.serve.host}, where others can ask: write "
                "serve.token='${secret:NAME}' with the token in the variable NAME",
            )
        )
    return faults


def export_limit_problems(config: Config) -> list[tuple[str, str]]:
    """Limits of a device that job=export cannot look at."""
    faults = []
    if not (config.model_uri or "").startswith("models:"):
        faults.append(("device", "has no effect: only a version of the registry gets an alias"))
    if not config.export.score:
        faults.append(("export.score", "is false, and a device takes files with a score"))
    if config.device.limits.asked and config.device.name is None:
        faults.append(
            ("device.name", "must be set for job=export: the alias champion-NAME goes to the file")
        )
    return faults + limit_problems(config, config.export.formats or [DEFAULT_FORMAT])


def sweep_problems(config: Config) -> list[tuple[str, str]]:
    """Why a sweep cannot export its winner, or know whether it is within a device's limits."""
    formats = formats_of(config)
    if not formats:
        return []
    faults = []
    if not config.export.score:
        faults.append(
            ("export.score", "is false, and a sweep scores what it exports; leave it out")
        )
    if filesystem.is_uri(config.storage):
        faults.append(
            (
                "export.format",
                f"a sweep keeps its files in a folder, and storage={config.storage} is none; leave "
                "it out, and export the registered version with job=export",
            )
        )
    if "gguf-adapter" in formats and config.adapter.kind == "full":
        faults.append(
            (
                "export.format",
                "gguf-adapter is an adapter alone, and adapter.kind=full trains every weight; "
                "export the whole model, such as export.format=gguf-q8_0",
            )
        )
    if config.runs_here and (missing := not_installed(formats)) is not None:
        faults.append(("export.format", missing))
    return faults + limit_problems(config, formats)


def not_installed(formats: list[str]) -> str | None:
    """What the formats need and is not there, with the remedy."""
    kinds = {FORMATS[name].kind for name in formats}
    try:
        if kinds - {"safetensors", "onnx"}:
            check_installed()
        if "gguf-k" in kinds:
            k_quants.check_installed()
        if "onnx" in kinds:
            onnx_runtime.check_installed()
    except ValueError as error:
        return str(error)
    return None


def limit_problems(config: Config, formats: list[str]) -> list[tuple[str, str]]:
    """Limits that nothing would be measured for."""
    faults = []
    for profile in profiles_of(config.device):
        asked = profile.limits.asked
        measured = [name for name in asked if name != "max_size_mb"]
        if measured and {FORMATS[name].kind for name in formats} == {"safetensors"}:
            faults.append(
                (
                    f"{profile.path}.{measured[0]}",
                    "is measured of GGUF and ONNX files alone; add one to export.format, such as "
                    "gguf-q8_0",
                )
            )
        untimed = not config.export.threads and profile.limits.threads is None
        unknown = [name for name in ("min_tokens_per_second", "max_memory_mb") if name in asked]
        if unknown and untimed:
            faults.append(
                (
                    "export.threads",
                    "is empty, so that neither speed nor memory is measured for "
                    f"{profile.path}.{unknown[0]}",
                )
            )
    return faults
