"""Trials of the tiny model, and the settings of a short sweep of them."""

from __future__ import annotations

from jobs.config import Adapter, Data, Model, Optim, Train, Trial

SHORT_SWEEP = (
    "+sweep=lora",
    "sweep.num_trials=3",
    "train.steps=20",
    "train.eval_every=10",
    "sweep.space.lr.low=0.001",
    "sweep.space.lr.high=0.02",
    "registry.beat=[]",
)
"""Three trials of twenty steps, as typed."""


def tiny_trial(data: Data, train: Train) -> Trial:
    """Trial 1 of the tiny model on some data."""
    return Trial(
        index=1,
        seed=0,
        model=Model(name="tiny", source="tiny"),
        data=data,
        adapter=Adapter(),
        optim=Optim(),
        train=train,
    )
