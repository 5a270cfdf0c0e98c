"""Whether an answer is still right: a judge that is asked yes or no, or a student that has to give
the same answer itself.
"""

from __future__ import annotations

import json
import re

from jobs.data.readers import Row, normalise
from jobs.evaluation.json_answers import parse
from jobs.synthesis.drafts import Ask, Work
from jobs.synthesis.reply_text import THOUGHT

SYSTEM = "You check training data. You reply with one word, yes or no."
VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def question_to(work: Work, task: str, row: Row, is_student: bool) -> Ask:
    """What is asked about a row that has passed the other filters."""
    assert work.candidate is not None
    name = f"{work.draft.index}.judge"
    if is_student:
        return Ask(name, row.context, row)
    about = f"The task: {task.strip()}\n\n" if task.strip() else ""
    passage = work.candidate.passage
    passage_text = f"Passage:\n{passage}\n\n" if passage else ""
    text = (
        f"{about}{passage_text}Prompt: {work.candidate.question}\n"
        f"Answer: {work.candidate.answer}\n\n"
        "Is this the right answer to the prompt? Reply yes or no."
    )
    return Ask(name, ({"role": "user", "content": f"{SYSTEM}\n\n{text}"},))


def agrees(reply: str, answer: str, is_student: bool) -> bool | None:
    """Whether the reply agrees with a row's answer, None where it is no verdict."""
    if is_student:
        return same_answer(reply, answer)
    match = VERDICT.match(THOUGHT.sub("", reply).strip())
    return None if match is None else match[1].lower() == "yes"


def same_answer(left: str, right: str) -> bool:
    """Whether two answers are the same, as values where both are JSON."""
    values = parse(left), parse(right)
    if values[0] is not None and values[1] is not None:
        return json.dumps(values[0], sort_keys=True) == json.dumps(values[1], sort_keys=True)
    return normalise(left) == normalise(right)
