"""What the headers of safetensors files say, without reading a tensor."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of the weights in a usable folder, by name, from the headers of its files."""
    shapes: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        shapes |= {
            name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"
        }
    return shapes
