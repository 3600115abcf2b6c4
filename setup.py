"""The optional C extension: built where there is a compiler, done without where there is none.

It has no Python in it (`pipeline/native/__init__.py` loads it by ctypes), so Python's headers are not needed either.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
FOLDER = Path("pipeline/native")


def files(pattern: str) -> list[str]:
    return sorted(str(FOLDER / path.name) for path in (HERE / FOLDER).glob(pattern))


setup(
    ext_modules=[
        Extension(
            "pipeline.native._native",
            sources=files("*.c"),
            depends=files("*.h"),
            # Without contraction to fused operations every machine gets the same pixels.
            extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-fvisibility=hidden"],
            libraries=["dl", "m", "pthread"] if sys.platform == "linux" else [],
            optional=True,
        )
    ]
)
