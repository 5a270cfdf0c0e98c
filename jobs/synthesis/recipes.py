"""Recipes: what a teacher is asked for a draft, step by step, and what row its replies make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.data.messages import Message
from jobs.synthesis.answer_values import values_of
from jobs.synthesis.attributes import generator, sampled
from jobs.synthesis.corruption import corrupted
from jobs.synthesis.drafts import Ask, Candidate, Draft, Passage, Rejected, Seed
from jobs.synthesis.reply_text import cleaned, pair_in
from jobs.synthesis.seed_rows import Seeds, by_label, cycled, in_order, rarest_first
from jobs.synthesis_settings import Synthesis

FORM = 1
"""Goes up when the same draft asks another question: replies to the former ones are not taken."""
SHOWN_CHARACTERS = 1_500
"""Of an example that the teacher is shown."""
Step = Ask | Candidate | Rejected


@dataclass(frozen=True)
class Recipe:
    """Drafts without end, and the way from a draft's replies to its next step."""

    drafts: Callable[[], Iterator[Draft]]
    advance: Callable[[Draft, Sequence[str]], Step]
    steps: int
    """Requests for a row; 0 needs no teacher."""


def recipe_of(
    settings: Synthesis, seeds: Seeds, passages: Sequence[Passage], task: str, seed: int
) -> Recipe:
    """The recipe that the settings name. `task` is what the teacher is told of the task. Raises
    ValueError where the rows do not fit it.
    """
    writer = Writer(settings, seeds, task, seed)
    order = by_label if settings.labels == "uniform" else in_order
    if settings.recipe == "rare":
        next(rarest_first(seeds, seed))  # says now that there are no labels
        return Recipe(lambda: writer.drafts(rarest_first(seeds, seed)), writer.rare, 1)
    if settings.recipe == "questions":
        return Recipe(lambda: writer.about(passages), writer.questions, 1)
    if settings.labels == "uniform":
        next(by_label(seeds, seed))
    methods = {
        "new": (writer.new, 1),
        "paraphrase": (writer.paraphrase, 1),
        "back_translation": (writer.back_translation, 2),
        "corrupt": (writer.corrupt, 0),
    }
    advance, steps = methods[settings.recipe]
    return Recipe(lambda: writer.drafts(order(seeds, seed)), advance, steps)


class Writer:
    """The texts of all recipes."""

    def __init__(self, settings: Synthesis, seeds: Seeds, task: str, seed: int) -> None:
        self.settings = settings
        self.seeds = seeds
        self.task = task.strip()
        self.seed = seed
        self.compact = not any('": ' in seed.answer for seed in seeds.rows[:100])
        """Whether answers in JSON are written without blanks."""

    def attributes(self) -> Mapping[str, Sequence[str]]:
        """What is drawn for each draft beside its seed."""
        if self.settings.recipe == "corrupt":
            return {"corruption": self.settings.corruptions}
        if self.settings.recipe == "back_translation":
            return {"language": self.settings.languages}
        return self.settings.attributes

    def drafts(self, order: Iterator[Seed]) -> Iterator[Draft]:
        """A draft for each seed."""
        values = sampled(self.attributes(), self.seed)
        shows = self.settings.recipe in ("new", "rare")
        for index, (seed, chosen) in enumerate(zip(order, values, strict=False)):
            examples = self.examples(seed, index) if shows else ()
            yield Draft(index, seed, None, examples, chosen)

    def about(self, passages: Sequence[Passage]) -> Iterator[Draft]:
        """A draft for each passage."""
        values = sampled(self.attributes(), self.seed)
        order = cycled(len(passages), f"passages/{self.seed}")
        for index, (position, chosen) in enumerate(zip(order, values, strict=False)):
            yield Draft(index, None, passages[position], (), chosen)

    def examples(self, seed: Seed, index: int) -> tuple[Seed, ...]:
        """The seed and a few other rows; for a rare label its own ones as far as there are."""
        rows = self.seeds.rows
        if self.settings.recipe == "rare":
            rows = tuple(row for row in self.labelled(seed.label) if row is not seed)
        wanted = min(self.settings.examples - 1, len(rows))
        chance = generator("examples", self.seed, index)
        return (seed, *(rows[n] for n in chance.sample(range(len(rows)), wanted)))

    def labelled(self, label: str) -> Sequence[Seed]:
        """The seeds of a label."""
        if not hasattr(self, "_by_label"):
            self._by_label: dict[str, list[Seed]] = {}
            for seed in self.seeds.rows:
                self._by_label.setdefault(seed.label, []).append(seed)
        return self._by_label[label]

    def ask(self, draft: Draft, step: int, system: str, text: str) -> Ask:
        """A request. All of it is the user's: not every model takes a system message."""
        messages: tuple[Message, ...] = ({"role": "user", "content": f"{system}\n\n{text}"},)
        return Ask(f"{draft.index}.{step}", messages)

    def wishes(self, draft: Draft) -> str:
        """The draft's attributes as lines."""
        return "".join(f"- {name}: {value}\n" for name, value in draft.attributes.items())

    def about_task(self) -> str:
        """The task in a line, where it is known."""
        return f"The task of the assistant that receives it: {self.task}\n\n" if self.task else ""

    def paraphrase(self, draft: Draft, replies: Sequence[str]) -> Step:
        """The question in other words, with the seed's answer."""
        assert draft.seed is not None
        if replies:
            return Candidate(cleaned(replies[0]), draft.seed.answer)
        fixed = self.fixed(draft.seed)
        must = f"- keep these words as they are: {fixed}\n" if fixed else ""
        about = self.about_task() if self.settings.instruction else ""
        # As models are trained to rewrite: how in the system message, the text alone in the user's.
        system = (
            f"{about}Rewrite the input text in other words while maintaining its meaning, so that "
            f"the right answer to it stays the same.\n{self.wishes(draft)}{must}"
            "Reply with the rewritten text alone."
        )
        messages: tuple[Message, ...] = (
            {"role": "system", "content": system},
            {"role": "user", "content": clip(draft.seed.question)},
        )
        return Ask(f"{draft.index}.0", messages)

    def fixed(self, seed: Seed) -> str:
        """Texts of the answer that the question must keep, for the teacher."""
        values = values_of(seed.answer, seed.question)
        return ", ".join(f'"{value}"' for value in values)

    def rare(self, draft: Draft, replies: Sequence[str]) -> Step:
        """Another question with the seed's answer."""
        assert draft.seed is not None
        if replies:
            return Candidate(cleaned(replies[0]), draft.seed.answer)
        shown = "".join(
            f"Text: {clip(example.question)}\nAnswer: {clip(example.answer)}\n\n"
            for example in draft.examples
        )
        text = (
            f"{self.about_task()}{shown}Write one more text, different from these, whose right "
            f"answer is exactly: {clip(draft.seed.answer)}\n{self.wishes(draft)}\n"
            "Reply with the new text alone."
        )
        return self.ask(draft, 0, "You write training texts. You reply with the text alone.", text)

    def new(self, draft: Draft, replies: Sequence[str]) -> Step:
        """Another question with another answer (Self-Instruct; Wang et al., 2023)."""
        if replies:
            return self.pair(replies[0])
        shown = "".join(
            f"Prompt: {clip(example.question)}\nAnswer: {clip(example.answer)}\n\n"
            for example in draft.examples
        )
        text = (
            f"{self.about_task()}{shown}Write one more prompt and its right answer, different from "
            f"these and in the same form.\n{self.wishes(draft)}\n"
            "Reply with two lines:\nPrompt: ...\nAnswer: ..."
        )
        return self.ask(draft, 0, "You write training data.", text)

    def questions(self, draft: Draft, replies: Sequence[str]) -> Step:
        """A question that a passage answers, and its answer."""
        assert draft.passage is not None
        passage = draft.passage.text
        if replies:
            pair = self.pair(replies[0])
            if isinstance(pair, Rejected):
                return pair
            before = f"{passage}\n\n" if self.settings.with_passage else ""
            return Candidate(before + pair.question, pair.answer, passage)
        text = (
            f"Passage:\n{passage}\n\nWrite one question that this passage answers, and its "
            "answer, which must stand in the passage. The question must be understood without "
            f"the passage.\n{self.wishes(draft)}\n"
            "Reply with two lines:\nQuestion: ...\nAnswer: ..."
        )
        return self.ask(draft, 0, "You write questions about documents.", text)

    def pair(self, reply: str) -> Candidate | Rejected:
        """The question and the answer of a reply."""
        pair = pair_in(reply, self.compact)
        if pair is None:
            return Rejected("no question and answer", reply[:200])
        return Candidate(*pair)

    def back_translation(self, draft: Draft, replies: Sequence[str]) -> Step:
        """The question into another language and back (Sennrich et al., 2016)."""
        assert draft.seed is not None
        if len(replies) == 2:
            return Candidate(cleaned(replies[1]), draft.seed.answer)
        language = draft.attributes["language"]
        system = "You are a translator. You reply with the translation alone."
        if not replies:
            text = f"Translate into {language}:\n\n{clip(draft.seed.question)}"
            return self.ask(draft, 0, system, text)
        foreign = cleaned(replies[0])
        if not foreign:
            return Rejected("empty", replies[0][:200])
        home = self.settings.language
        text = f"Translate from {language} into {home}:\n\n{clip(foreign)}"
        return self.ask(draft, 1, system, text)

    def corrupt(self, draft: Draft, replies: Sequence[str]) -> Step:
        """A copy of the question with mistakes, the seed's answer kept."""
        assert draft.seed is not None
        seed = draft.seed
        text = corrupted(
            draft.attributes["corruption"],
            seed.question,
            values_of(seed.answer, seed.question),
            self.settings.error_rate,
            generator("corrupt", self.seed, draft.index),
            self.settings.abbreviations,
        )
        if text == seed.question:
            return Rejected("nothing to corrupt", seed.question[:200])
        return Candidate(text, seed.answer)


def clip(text: str) -> str:
    """The beginning of a text that a request has room for."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
