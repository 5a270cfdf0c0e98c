"""Opens a pack: loads the base model, and switches packing on where it changes no result."""

from __future__ import annotations

from jobs.config import Trial
from jobs.foreign_code import FOREIGN_CODE_ERRORS
from jobs.pack.compatibility import compare, obstacle, probing, refusal, run_plain
from jobs.pack.engine import Pack


def enable_packing(pack: Pack, trial: Trial) -> str | None:
    """Switch the packed passes of a loaded pack on.

    Returns why the model must take the plain executor; None when the pack is ready to train.
    """
    # 1) What the structure shows needs no pass.
    problem = obstacle(pack, trial)
    if problem is not None:
        return problem
    with probing(pack, trial) as probes:
        try:
            # 2) The reference: the model as it was loaded.
            plain = run_plain(pack, probes)
        except FOREIGN_CODE_ERRORS as error:
            return refusal(error)
        try:
            # 3) From here on the model runs packed rows.
            pack.enable_packing()
        except FOREIGN_CODE_ERRORS as error:
            return refusal(error)
        # 4) The packed model must give the same.
        return compare(pack, probes, plain)
