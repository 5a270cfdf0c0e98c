"""`python -m orchestrator.runs`."""

import sys

from orchestrator.runs.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
