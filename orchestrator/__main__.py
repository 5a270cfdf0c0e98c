"""`python -m orchestrator`."""

import sys

from orchestrator.cli import main

for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that knows only ASCII still gets the plan
sys.exit(main(sys.argv[1:]))
