"""What the README's claims about speed are measured with, peers included. Anyone can run them:
`make bench`.
"""

from __future__ import annotations

from collections.abc import Callable


def answer(main: Callable[[], int | None]) -> int:
    """The exit code of a benchmark; a mistake in its arguments is one message and 2, as in the
    command itself.
    """
    from orchestrator.errors import OrchestratorError
    from orchestrator.output import console

    try:
        return main() or 0
    except OrchestratorError as error:
        console.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        console.error("interrupted")
        return 130
