"""JSON as the standard library reads and writes it: files, HTTP answers, Kubernetes objects."""

from __future__ import annotations

from typing import Any

Json = Any
"""A value that came out of json.loads, or will go into json.dumps: nothing is known of its shape
until it is looked at.
"""
JsonObject = dict[str, Any]
"""A JSON object, by key; its values are `Json`."""
