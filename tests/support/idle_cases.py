"""Settings that change nothing, and what is said of each; settings that act."""

from __future__ import annotations

TINY = ["model=tiny"]
CONSTANT = "optim.schedule=constant"
LORA = ["model=tiny", "+sweep=lora"]
REFUSED: dict[str, tuple[list[str], str, str]] = {
    "model.path with tiny": (TINY, "model.path=/x", "write model=path model.path=..."),
    "model.path with the default model": ([], "model.path=/x", "write model=path model.path=..."),
    "model.id": (TINY, "model.id=a/b", "write model=hub model.id=..."),
    "model.revision": (TINY, "model.revision=main", "model.source=tiny"),
    "model.id with a folder": (
        ["model=path", "model.path=/x"],
        "model.id=a/b",
        "model.source=path",
    ),
    "model.file": (["model=hub", "model.id=a/b"], "model.file=x.gguf", "model.source=hub"),
    "data.folder": (
        TINY,
        "data.folder=/x",
        "data=home names files of its own; write data=files data.folder=/x",
    ),
    "prompt": (TINY, "prompt=Hi", "write job=predict"),
    "messages": (TINY, "messages=[]", "write job=predict"),
    "model_uri": (TINY, "model_uri=models:/x@champion", "write job=predict"),
    "job.reason": (TINY, "job.reason=better", "write job=promote"),
    "export.folder": (TINY, "export.folder=x", "it belongs to job=export"),
    "synthesis.rows": (TINY, "synthesis.rows=5", "makes no rows; write job=synthesize"),
    "registry.margin": ((*TINY, "registry.beat=[]"), "registry.margin=0.1", "asks for nothing"),
    "sweep.minutes": (
        [*TINY, "+sweep=lora", "sweep.num_trials=2", "train.steps=5"],
        "sweep.minutes=3",
        "both given; leave one of the three out",
    ),
    "sweep.minutes of one trial": ([*TINY, "train.steps=5"], "sweep.minutes=3", "is given"),
    "budget.money": (TINY, "budget.money=5", "nothing has a price"),
    "budget.money of rows": ([*TINY, "job=synthesize"], "budget.money=5", "nothing has a price"),
    "budget.tokens of rows": ([*TINY, "job=synthesize"], "budget.tokens=5", "budget.money alone"),
    "final.count of one trial": (TINY, "final.count=1", "there is one trial"),
    "mix.method without a mix": (LORA, "mix.method=merge", "add +sweep=mix, or 'sweep.space.mix="),
    "mix.steps": (
        [*TINY, "+sweep=mix", "data=icd10"],
        "mix.steps=9",
        "write mix.method=merge beside it",
    ),
    "final.seeds without finalists": (
        (*LORA, "final.count=0"),
        "final.seeds=2",
        "final.count=0 has no finalists",
    ),
    "final.schedule that all have": (
        (*LORA, "optim.schedule=cosine"),
        "final.schedule=cosine",
        "every trial has optim.schedule=cosine",
    ),
    "adapter.rank": ([*TINY, "adapter=full"], "adapter.rank=16", "trains every weight"),
    "adapter.layers": ([*TINY, "adapter=full"], "adapter.layers=0.3", "trains every weight"),
    "adapter.targets": ([*TINY, "adapter=full"], "adapter.targets=q_proj", "trains every weight"),
    "sweep.prior": (TINY, "sweep.prior=auto", "there is one trial"),
    "how often, where a source is drawn once": (
        [*TINY, "data=icd10", "data.exhausted=stop"],
        "data.max_epochs=3",
        "data.exhausted=stop",
    ),
    "which rows of all": (
        TINY,
        "data.sources.train.rows_seed=3",
        "all rows are taken; data.sources.train.rows=N takes so many",
    ),
    "the embedding of no neighbours": (
        ["model=tiny"],
        "data.neighbours.embedding=nowhere",
        "data.neighbours.count=0 leaves nothing to look up",
    ),
    "the order of no neighbours": (
        TINY,
        "data.neighbours.order=nearest_first",
        "data.neighbours.count=0 leaves nothing to order",
    ),
    "a share of leakage that nobody looks for": (
        [*TINY, "data.checks.off=[leakage]"],
        "data.checks.leakage_share=0.1",
        "data.checks.off has leakage; leave one of them out",
    ),
    "optim.decay_share": (
        [*TINY, CONSTANT],
        "optim.decay_share=0.3",
        "optim.schedule=constant has no such share",
    ),
    "optim.decay_share at its default": (
        [*TINY, CONSTANT],
        "optim.decay_share=0.2",
        "optim.schedule=constant has no such share",
    ),
    "cluster.workers at its default": (TINY, "cluster.workers=1", "this is cluster=local"),
    "cluster.num_cpus": (
        ["cluster=attached", "cluster.address=auto", "storage=/tmp/x", "tracking.uri=http://h"],
        "cluster.num_cpus=2",
        "attached",
    ),
    "a knob's values": (
        LORA,
        "sweep.space.lr.values=[0.1]",
        "a knob of type loguniform takes low, high, step",
    ),
    "a knob's range": (LORA, "sweep.space.rank.low=1", "a knob of type choice takes values"),
    "a knob's link": (LORA, "sweep.space.lr.times=2", "a knob of type loguniform"),
    "a searched rank": (
        [*TINY, "adapter=full"],
        "sweep.space={r: {path: adapter.rank, type: choice, values: [4, 8]}}",
        "changes nothing",
    ),
    "a searched share": (
        [*TINY, CONSTANT],
        "sweep.space={r: {path: optim.decay_share, type: uniform, low: 0.1, high: 0.2}}",
        "changes nothing",
    ),
}
NAMED: dict[str, tuple[list[str], str, str]] = {
    "optim.lr": (LORA, "optim.lr=3e-4", "sweep.space.lr tries others"),
    "optim.lr at its default": (LORA, "optim.lr=1e-3", "sweep.space.lr tries others"),
    "sweep.search": (TINY, "sweep.search=optuna", "there is one trial"),
    "sweep.scheduler": (TINY, "sweep.scheduler=halving", "there is one trial"),
    "sweep.reduction": ([*LORA, "sweep.scheduler=none"], "sweep.reduction=4", "stops no trial"),
    "sweep.loss_curves": (
        [*LORA, "sweep.scheduler=none"],
        "sweep.loss_curves=false",
        "stops no trial",
    ),
    "sweep.max_concurrent": (TINY, "sweep.max_concurrent=3", "there is one trial"),
    "sweep.give_up_after": (
        [*LORA, "sweep.num_trials=1"],
        "sweep.give_up_after=2",
        "there is one trial",
    ),
    "weight": (
        [*TINY, "data=icd10", "~data.sources.terms"],
        "data.sources.titles.weight=3",
        "it is the only source",
    ),
    "retry": ([*TINY, "fresh=true"], "retry=true", "fresh=true forgets"),
    "train in predict": (
        [*TINY, "job=predict", "model_uri=x", "prompt=y"],
        "train.steps=5",
        "job=predict does not look at it",
    ),
    "answer's length in predict": (
        [*TINY, "job=predict", "model_uri=x", "prompt=y"],
        "job.max_new_tokens=5",
        "job=predict does not",
    ),
    "data in setup": (
        [*TINY, "job=setup"],
        "data.instruction=Sort.",
        "job=setup does not look at it",
    ),
}
ACTING: list[list[str]] = [
    [*TINY, "job=synthesize", "synthesis.rows=5", "seed=3", "fresh=true", "storage=/tmp/x"],
    [*LORA],
    [*TINY, "adapter.kind=full"],
    [*TINY, "adapter=full"],
    [*TINY, "optim.schedule=warmup_stable_decay", "optim.decay_share=0.3"],
    [
        *TINY,
        "optim.decay_share=0.3",
        "sweep.space={s: {path: optim.schedule, type: grid, values: [constant, warmup_stable_decay]}}",
    ],
    [
        *TINY,
        "adapter=full",
        "adapter.rank=8",
        "sweep.space={k: {path: adapter.kind, type: grid, values: [lora, full]}}",
    ],
    ["model=path", "model.path=/x"],
    ["model=smollm2-360m", "model.source=path", "model.path=/x"],
    [*LORA, "sweep.space.lr.type=choice", "sweep.space.lr.values=[1e-4]"],
    [*TINY, "data=files", "data.folder=/x", "+data.sources.more.path=/y.jsonl"],
    [*TINY, "+data.sources.more.path=/y.jsonl", "data.sources.more.weight=0.3"],
    [
        *TINY,
        "job=predict",
        "model_uri=x",
        "prompt=y",
        "storage=/tmp/x",
        "tracking.uri=http://h",
        "output=json",
    ],
    [*TINY, "job=predict", "model_uri=x", 'messages=[{"role": "user", "content": "Hi"}]'],
    [
        *TINY,
        "sweep.num_trials=1",
        "sweep.metric=valid/loss",
        "sweep.mode=min",
        "fresh=true",
        "seed=3",
    ],
]
