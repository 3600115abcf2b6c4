"""Fixtures of the tests of data."""

from __future__ import annotations

import ctypes

import pytest

from pipeline.data.pixels import native_pixels
from pipeline.native import Absent


@pytest.fixture
def native() -> ctypes.CDLL:
    """The compiled library; where there is none the test skips."""
    library = native_pixels()
    if isinstance(library, Absent):
        pytest.skip(library.reason)
    return library
