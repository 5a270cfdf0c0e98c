"""What happens on the cluster, as one queue of changes: threads that list and watch, and one per
log, going on after a lost connection.

A watch that ends, breaks or has become too old is no news; what was missed in between is found by
listing again. A log comes back without repeating a line.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from jobs.files.json_types import JsonObject
from orchestrator.kuberay.client import Client
from orchestrator.kuberay.responses import Expired, Refusal, Unreachable

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
SHORTEST_PAUSE_SECONDS = 0.05
ANEW_SECONDS = 60.0
"""Between two attempts to see what this identity may not see, or not any more; it only tells
more.
"""
LONGEST_LOG_PAUSE_SECONDS = 4.0
"""The end of the log is waited for when the job has ended."""


@dataclass(frozen=True)
class Change:
    """One thing that happened."""

    source: str
    """rayjob, event, pod, workload, log, note; or of the connection: away, back, lost."""
    kind: Literal["changed", "gone", ""] = ""
    object: JsonObject = field(default_factory=dict)
    text: str = ""
    """A line of the log, a note, or why following is over."""


Changes = queue.Queue[Change]
LOST = "connection lost, trying again while the job goes on"


class Watch(threading.Thread):
    """The changes of one collection, from a first list on, until `over` is set."""

    def __init__(
        self,
        client: Client,
        source: str,
        path: str,
        query: JsonObject,
        out: Changes,
        over: threading.Event,
    ) -> None:
        super().__init__(daemon=True, name=f"feed-{source}")
        self.client = client
        self.source = source
        self.path = path
        self.query = query
        self.out = out
        self.over = over
        self.must = source == "rayjob"
        """Without the job's own changes there is nothing to follow; the others only tell more."""
        self.objects_by_uid: dict[str, JsonObject] = {}
        self.granted = self.must
        """Whether this was allowed before. Nobody follows a job whom the server has not shown
        it.
        """
        self.lost_since: float | None = None
        self.refused_since: float | None = None
        self.away = self.said_refused = False
        """Whether the loss, or the want of a right, was told."""
        self.pause = FIRST_PAUSE_SECONDS
        self.breath = SHORTEST_PAUSE_SECONDS

    def run(self) -> None:
        """Follow to the end; what cannot be followed, such as after a kubeconfig that became
        unreadable, is told and not waited for.
        """
        try:
            self.follow()
        except Exception as error:  # noqa: BLE001  # nobody else hears what ends a thread
            self.out.put(
                Change(
                    "lost" if self.must else "note",
                    text=f"{'' if self.must else f'not shown: {self.source}s: '}{in_words(error)}",
                )
            )

    def follow(self) -> None:
        """List, watch, and begin again after each loss."""
        version: str | None = None
        while not self.over.is_set():
            began = time.monotonic()
            try:
                version = self.list_again() if version is None else version
                for kind, changed_object in self.client.watch(self.path, version, self.query):
                    if kind == "OPEN":
                        self.back()
                        continue
                    version = changed_object["metadata"]["resourceVersion"]
                    self.take(kind, changed_object)
                self.breathe(time.monotonic() - began)
            except Expired:
                version = None
                self.breathe(time.monotonic() - began)
            except Refusal as refusal:
                if not self.may_go_on(refusal):
                    return
            except Unreachable as error:
                if not self.wait(f"{LOST}: {error}"):
                    return

    def breathe(self, lasted_seconds: float) -> None:
        """Pause after a watch that was ended properly: hardly, but longer each time where a server
        in need ends every watch at once.
        """
        self.breath = (
            SHORTEST_PAUSE_SECONDS
            if lasted_seconds > 0.5
            else min(2 * self.breath, LONGEST_PAUSE_SECONDS)
        )
        self.over.wait(self.breath)

    def list_again(self) -> str:
        """Tell what differs from what is known, and return the version to watch from."""
        items, version = self.client.items(self.path, self.query, patience_seconds=0)
        self.granted = True
        listed_by_uid = {item["metadata"]["uid"]: item for item in items}
        for uid, item in listed_by_uid.items():
            if (
                uid not in self.objects_by_uid
                or self.objects_by_uid[uid]["metadata"]["resourceVersion"]
                != item["metadata"]["resourceVersion"]
            ):
                self.take("MODIFIED", item)
        before = self.objects_by_uid
        self.objects_by_uid = listed_by_uid
        for uid in before.keys() - listed_by_uid.keys():
            self.out.put(Change(self.source, "gone", before[uid]))
        if self.must and not listed_by_uid and not before:
            self.out.put(Change(self.source, "gone"))
        return version

    def take(self, kind: str, changed_object: JsonObject) -> None:
        """Hand one change on."""
        if kind == "BOOKMARK":
            return
        uid = changed_object["metadata"]["uid"]
        if kind == "DELETED":
            self.objects_by_uid.pop(uid, None)
        else:
            self.objects_by_uid[uid] = changed_object
        self.out.put(
            Change(self.source, "gone" if kind == "DELETED" else "changed", changed_object)
        )

    def may_go_on(self, refusal: Refusal) -> bool:
        """What a refusal means: a pause, an end of everything, or hardly an attempt now and then at
        what only tells more.
        """
        if refusal.passes:
            return self.wait(f"{LOST}: {refusal}", refusal.wait_seconds)
        if refusal.doubtful and self.granted:
            now = time.monotonic()
            self.refused_since = now if self.refused_since is None else self.refused_since
            if now - self.refused_since <= min(
                self.client.doubt_seconds, self.client.patience_seconds
            ):
                return self.wait(
                    f"refused for the moment, trying again while the job goes on: {refusal}"
                )
        if self.must:
            self.out.put(Change("lost", text=str(refusal)))
            return False
        if refusal.status == 403 and not self.said_refused:
            self.said_refused = True
            unseen = f"not shown: {self.source}s, for want of the right to watch them"
            self.out.put(Change("note", object={"unseen": self.source}, text=unseen))
        return not self.over.wait(ANEW_SECONDS)

    def wait(self, why: str, at_least_seconds: float = 0.0) -> bool:
        """Pause, longer each time; False when it has lasted too long. That a stream breaks is not
        worth a word, that it stays away is.
        """
        now = time.monotonic()
        if self.lost_since is None:
            self.lost_since = now
        elif self.must and not self.away:
            self.away = True
            self.out.put(Change("away", text=why))
        if self.must and now - self.lost_since > self.client.patience_seconds:
            self.out.put(
                Change(
                    "lost",
                    text=(
                        f"{why.removeprefix(f'{LOST}: ')}; no answer for "
                        f"{self.client.patience_seconds:.0f} s"
                    ),
                )
            )
            return False
        self.over.wait(max(self.pause, at_least_seconds))
        self.pause = min(2 * self.pause, LONGEST_PAUSE_SECONDS)
        return True

    def back(self) -> None:
        """The connection is there."""
        if self.must and self.lost_since is not None:
            self.out.put(Change("back", text="connection is back" if self.away else ""))
        self.lost_since = None
        self.refused_since = None
        self.away = False
        self.pause = FIRST_PAUSE_SECONDS


class Log(threading.Thread):
    """The log of one container, each line once, until the pod is gone or `over` is set."""

    def __init__(
        self, client: Client, pod: str, container: str, out: Changes, over: threading.Event
    ) -> None:
        super().__init__(daemon=True, name=f"log-{pod}")
        self.client = client
        self.pod = pod
        self.container = container
        self.out = out
        self.over = over
        self.last = ("", "")
        """Second and nanoseconds of the last line."""
        self.count = 0
        """Lines taken with that very time."""
        self.open = True
        """Whether the log is heard at present, or has ended."""
        self.granted = client.reads_logs
        """As in Feed."""
        self.refused_since: float | None = None

    def run(self) -> None:
        """See Feed.run."""
        try:
            self.follow()
        except Exception as error:  # noqa: BLE001  # nobody else hears what ends a thread
            self.open = True  # there is no more of it
            self.out.put(Change("note", text=f"not shown: the driver's log: {in_words(error)}"))

    def follow(self) -> None:
        """Read, and begin again where the stream broke."""
        pause = FIRST_PAUSE_SECONDS
        while not self.over.is_set():
            asked_seconds = 0.0
            try:
                pause = (
                    FIRST_PAUSE_SECONDS
                    if self.read()
                    else min(2 * pause, LONGEST_LOG_PAUSE_SECONDS)
                )
            except Refusal as refusal:
                asked_seconds = refusal.wait_seconds
                if self.may_pass(refusal):
                    self.open = False
                    pause = min(2 * pause, LONGEST_LOG_PAUSE_SECONDS)
                    self.over.wait(pause)
                    continue
                if refusal.status in (401, 403):
                    self.out.put(Change("note", text=f"not shown: the driver's log ({refusal})"))
                if refusal.status in (401, 403, 404):
                    self.open = True  # there is no more of it
                    return
            except (Unreachable, Expired):
                self.open = False
            self.over.wait(max(pause, asked_seconds))

    def may_pass(self, refusal: Refusal) -> bool:
        """Whether a refusal of what was allowed before is worth another attempt."""
        if not (refusal.doubtful and self.granted):
            return False
        now = time.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        return now - self.refused_since <= min(
            self.client.doubt_seconds, self.client.patience_seconds
        )

    def read(self) -> int:
        """One stream; returns the number of new lines. The server takes whole seconds, so the first
        lines may be known; later ones are new whatever their time says, since a node's clock may be
        set back.
        """
        skip = self.count
        num_new = 0
        for line in self.client.log(
            self.pod, self.container, f"{self.last[0]}Z" if self.last[0] else None
        ):
            self.open = self.granted = True
            self.refused_since = None
            if not line:
                continue
            stamp, _, text = line.partition(" ")
            moment = parts(stamp) or self.last
            if not num_new and moment < self.last:
                continue
            if not num_new and moment == self.last and skip:
                skip -= 1
                continue
            self.count = self.count + 1 if moment == self.last else 1
            self.last = moment
            num_new = num_new + 1
            self.out.put(Change("log", text=text))
        return num_new


def parts(stamp: str) -> tuple[str, str] | None:
    """2026-11-23T17:47:51.59Z, or the same with a node's offset such as +02:00, as second in UTC
    and nanoseconds of equal width, which compare as texts do. None: no time.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.?(\d*)(Z|[+-]\d\d:\d\d)", stamp)
    if match is None:
        return None
    second, fraction, offset = match.groups()
    if offset != "Z":
        second = (
            datetime.fromisoformat(second + offset).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        )
    return second, fraction.ljust(9, "0")


def in_words(error: Exception) -> str:
    """What ended a thread, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
