"""A line of a journal: an event as JSON, and at its end a checksum of it, so that a line that a
disk has changed is not believed.

A line without a checksum, of an earlier version, is taken as it stands; one that was written anew
with the same content, with other spaces say, is still the same.
"""

from __future__ import annotations

import json
import zlib

from jobs.files.json_types import JsonObject

CHECKSUM = "crc"


def line_of(event: JsonObject) -> bytes:
    """The line of an event, without a line break."""
    return json.dumps(event | {CHECKSUM: checksum_of(event)}).encode()


def checksum_of(event: JsonObject) -> str:
    """What an event is known by: its keys in their order, and every number to the last digit."""
    return f"{zlib.crc32(json.dumps(event).encode()):08x}"


def event_of(line: bytes) -> JsonObject | None:
    """The JSON object in a line; None where there is none, since its writer has died over it, or
    where it is not the one that was written.
    """
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    checksum = event.pop(CHECKSUM, None)
    if checksum is None or checksum == checksum_of(event):
        return event
    return None
