"""Errors that a user can mend: one line, exit code 2, no traceback.

    raise UserError("data.path: no dataset.json in data/cifar10; make one with `make prepare-data`")

Everything else that escapes an entry point is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable

EXIT_USER_ERROR = 2
LAUNCHER_WAIT_S = 30.0


class UserError(Exception):
    """Wrong input. The message says what, where, what was wanted, and how to mend it, in one line.

    Attributes:
        of_one_rank: it struck this rank alone, which must say so itself; other errors are every rank's, and rank 0
            speaks.
    """

    of_one_rank = False


class DamageError(UserError):
    """Stored data that is not what its checksums say. Names the file and, where known, the record."""


def run_entry_point(main: Callable[[list[str]], int]) -> int:
    """Run `main(argv)` and turn errors that a user can mend into one line on stderr and exit code 2.

    A full disk counts as such an error wherever it strikes. Ctrl-C ends with the shell's usual 130.
    """
    try:
        return main(sys.argv[1:])
    except UserError as error:
        return report_user_error(str(error), every_rank=error.of_one_rank)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        return report_user_error(f"the disk is full{where}; free some space, then type the same command again")
    except RuntimeError as error:
        # Of gloo, where another rank has ended: that one has said why, and the launcher is about to end this one.
        if os.environ.get("WORLD_SIZE", "1") != "1" and re.search("by peer|Broken pipe", str(error)):
            time.sleep(LAUNCHER_WAIT_S)
        raise
    except KeyboardInterrupt:
        return report_user_error("interrupted", exit_code=130)


def report_user_error(message: str, *, exit_code: int = EXIT_USER_ERROR, every_rank: bool = False) -> int:
    """Write the one line, unless asked otherwise on rank 0 only, and return the exit code."""
    if every_rank or os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.flush()
    return exit_code
