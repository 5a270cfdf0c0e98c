"""What every command prints: messages, the text of --help, and how numbers and settings read. Loads
nothing, so that a mistake is answered at once.
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

from orchestrator.config import credentials


def terminal_width() -> int | None:
    """Columns of the terminal that an answer is printed on; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def error(text: str) -> None:
    """One message on stderr."""
    first, _, details = credentials.mask(text).partition("\n")
    shown = first if first.startswith("conf:") else f"error: {first}"
    print(shown + (f"\n{details}" if details else ""), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One remark on stderr."""
    print(f"note    {credentials.mask(text)}", file=sys.stderr, flush=True)


def usage(groups: dict[str, list[str]]) -> str:
    """The --help text."""
    listed = "\n".join(f"  {group:<10} {', '.join(names)}" for group, names in groups.items())
    return f"""Find and ship the best small language model for a task.

  python -m orchestrator +sweep=lora                  sweep rank, learning rate and data mix; register the winner
  python -m orchestrator                              one training run
  python -m orchestrator +sweep=lora dry_run=true     print the plan and stop
  python -m orchestrator +fleet=languages             several tasks over one base, tuned and served together
  python -m orchestrator data=files data.folder=DIR   your own rows: a folder, a file, s3://... or hf://ORG/NAME
  python -m orchestrator job=new NAME --from data.jsonl         an experiment on your own rows, written for you to edit
  python -m orchestrator job=check data=files data.folder=DIR   what may be wrong with your rows, without a sweep
  python -m orchestrator job=predict model_uri=models:/NAME@champion prompt="..."
  python -m orchestrator job=export model_uri=models:/NAME@champion export.format=gguf-q8_0   the file that ships

Groups, as GROUP=CHOICE (sweep, experiment, fleet and device as +GROUP=CHOICE):
{listed}

Settings, as NAME=VALUE: every line that `--cfg job` prints, for instance
  optim.lr=3e-4  adapter.rank=8  train.steps=400  sweep.num_trials=12  storage=FOLDER  seed=1
  output=json    the result as one JSON line on stdout
  fresh=true     forget what an earlier run of the same sweep has done

Flags:
  --cfg job          print every setting: those of the configuration as YAML, the others with their defaults
  --config-dir DIR   more choices for the groups, from a folder laid out like conf/
  --from FILE        the rows of job=new

Exit codes: 0 done, 1 work failed, 2 bad input, 130 interrupted. The same command again continues where it stopped."""


def plural(count: int, noun: str) -> str:
    """ "1 trial", "2 trials"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """3m10s."""
    minutes, below_a_minute = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{below_a_minute:02d}s" if minutes else f"{below_a_minute}s"


def short(point: dict[str, Any]) -> str:
    """A point by its settings' last names; a source's weight by the source's."""
    return " ".join(
        f"{last_name(path)}={value:.4g}"
        if isinstance(value, float)
        else f"{last_name(path)}={value}"
        for path, value in point.items()
    )


def last_name(path: str) -> str:
    """adapter.rank -> rank; data.sources.terms.weight -> terms; data.neighbours.count ->
    neighbours.
    """
    keys = path.split(".")
    return keys[-2] if keys[-1] in ("weight", "count") and len(keys) > 2 else keys[-1]
