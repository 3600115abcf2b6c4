"""C code for what numpy and torch are slow at: cropped JPEG decoding, gathers with augmentation.

    native = load()                 # a ctypes library, or why there is none
    if isinstance(native, Absent):
        log.info("slower: %s", native.reason)

setup.py builds it when the package is installed, if there is a compiler; everything works without it, slower. It has no
Python in it and is called through ctypes, which lets go of the GIL. TARMAC_NATIVE=0 in the environment turns it off.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# As TARMAC_INTERFACE in native.h.
INTERFACE = 3
SWITCH = "TARMAC_NATIVE"
BUILD = "pip install -e . builds it, where there is a C compiler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Why there is no native code, in words that end in how to get it."""

    reason: str


def library_path() -> Path:
    """Return where setuptools puts the library, which need not be there."""
    return Path(__file__).with_name(f"_native{sysconfig.get_config_var('EXT_SUFFIX')}")


def load() -> ctypes.CDLL | Absent:
    """Return the library, loaded once, or why it is not to be had."""
    if os.environ.get(SWITCH) == "0":
        return Absent(reason=f"native code is turned off by {SWITCH}=0")
    return _load(library_path())


@cache
def _load(path: Path) -> ctypes.CDLL | Absent:
    if not path.exists():
        return Absent(reason=f"native code was not built: {BUILD}")
    try:
        library = ctypes.CDLL(str(path))
        interface = int(library.tarmac_interface())
    except (OSError, AttributeError) as error:
        return Absent(reason=f"native code cannot be loaded ({error}): {BUILD}")
    if interface != INTERFACE:
        return Absent(reason=f"native code was built from other sources: {BUILD}")
    return library
