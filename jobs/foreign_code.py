"""What code may raise that is not ours: a base model's layers, and its chat template."""

from __future__ import annotations

FOREIGN_CODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What such code raises for arguments or values that it was not written for: then the model is run
in another way, or the user is told why not.

Nobody can list it more closely, since every author writes as he likes (NotImplementedError and
RecursionError are RuntimeErrors, a UnicodeError is a ValueError). It is not Exception: a file that
is gone, memory that has run out in Python, or a mistake in an import is no answer of the model's.
"""
