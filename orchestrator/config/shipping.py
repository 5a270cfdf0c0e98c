"""Settings of the file that ships: how it is made and measured, how it is served, and the base
models that it may be made of.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from jobs.config import config, require
from jobs.export.formats import FORMATS
from orchestrator.config.device_settings import profiles_of

MOST_THREADS = 1024
DEFAULT_FORMAT = "gguf-q8_0"
LOOKS_AT = (
    *("model_uri", "model", "storage", "tracking.uri", "tracking.experiment", "output", "dry_run"),
    *("job.kind", "job.confidence", "cluster"),
)
SHIPPING = {"export": (*LOOKS_AT, "export", "device"), "serve": (*LOOKS_AT, "serve")}
"""What these jobs look at; a group stands for its settings."""


@config
class Export:
    """A version as a file that other programs run: job=export, and the winner of a sweep."""

    format: str | list[str] | None = None
    """safetensors, gguf-f16, gguf-q8_0, gguf-q5_1, gguf-q5_0, gguf-q4_1, gguf-q4_0, gguf-adapter,
    or a K-quant: gguf-q4_k_m, gguf-q5_k_m, gguf-q6_k; a sweep takes a list of them. None: gguf-q8_0
    for job=export, and for a sweep with limits of a device; else a sweep exports nothing.
    """
    folder: str | None = None
    """Where it is written. None: exports/NAME-VERSION/FORMAT in the storage."""
    score: bool = True
    """Score the file on the version's test rows, and measure what it costs."""
    rows: int | None = None
    """Test rows that it is scored on, spread over all. None: all."""
    threads: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of threads at which its speed is measured. []: it is not."""

    @property
    def formats(self) -> list[str]:
        """The formats that were asked for."""
        if self.format is None:
            return []
        return [self.format] if isinstance(self.format, str) else list(self.format)

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        require(
            (
                not unknown and self.format != [],
                f"export.format must be one of {', '.join(FORMATS)}, got "
                f"{', '.join(map(repr, unknown)) or 'an empty list'}",
            ),
            (
                len(set(self.formats)) == len(self.formats),
                f"export.format must name each once, got {', '.join(self.formats)}",
            ),
            (
                self.folder is None or bool(self.folder.strip()),
                "export.folder is empty; leave it out, or name a folder",
            ),
            (
                self.rows is None or self.rows >= 1,
                f"export.rows must be at least 1, got {self.rows}; export.score=false scores none",
            ),
            (
                all(1 <= count <= MOST_THREADS for count in self.threads),
                f"export.threads must be numbers from 1 to {MOST_THREADS}, got {self.threads}",
            ),
        )


@config
class Serve:
    """job=serve: an OpenAI-compatible endpoint over exported files."""

    models: dict[str, str] = field(default_factory=dict)
    """More models over the same base, by the name that a request gives: exports, or versions as
    model_uri takes them.
    """
    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine's own needs serve.token."""
    port: int = 8080
    """0: a free one, which is printed."""
    token: str | None = None
    """What clients have to send as their API key; ${secret:NAME} reads a variable or a file."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Names by which clients may call it, beside serve.host and this machine's own."""
    slots: int = 4
    """Requests that are answered at once; others wait."""
    threads: int | None = None
    """None: one for each core."""

    def __post_init__(self) -> None:
        require(
            (0 <= self.port < 65536, f"serve.port must be between 0 and 65535, got {self.port}"),
            (bool(self.host.strip()), "serve.host is empty; 127.0.0.1 is this machine alone"),
            (
                self.token is None or len(self.token) >= 8,
                "serve.token must have at least 8 characters",
            ),
            (1 <= self.slots <= 256, f"serve.slots must be between 1 and 256, got {self.slots}"),
            (
                self.threads is None or 1 <= self.threads <= MOST_THREADS,
                f"serve.threads must be between 1 and {MOST_THREADS}, got {self.threads}",
            ),
        )


@config
class Pareto:
    """+sweep=pareto: the same sweep over several base models, and one front over their files."""

    bases: list[str] = field(default_factory=list)
    """Base models: names of conf/model, or folders. []: the sweep has one, model=NAME."""

    def __post_init__(self) -> None:
        require(
            (
                all(base.strip() for base in self.bases),
                "pareto.bases holds an empty name; name base models of conf/model, or folders",
            ),
            (
                len(set(self.bases)) == len(self.bases),
                f"pareto.bases must name each once, got {', '.join(self.bases)}",
            ),
        )


def formats_of(config: Any) -> list[str]:
    """The formats in which a sweep exports its winner; of limits alone the default one."""
    formats = config.export.formats
    return formats or ([DEFAULT_FORMAT] if profiles_of(config.device) else [])


def of_other_job(config: Any, path: str) -> str | None:
    """Why a setting of the file that ships changes nothing, for a job that makes or serves none."""
    job = path.partition(".")[0]
    if config.job.kind == job:
        return None
    if job == "export" and config.job.kind == "train":
        if path == "export.folder":
            return "it belongs to job=export; a sweep keeps its files in its storage"
        if formats_of(config):
            return None
        return "it belongs to job=export; export.format=gguf-q8_0 has a sweep export its winner"
    return f"it belongs to job={job}"
