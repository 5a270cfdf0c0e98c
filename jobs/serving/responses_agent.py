"""A registered version behind MLflow's chat interface: `mlflow models serve` and
`mlflow.pyfunc.load_model` load it.

Runs where nothing but the version's folder is: this package travels in its `code/`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import ResponsesAgent
from mlflow.types.responses import (
    ResponsesAgentRequest,
    ResponsesAgentResponse,
    ResponsesAgentStreamEvent,
)

from jobs.serving.base_of_version import base_of
from jobs.serving.chat_request import row_of
from jobs.serving.predict import LoadedVersion

FOLDER = "version"
"""The artifact of the MLflow model that is the version's folder."""


class Answers:
    """What an agent answers. Apart from MLflow's class, which would write a trace of each request
    into a tracking store.
    """

    version: LoadedVersion

    def load_context(self, context: Any) -> None:
        """Load the model, once."""
        folder = Path(context.artifacts[FOLDER])
        self.one_at_a_time = threading.Lock()
        try:
            self.version = LoadedVersion(base_of(folder), folder)
        except (ValueError, MemoryError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        """The greedy answer to a conversation, as the test rows were answered."""
        return ResponsesAgentResponse(output=[self.item(request)])

    def predict_stream(self, request: ResponsesAgentRequest) -> Iterator[ResponsesAgentStreamEvent]:
        """The same answer in one piece."""
        event: dict[str, Any] = {"type": "response.output_item.done", "item": self.item(request)}
        yield ResponsesAgentStreamEvent(**event)

    def item(self, request: ResponsesAgentRequest) -> Any:
        """The answer as an item of a response. A request that cannot be answered is the caller's
        mistake (400).
        """
        asked = request.model_dump(exclude_none=True)
        try:
            row = row_of(asked, self.version.task)
            with self.one_at_a_time:
                text = self.version.answer(row, asked.get("max_output_tokens"))
        except (ValueError, MemoryError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return ResponsesAgent.create_text_output_item(text=text, id=f"msg_{uuid.uuid4().hex}")


class Agent(Answers, ResponsesAgent):
    """The agent that a version's MLmodel names."""
