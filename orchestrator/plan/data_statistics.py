"""What the rows and the base model's tokenizer say of a sweep before it starts: shares, supervised
tokens, and rows that cannot be used.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.data.tokenization import Example, encode_rows, shared_prefix
from jobs.data.turns import has_earlier_answer
from jobs.evaluation import registry
from jobs.evaluation.few_shot import can_be_shown, can_follow_examples
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.plan.answer_limit import AnswerLimit, answer_limit, usual_limit
from orchestrator.plan.mixes import drawn_shares
from orchestrator.plan.neighbours import NeighbourPlan, neighbour_plan
from orchestrator.plan.token_counts import Count, Limits, count

SAMPLE_ROWS = 250
"""Rows from which the time is estimated. Everything else is counted over all rows."""


@dataclass(frozen=True)
class Share:
    """What one source contributes."""

    rows: int
    share: float
    """Part of the examples drawn from it, 0..1, before any sweeping of weights."""
    answer_tokens: int | None
    """Tokens of all its rows that carry loss. None: the base model's tokenizer is not here yet."""
    tokens: int | None = None
    """Tokens of all its rows, likewise."""
    teachers: dict[str, int] = field(default_factory=dict)
    """Rows that a model has written, by its name."""
    for_examples: int = 0
    """Training rows that can stand as an example before a question, or held-out rows that can be
    asked after some.
    """


@dataclass(frozen=True)
class Measured:
    """What the rows and the tokenizer say."""

    sources: dict[str, Share]
    example: Example | None = None
    mean_tokens: float = 0.0
    """Mean number of tokens that an example costs, from a sample: what the prompts of a batch begin
    with alike is computed once.
    """
    mean_length: float = 0.0
    """The same of whole examples, which is what a trial counts."""
    notes: tuple[str, ...] = ()
    mean_answer: float = 0.0
    """Mean number of tokens of an answer."""
    limit: AnswerLimit | None = None
    """How long an answer may be; None without the base model's tokenizer."""
    neighbours: NeighbourPlan | None = None
    held_out: dict[str, Share] = field(default_factory=dict)
    """The held-out splits, of which nothing is drawn."""
    counts: dict[str, Count] = field(default_factory=dict)
    """By source and held-out split; empty without the base model's tokenizer."""


def measure(config: Config, corpus: Corpus, template: ChatTokenizer | None) -> Measured:
    """Rows, share and supervised tokens per source, and one example. Raises InputError for a row
    that cannot be trained on.
    """
    sizes = {name: len(rows) for name, rows in corpus.sources.items()}
    drawn = drawn_shares(config.data, sizes)
    shares = {
        name: Share(
            len(rows),
            drawn[name],
            None,
            teachers=teachers_of(rows),
            for_examples=sum(map(can_be_shown, rows)),
        )
        for name, rows in corpus.sources.items()
    }
    held_out = {
        split: Share(
            len(rows),
            0.0,
            None,
            teachers=teachers_of(rows),
            for_examples=sum(map(can_follow_examples, rows)),
        )
        for split, rows in (("valid", corpus.valid), ("test", corpus.test))
    }
    if template is None:
        return Measured(shares, held_out=held_out)
    counts = count_all(config, corpus, template)
    limit = answer_limit(config.job.max_new_tokens, counts)
    length = config.train.max_length
    few = [
        encode_rows(
            rows[:SAMPLE_ROWS],
            template,
            length,
            f"data.sources.{name}",
            config.train.on == "answers",
        )
        for name, rows in corpus.sources.items()
    ]
    shown = neighbour_plan(config, corpus, template, SAMPLE_ROWS)
    shares = {name: with_tokens(share, counts[name]) for name, share in shares.items()}
    held_out = {name: with_tokens(share, counts[name]) for name, share in held_out.items()}
    notes = []
    if any(row.thinking for row in corpus.test[:1]):
        notes.append(
            f"answers come with reasoning: {registry.DEFAULT} asks for its very words, "
            f"{registry.key(registry.EXACT_MATCH, registry.TEST)} for the answer alone"
        )
    cost = sum(cost_tokens(config, counted) for counted in few) / sum(map(len, few))
    whole = sum(len(example.ids) for counted in few for example in counted) / sum(map(len, few))
    num_rows = sum(share.rows for share in shares.values())
    answers = sum(share.answer_tokens or 0 for share in shares.values()) / max(num_rows, 1)
    notes += batch_notes(config, num_rows)
    longest = max(counted.longest for counted in counts.values())
    if shown is not None:
        cost += shown.mean_tokens
        whole += shown.mean_tokens
        longest = max(longest, shown.longest)
        notes += shown.notes
    return Measured(
        shares,
        few[0][0] if shown is None else shown.example,
        cost,
        whole,
        (
            *notes,
            *answers_notes(config, corpus, counts),
            *length_notes(longest, template),
            *limit.notes,
        ),
        answers,
        limit,
        shown,
        held_out,
        counts,
    )


def batch_notes(config: Config, num_rows: int) -> list[str]:
    """A note where one step sees rows more than once."""
    size = config.train.batch_size
    if size <= num_rows:
        return []
    return [
        f"train.batch_size={size:,} is more than the {num_rows:,} training rows: each step repeats "
        "rows that it has seen"
    ]


def teachers_of(rows: Sequence[Row]) -> dict[str, int]:
    """Rows that a model has written, by its name."""
    return dict(Counter(row.teacher for row in rows if row.teacher).most_common())


def with_tokens(share: Share, counted: Count) -> Share:
    """A share with the tokens of its rows."""
    return dataclasses.replace(share, answer_tokens=counted.supervised, tokens=counted.tokens)


def count_all(config: Config, corpus: Corpus, template: ChatTokenizer) -> dict[str, Count]:
    """The counts of each source and each held-out split. Raises InputError with the first row of
    each that cannot be used.
    """
    length, setting = config.train.max_length, config.job.max_new_tokens
    on = config.train.on
    train = Limits(length, everything=on == "all", answers=on == "answers")
    wanted = {
        name: (rows, f"train/{name}", f"data.sources.{name}", train)
        for name, rows in corpus.sources.items()
    }
    wanted["valid"] = (corpus.valid, "valid", "data.valid", Limits(length))
    count_by_split: dict[str, Count] = {}
    problems = []

    def add(name: str, rows: Sequence[Row], key: str, where: str, limits: Limits) -> None:
        try:
            count_by_split[name] = count(rows, corpus.digests[key], template, limits, where)
        except ValueError as error:
            problems.append(str(error))

    for name, (rows, key, where, limits) in wanted.items():
        add(name, rows, key, where, limits)
    fewest = 1
    if count_by_split and setting is None:
        trained = {name: counted.by_length() for name, counted in count_by_split.items()}
        fewest = usual_limit(max(max(one, default=1) for one in trained.values()), trained)
    test = Limits(length, in_use=True, max_new_tokens=setting, fewest_new_tokens=fewest)
    add("test", corpus.test, "test", "data.test", test)
    if problems:
        raise InputError("\n".join(problems))
    return count_by_split


def cost_tokens(config: Config, examples: list[Example]) -> float:
    """Tokens that these examples of one source cost together."""
    prefix = 0 if config.train.on == "all" else shared_prefix(examples)
    return sum(
        len(example.ids) - prefix * (1 - 1 / config.train.batch_size) for example in examples
    )


def split_notes(config: Config, name: str, counted: Count, rows: Sequence[Row]) -> list[str]:
    """What of a source's or a held-out split's rows is not as it stands in the file."""
    notes = []
    if counted.cut:
        cut_prompts = (
            f"{counted.cut:,} of {counted.rows:,} prompts leave the answer no room in "
            f"train.max_length={config.train.max_length}"
        )
        notes.append(
            f"{name}: {cut_prompts} and lose some of the user's text, no marks or instruction "
            f"(first: {rows[counted.first_cut].place})"
        )
    for words, (num_rows, first) in counted.unused.items():
        notes.append(
            f"{name}: {words}, in {num_rows:,} of {counted.rows:,} rows "
            f"(first: {rows[first].place})"
        )
    return notes


def lost_notes(counts: dict[str, Count]) -> list[str]:
    """How many answers the tokenizer does not give back, such as one with a special token in it:
    none can be matched.
    """
    lost = {name: counted for name, counted in counts.items() if counted.lost}
    if not lost:
        return []
    how_many = ", ".join(
        f"{counted.lost:,} of {counted.rows:,} in {name}" for name, counted in lost.items()
    )
    example = next(iter(lost.values())).lost_answer
    return [
        f"answers that come back changed from the tokenizer and can never match: {how_many}, such "
        f"as {example!r}"
    ]


def length_notes(longest: int, template: ChatTokenizer) -> tuple[str, ...]:
    """Whether examples are longer than the model was made for: some architectures fail on those,
    others answer badly.
    """
    limit = template.num_positions
    if limit is None or longest <= limit:
        return ()
    return (
        f"an example has {longest:,} tokens, and the base was made for {limit:,}: try "
        f"train.max_length={limit}",
    )


def answers_notes(config: Config, corpus: Corpus, counts: dict[str, Count]) -> list[str]:
    """What train.on=answers adds: nothing where no conversation has an earlier answer, and no
    answer that the template does not write whole.
    """
    if config.train.on != "answers":
        return []
    rows = [row for source in corpus.sources.values() for row in source]
    with_earlier = sum(has_earlier_answer(row) for row in rows)
    if not with_earlier:
        return ["train.on=answers has no effect: no row has an answer before its last one"]
    total = sum(counts[name].earlier for name in corpus.sources)
    if total:
        return [
            f"{total:,} of the supervised tokens are of answers before the last one, in "
            f"{with_earlier:,} of {len(rows):,} rows; validation and test rows are judged by their "
            "last answer"
        ]
    return [
        "train.on=answers has no effect: the template writes no earlier answer as it stands, such "
        "as without its reasoning"
    ]


def marked_text(config: Config, example: Example | None, template: ChatTokenizer | None) -> str:
    """The example's text, with each piece that carries loss between »guillemets«."""
    if example is None or template is None:
        return ""
    everything = config.train.on == "all"
    if not example.earlier:
        carried = supervised(config, example, template)
        return f"»{carried}«" if everything else f"{example.text}»{carried}«"
    pieces = []
    at = 0
    for start, stop in example.targets(everything):
        pieces.append(template.decode(example.ids[at:start], skip_special=False))
        pieces.append(f"»{template.decode(example.ids[start:stop], skip_special=False)}«")
        at = stop
    return "".join(pieces)


def supervised(config: Config, example: Example | None, template: ChatTokenizer | None) -> str:
    """The text of the example's tokens that carry loss; of the last answer, where several do."""
    if example is None or template is None:
        return ""
    start = 1 if config.train.on == "all" else example.prompt_length
    return template.decode(example.ids[start:], skip_special=False)
