"""Settings of the file that ships: how it is made and measured, and how it is served."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from jobs.config import config, require
from jobs.export.formats import FORMATS

MOST_THREADS = 1024
LOOKS_AT = (
    *("model_uri", "model", "storage", "tracking.uri", "tracking.experiment", "output", "dry_run"),
    *("job.kind", "job.confidence", "cluster"),
)
SHIPPING = {job: (*LOOKS_AT, job) for job in ("export", "serve")}
"""What these jobs look at; a group stands for its settings."""


@config
class Export:
    """job=export: a version as a file that other programs run."""

    format: str = "gguf-q8_0"
    """safetensors, gguf-f16, gguf-q8_0, gguf-q5_1, gguf-q5_0, gguf-q4_1, gguf-q4_0, gguf-adapter,
    or a K-quant: gguf-q4_k_m, gguf-q5_k_m, gguf-q6_k.
    """
    folder: str | None = None
    """Where it is written. None: exports/NAME-VERSION/FORMAT in the storage."""
    score: bool = True
    """Score the file on the version's test rows, and measure what it costs."""
    rows: int | None = None
    """Test rows that it is scored on, spread over all. None: all."""
    threads: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of threads at which its speed is measured. []: it is not."""

    def __post_init__(self) -> None:
        require(
            (
                self.format in FORMATS,
                f"export.format must be one of {', '.join(FORMATS)}, got {self.format!r}",
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


def of_other_job(config: Any, path: str) -> str | None:
    """Why a setting of the file that ships changes nothing, for a job that makes or serves none."""
    job = path.partition(".")[0]
    return None if config.job.kind == job else f"it belongs to job={job}"
