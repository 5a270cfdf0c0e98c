"""The type of a model in memory, for type checkers only: naming it loads neither transformers nor
PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    LanguageModel = PreTrainedModel | PeftModel
    """A causal language model, alone or with an adapter on it."""
