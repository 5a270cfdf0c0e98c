"""JSON objects that carry a checksum of themselves, so that what a disk has changed is not
believed.
"""

from __future__ import annotations

import hashlib
import json

from jobs.files.json_types import JsonObject

CHECKSUM = "checksum"
"""The key under which an object holds what its other keys are known by."""


def checksum_of(fields: JsonObject) -> str:
    """What an object is known by, however its file is laid out."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def sealed(value: JsonObject) -> JsonObject:
    """An object with its checksum, as JSON has it."""
    fields = json.loads(json.dumps(value))
    return fields | {CHECKSUM: checksum_of(fields)}


def unsealed(fields: JsonObject) -> JsonObject:
    """An object without its checksum; empty where that is of another."""
    checksum = fields.pop(CHECKSUM, None)
    return fields if checksum in (None, checksum_of(fields)) else {}
