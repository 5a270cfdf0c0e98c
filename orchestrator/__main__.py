"""`python -m orchestrator`."""

import atexit
import os
import sys


def run() -> int:
    """The exit code, also where Ctrl-C comes before the first line of ours has run."""
    try:
        from orchestrator.process.interruption import arm

        arm()
        from orchestrator.cli import main
        from orchestrator.kuberay import driver

        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that knows only ASCII still gets the plan
        return driver.end(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues", file=sys.stderr)
        return 130


code = run()
if code == 130:
    # Had Ctrl-C come while an import ran a text as code, Python would end by the signal, whatever
    # code it is told.
    sys.stdout.flush()
    atexit._run_exitfuncs()
    os._exit(code)
sys.exit(code)
