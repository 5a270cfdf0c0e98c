"""On a GPU a small model's step is thousands of kernels, each quicker done than started. Passes of
one shape are therefore recorded once (CUDA graphs) and started again as a whole, over other tokens
and other weights in the same memory.

Rows are filled up so that few shapes are enough. Where the GPU is the one that others wait for,
nothing is recorded. Imports no model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from typing import Any

import torch

from jobs.pack.batch.packed_batch import BatchShape, PackedBatch
from jobs.pack.batch.transfer import Kind, placed, pooled

MOST_FRAMES = 16
MOST_SPARE = 1.25
"""A frame may hold so many times the tokens of a pass, and twice the rest."""
MOST_MEMORY = 1 / 3
"""Passes that need more of a GPU's memory are not recorded: a recording keeps what it needs."""


def padded_shape(room: BatchShape) -> BatchShape:
    """The room that is made for passes of this size."""
    return room.of([size if size == 1 else round_up(size) for size in room.sizes])


def round_up(size: int) -> int:
    """`size` rounded up by at most an eighth, or to a multiple of 8."""
    grain = max(8, 1 << max(size.bit_length() - 4, 0))
    return -(-size // grain) * grain


def fits(room: BatchShape, needed: BatchShape) -> bool:
    """Whether a pass of the same kind fits, and does not leave too much of the room empty."""
    if room.num_tokens > MOST_SPARE * needed.num_tokens + 64:
        return False
    return all(
        need <= size <= 2 * need + 8 for size, need in zip(room.sizes, needed.sizes, strict=True)
    )


def merge_shapes(needed: BatchShape, largest: BatchShape, most: float = math.inf) -> BatchShape:
    """Room for both, but at most so many times what is needed."""
    return needed.of(
        [
            max(need, int(min(size, most * need)))
            for need, size in zip(needed.sizes, largest.sizes, strict=True)
        ]
    )


class CapturedGraph:
    """Memory for passes of one shape, and the recorded kernels once it is clear that they are worth
    recording.
    """

    def __init__(self, room: BatchShape, kind: Hashable) -> None:
        self.room = room
        self.kind = kind
        self.pools: dict[Kind, torch.Tensor] = {}
        self.uses = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.sums: torch.Tensor | None = None
        """What a pass gives: the loss of each of its slots."""

    def fill(self, layout: PackedBatch, device: torch.device) -> PackedBatch:
        """Lay a pass into the frame's memory."""
        self.uses += 1
        pools = pooled(layout)
        if not self.pools:
            self.pools = {kind: pool.to(device, copy=True) for kind, pool in pools.items()}
        else:
            for kind, pool in pools.items():
                self.pools[kind].copy_(pool)
        return placed(layout, self.pools)


class CudaGraphCache:
    """The frames of a pack, the latest used last."""

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self.device = device
        self.say = say
        self.frames: list[CapturedGraph] = []
        self.largest: dict[Hashable, BatchShape] = {}
        """By kind of pass, the most that any has needed."""
        self.recording = device.type == "cuda"
        self.enough = math.inf
        """Passes of so many tokens keep the GPU busy by themselves: they are neither filled up nor
        recorded.
        """
        self.memory: Any = None

    def find(self, needed: BatchShape, key: Hashable) -> CapturedGraph:
        """The smallest frame for a pass, or a new one. `key` tells passes apart whose kernels read
        other weights.
        """
        kind = key, needed.kind
        fitting = [
            frame for frame in self.frames if frame.kind == kind and fits(frame.room, needed)
        ]
        self.largest[kind] = merge_shapes(needed, self.largest.get(kind, needed))
        if fitting:
            frame = min(fitting, key=lambda frame: frame.room.num_tokens)
        else:
            frame = CapturedGraph(padded_shape(merge_shapes(needed, self.largest[kind], 1.1)), kind)
        self.frames = [*(cached for cached in self.frames if cached is not frame), frame][
            -MOST_FRAMES:
        ]
        return frame

    def clear(self) -> None:
        """Forget all frames and free their memory."""
        self.frames = []
        self.largest = {}
        self.memory = None

    def run(
        self, frame: CapturedGraph, layout: PackedBatch, work: Callable[[PackedBatch], torch.Tensor]
    ) -> torch.Tensor:
        """`work` on a layout that was built for the frame's room: at first as it is, then recorded
        if that helps, then replayed.

        `work` gives the losses of a pass, float32 [slots]. What comes back of a replay is
        overwritten by the next one.
        """
        placed_layout = frame.fill(layout, self.device)
        if (
            frame.graph is None
            and self.recording
            and frame.uses > 2
            and frame.room.num_tokens < self.enough
        ):
            self.record(frame, placed_layout, work)
        if frame.graph is None or frame.sums is None:
            return self.watched(frame, placed_layout, work)
        frame.graph.replay()
        return frame.sums

    def watched(
        self, frame: CapturedGraph, layout: PackedBatch, work: Callable[[PackedBatch], torch.Tensor]
    ) -> torch.Tensor:
        """Run without a recording; the second time, see whether the GPU takes more than twice as
        long as its kernels take to start.

        Gives what `work` gives, float32 [slots].
        """
        if not self.recording or frame.uses != 2:
            return work(layout)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        allocated = torch.cuda.memory_allocated(self.device)
        began = time.perf_counter()
        sums = work(layout)
        issued = time.perf_counter()
        torch.cuda.synchronize(self.device)
        gpu_seconds = time.perf_counter() - issued
        needed = torch.cuda.max_memory_allocated(self.device) - allocated
        if (
            gpu_seconds > issued - began
            or needed > MOST_MEMORY * torch.cuda.get_device_properties(self.device).total_memory
        ):
            self.enough = min(self.enough, layout.ids.shape[1] - layout.num_padded)
        return sums

    def record(
        self, frame: CapturedGraph, layout: PackedBatch, work: Callable[[PackedBatch], torch.Tensor]
    ) -> None:
        """Record the kernels of a pass; one that cannot be recorded ends the attempts.

        `frame.sums`, float32 [slots], is where each replay leaves its losses.
        """
        try:
            graph = torch.cuda.CUDAGraph()
            self.memory = self.memory or torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=self.memory, capture_error_mode="thread_local"):
                frame.sums = work(layout)
            frame.graph = graph
        except Exception as error:  # noqa: BLE001  # whatever a model does that cannot be recorded, it can be done without
            self.recording = False
            self.clear()
            self.say(
                f"its passes are not recorded as CUDA graphs: {' '.join(str(error).split())[:200]}"
            )
