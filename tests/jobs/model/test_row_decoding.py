"""Many prompts are answered together with the very tokens that each gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    Qwen3Config,
)

from jobs.base_models import fetch
from jobs.config import Adapter, BaseModel, Model
from jobs.data.chat_template import ChatTokenizer
from jobs.data.tokenization import Example
from jobs.evaluation import generate
from jobs.evaluation.answer_losses import AnswerLosses, teacher_forced_rows
from jobs.evaluation.generate import continue_all, row_decoder
from jobs.model.loading import attach, load
from jobs.model.row_decoding import decoder_of

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
PREFIX = list(range(5, 25))
MOST = 9
ENDS = [1, *range(40, 52)]
"""Tokens that end an answer: so many that some answers end early."""


def gpt2() -> GPT2Config:
    return GPT2Config(
        vocab_size=97,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=1,
    )


FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "gemma3": Gemma3TextConfig(**SMALL, sliding_window=64, query_pre_attn_scalar=8),
    "gpt2": gpt2(),
}


def made(config: Any) -> Any:
    """A model with random weights, large enough that its answers differ."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.mul_(4)
    return model


def prompts_of(shared: bool) -> list[list[int]]:
    """Prompts of many lengths."""
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(5, 97, (1 + index % 13,), generator=draw).tolist() for index in range(40)]
    return [PREFIX + row if shared else [7, *row] for row in rows]


def alone(model: Any, prompts: list[list[int]], most: int) -> list[list[int]]:
    """What transformers' own loop answers to each prompt by itself."""
    return [generate.greedy(model, torch.tensor([ids]), ENDS, most)[0] for ids in prompts]


@pytest.mark.parametrize("shared", [True, False], ids=["common beginning", "nothing in common"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_many_prompts_get_the_tokens_that_each_gets_alone(family: str, shared: bool) -> None:
    model, prompts = made(FAMILIES[family]), prompts_of(shared)
    before = model.config._attn_implementation
    with torch.no_grad():
        decoder = decoder_of(model, prompts, PREFIX if shared else [], ENDS, MOST)
        assert decoder is not None
        told = dict(decoder.answers(prompts))
        expected = alone(model, prompts, MOST)
    assert [told[row] for row in range(len(prompts))] == expected
    assert len({len(ids) for ids in expected}) > 1, "some answers end before the limit"
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("shared", [True, False], ids=["common beginning", "nothing in common"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_reference_answers_cost_what_a_pass_over_each_alone_says(
    family: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.model import row_decoding

    monkeypatch.setattr(row_decoding, "SCORED_TOKENS", 20)
    model, prompts = made(FAMILIES[family]), prompts_of(shared)
    draw = torch.Generator().manual_seed(4)
    references = [
        [
            torch.randint(5, 97, (length,), generator=draw).tolist()
            for length in (1 + row % 5, 1 + row % (MOST + 4))
        ]
        for row in range(len(prompts))
    ]
    examples = [
        [Example([*ids, *answer], len(ids), "", "x") for answer in answers]
        for ids, answers in zip(prompts, references, strict=True)
    ]
    losses = AnswerLosses()
    with torch.no_grad():
        decoder = decoder_of(model, prompts, PREFIX if shared else [], ENDS, MOST, MOST + 4)
        assert decoder is not None

        def tell(option: int, rows: range, *told: torch.Tensor) -> None:
            losses.tell([examples[row][option] for row in rows], *told)

        told = dict(decoder.answers(prompts, references, tell))
        assert [told[row] for row in range(len(prompts))] == alone(model, prompts, MOST)
    flat = [example for answers in examples for example in answers]
    assert not losses.missing(flat)
    expected = torch.cat([teacher_forced_rows(model, [one], 1, 4096) for one in flat])
    torch.testing.assert_close(losses.rows(flat), expected, rtol=1e-4, atol=1e-4)


def test_memory_that_is_short_for_losses_is_enough_for_answers(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.model.row_decoding import RowDecoder

    template, model = ChatTokenizer(base.path), load(base.path, torch.float32, torch.device("cpu"))
    prompts = [template.encode("a question that all share " + "ab?" * (i % 7)) for i in range(60)]
    long = [5] * (generate.SCORED_AT_LEAST + 1)
    references = [
        [Example([*ids, 6, 7], len(ids), "", "x"), Example([*ids, *long], len(ids), "", "y")]
        for ids in prompts
    ]
    expected = continue_all(model, prompts, template, 6, lambda rows: None)
    losses = AnswerLosses()
    told = continue_all(model, prompts, template, 6, lambda rows: None, references, losses)
    assert told == expected and losses.seconds > 0
    assert losses.missing([one for one, _ in references]) == []
    assert len(losses.missing([two for _, two in references])) == 60, "far longer than answers"
    monkeypatch.setattr(RowDecoder, "score", short_of_memory)
    losses = AnswerLosses()
    assert expected == continue_all(
        model, prompts, template, 6, lambda rows: None, references, losses
    )
    assert not losses.known


def short_of_memory(*_: Any) -> None:
    raise MemoryError


def test_an_adapter_answers_as_it_does_alone() -> None:
    model = attach(made(FAMILIES["llama"]), Adapter(rank=4, layers=0.5), seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    prompts = prompts_of(True)
    with torch.no_grad():
        decoder = decoder_of(model.eval(), prompts, PREFIX, ENDS, MOST)
        assert decoder is not None
        told = dict(decoder.answers(prompts))
        assert [told[row] for row in range(len(prompts))] == alone(model, prompts, MOST)


def test_what_does_not_see_all_of_a_row_is_answered_by_transformers_own_loop() -> None:
    short = Gemma3TextConfig(**SMALL, sliding_window=16, query_pre_attn_scalar=8)
    mamba = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
    prompts = prompts_of(True)
    with torch.no_grad():
        assert decoder_of(made(short), prompts, PREFIX, ENDS, MOST) is None
        assert decoder_of(made(mamba), prompts, PREFIX, ENDS, MOST) is None


def test_an_attention_that_answers_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.model import row_attention

    right = row_attention.rows_attention

    def shifted(query: Any, key: Any, value: Any, hidden: Any, *rest: Any) -> Any:
        return right(query, key, value.roll(1, 2), hidden, *rest)

    monkeypatch.setattr(row_attention, "rows_attention", shifted)
    with torch.no_grad():
        assert decoder_of(made(FAMILIES["llama"]), prompts_of(True), PREFIX, ENDS, MOST) is None


@pytest.fixture(scope="module")
def base(cache: Path) -> BaseModel:
    return fetch.prepare(Model(name="tiny", source="tiny"), cache)


def test_judging_many_rows_takes_the_quick_way_with_the_same_answers(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, model = ChatTokenizer(base.path), load(base.path, torch.float32, torch.device("cpu"))
    prompts = [template.encode("a question that all share " + "ab?" * (i % 7)) for i in range(60)]
    assert row_decoder(model, prompts, template.eos_ids, 6) is not None
    quick = continue_all(model, prompts, template, 6, lambda rows: None)
    monkeypatch.setattr(generate, "FEWEST_TOGETHER", 1000)
    assert quick == continue_all(model, prompts, template, 6, lambda rows: None)


def test_long_prompts_are_read_some_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.model import row_attention, row_decoding

    model, prompts = made(FAMILIES["llama"]), prompts_of(True)
    with torch.no_grad():
        expected = alone(model, prompts, MOST)
        monkeypatch.setattr(row_attention, "MOST_SCORES", 300)
        monkeypatch.setattr(row_decoding, "PASS_TOKENS", 30)
        decoder = decoder_of(model, prompts, PREFIX, ENDS, MOST)
        assert decoder is not None
        told = dict(decoder.answers(prompts))
    assert [told[row] for row in range(len(prompts))] == expected


def test_what_rows_leave_takes_a_part_of_the_memory_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jobs.model import row_decoding

    with torch.no_grad():
        decoder = decoder_of(made(FAMILIES["llama"]), prompts_of(True), PREFIX, ENDS, MOST)
    assert decoder is not None
    assert decoder.token_bytes == 3 * 2 * 2 * 8 * 4, "layers, keys and values, heads, size, float32"
    monkeypatch.setattr(row_decoding, "available_bytes", lambda: 4 * 384 * 100)
    assert decoder.room(1 << 14) == 100 and decoder.room(50) == 50
    monkeypatch.setattr(row_decoding, "available_bytes", lambda: 0)
    assert decoder.room(1 << 14) == 1 << 14, "where that is not known"


def test_a_long_prompt_pads_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.model import row_decoding

    monkeypatch.setattr(row_decoding, "PASS_TOKENS", 40)
    lengths = [3, 4, 5, 5, 6, 7, 60]
    told = list(row_decoding.portions(lengths))
    assert told == [(slice(0, 5), 6), (slice(5, 6), 7), (slice(6, 7), 60)]
