"""What holds a job's work up at present: reasons kept by the object that they are about, and
forgotten as soon as they hold no more. Pure.

The same reason comes from several places: a pod's condition, a container's state, an event, a
condition of the RayCluster. An event stays for an hour, so it counts only as long as what it is
about still waits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOUR = r"\x1b\[[0-9;]*m"
WORKER = r"-([a-z0-9]([-a-z0-9]*[a-z0-9])?)-worker-[a-z0-9]{5}$"
"""How the operator ends the name of a worker's pod: group, then a random ending."""
HEAD = r"-head-[a-z0-9]{5}$"


@dataclass(frozen=True)
class Reason:
    """Why something waits, and which pods do: head, or a group of workers; empty where that is not
    known."""

    text: str
    who: str = ""


class Reasons:
    """The reasons that hold now, the newest last."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, str], Reason] = {}
        """By source, name of the object and kind."""

    def put(self, source: str, name: str, kind: str, reason: Reason) -> None:
        """A reason that holds from now on. The same in other words is no news."""
        key = (source, name, kind)
        if key not in self._held or deduplication_key(self._held[key].text) != deduplication_key(
            reason.text
        ):
            self._held.pop(key, None)
            self._held[key] = reason

    def drop(self, source: str = "", name: str = "", kind: str = "") -> None:
        """Forget the reasons of a source, of an object, or of a kind of it: they hold no more."""
        wanted = (source, name, kind)
        for key in [*self._held]:
            if all(pattern in ("", value) for pattern, value in zip(wanted, key, strict=True)):
                del self._held[key]

    @property
    def newest(self) -> str:
        """The reason that came last, in words; empty when nothing is known to hold the work up."""
        return next(reversed(self._held.values())).text if self._held else ""

    @property
    def who(self) -> tuple[str, ...]:
        """The pods that wait for that: head, or groups of workers, in the order in which they began
        to."""
        alike = [
            reason.who
            for reason in self._held.values()
            if deduplication_key(reason.text) == deduplication_key(self.newest)
        ]
        return tuple(dict.fromkeys(filter(None, alike)))


def who_is(name: str, labels: dict[str, str] | None = None) -> str:
    """Which pods a pod is one of, by its labels or by its name: head, or its group of workers."""
    if labels and "ray.io/node-type" in labels:
        return "head" if labels["ray.io/node-type"] == "head" else labels.get("ray.io/group", "")
    if re.search(HEAD, name):
        return "head"
    group = re.search(rf"-[a-z0-9]{{5}}{WORKER}", name)
    return group[1] if group else ""


def deduplication_key(text: str) -> str:
    """What makes two reasons the same, although the operator makes up new names and a pull is told
    in five ways."""
    image = re.search(r"pull.*?image \"([^\"]+)\"", text)
    return f"image {image[1]}" if image else re.sub(r"-[a-z0-9]{5}\b", "-*", text)


def clean(text: str) -> str:
    """A message on one line, without colours, short enough to read."""
    text = " ".join(re.sub(COLOUR, "", text).split())
    return text if len(text) <= 600 else f"{text[:600]}..."
