"""The reference that every executor is held against: a trial as a tutorial would train it, with
peft, padding and labels, and tiny models of many architectures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from jobs.config import Adapter, BaseModel, Data, Model, Optim, Source, Train, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.mixture import Mixture
from jobs.data.tokenization import Example, encode_rows
from jobs.model.loading import attach, load
from jobs.model.seeded_dropout import DropoutSpec, DropoutState, seed_dropout
from jobs.training.distributed import World

CPU = torch.device("cpu")
ModelOf = Callable[[str], BaseModel]
"""The fixture model_of: a tiny model of an architecture."""


def make(rows: Path, instruction: str = "Which letter?", **settings: Any) -> Trial:
    """A short trial; settings go to where they belong."""
    optim = Optim(lr=5e-3, weight_decay=0.01, warmup_steps=3, max_norm=0.5)
    train = Train(steps=20, eval_every=10, batch_size=6, max_length=128, dtype="float32")
    adapter = Adapter(rank=4)
    for name, value in settings.items():
        optim = dataclasses.replace(optim, **{name: value}) if hasattr(optim, name) else optim
        train = dataclasses.replace(train, **{name: value}) if hasattr(train, name) else train
        adapter = (
            dataclasses.replace(adapter, **{name: value}) if hasattr(adapter, name) else adapter
        )
    data = Data(name="toy", sources={"train": Source(path=str(rows))}, instruction=instruction)
    return Trial(
        index=1,
        seed=3,
        model=Model(name="tiny", source="tiny"),
        data=data,
        adapter=adapter,
        optim=optim,
        train=train,
    )


def reference(trial: Trial, base: BaseModel, moved: float = 0.0) -> tuple[list[float], Any]:
    """The trial as a tutorial would train it: peft, right padding, labels, every logit. `moved` is
    by what share its first weights are off.
    """
    template, corpus = ChatTokenizer(base.path), load_corpus(trial.data)
    examples = encode_rows(
        corpus.sources["train"],
        template,
        trial.train.max_length,
        answers_carry_loss=trial.train.on == "answers",
    )
    mix = Mixture({"train": len(examples)}, {"train": 1.0}, trial.seed)
    model = attach(load(base.path, torch.float32, CPU), trial.adapter, trial.seed).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.no_grad():
        for weight in trained if moved else ():
            weight.mul_(1 + moved)
    optim, dropper = trial.optim, DropoutState()
    seed_dropout(model, dropper)
    optimizer = torch.optim.AdamW(
        trained, lr=optim.lr, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay
    )
    losses = []
    for step in range(trial.train.steps):
        batch = [examples[row] for _, row in mix.batch(step, trial.train.batch_size)]
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * min(1.0, (step + 1) / optim.warmup_steps)
        if trial.adapter.dropout:
            dropper.drop, dropper.chosen = drawn(trial, step, batch)
        loss = labelled_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, optim.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, model


def drawn(trial: Trial, step: int, batch: list[Example]) -> tuple[DropoutSpec, torch.Tensor]:
    """What a step drops, and the mask of each token of the batch, padded on the right."""
    drop = DropoutSpec(trial.seed, step, trial.adapter.dropout)
    chosen = [drop.choose(example.ids, drop.start)[0] for example in batch]
    width = max(map(len, chosen))
    return drop, torch.tensor([each + [0] * (width - len(each)) for each in chosen])


def labelled_loss(model: Any, batch: list[Example]) -> torch.Tensor:
    """transformers' own loss over a padded batch."""
    width = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [0] * (width - len(example.ids)) for example in batch])
    mask = torch.tensor(
        [[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in batch]
    )
    labels = []
    for example in batch:
        row = [-100] * width
        for start, stop in example.targets():
            row[start:stop] = example.ids[start:stop]
        labels.append(row)
    return model(
        input_ids=ids, attention_mask=mask, labels=torch.tensor(labels), use_cache=False
    ).loss


def architecture(kind: str, folder: Path, base: BaseModel, **changed: Any) -> BaseModel:
    """A tiny random model of another architecture, with the tiny model's tokenizer.

    LongRope is Phi-3 with a rotary embedding that is another one beyond `original` tokens.
    """
    import transformers

    shape = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    shape |= {
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    extra: dict[str, Any] = {}
    if kind in ("Gemma3Text", "Qwen3"):
        extra["head_dim"] = 8
    if kind == "Gemma3Text":
        extra["sliding_window"] = 64
    if kind == "GPT2":
        shape = {
            "vocab_size": 264,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "initializer_range": 0.2,
        }
        extra = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    if kind == "OPT":
        extra = {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}
    if kind == "LongRope":
        original = changed.pop("original")
        rope = {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
        }
        rope["original_max_position_embeddings"] = original
        kind, extra = (
            "Phi3",
            {"rope_parameters": rope, "original_max_position_embeddings": original},
        )
    config = getattr(transformers, f"{kind}Config")(**{**shape, **extra, **changed})
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(Path(base.path) / name, folder / name)
    return dataclasses.replace(base, path=str(folder))


@contextlib.contextmanager
def joined(rank: int, size: int, folder: Path) -> Iterator[World]:
    """One of several data-parallel processes on gloo; all leave together, for one that ends while
    another still talks to it may abort.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=size
    )
    try:
        yield World(rank, size)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
