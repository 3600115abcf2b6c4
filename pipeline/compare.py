"""`python -m pipeline.compare runs=[a,b,c]`: several runs as one HTML file that loads nothing.

    make compare RUNS="runs/0001 runs/0002"             # runs/compare.html
    python -m pipeline.compare runs=[runs/sweep-1]      # all runs of a sweep
    python -m pipeline.compare                          # all runs in runs/

Runs that differ by their seed alone are one configuration, with mean and spread.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.compose import compose, help_text
from pipeline.report_config import COMPARE_SCHEMAS, CompareConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.track.report.comparison_page import write_comparison
from pipeline.track.run_reading import find_runs

SUMMARY = """Write several runs as one page: curves over each other, final numbers, differences of config, speed.

  python -m pipeline.compare runs=[runs/0001,runs/0002]
  python -m pipeline.compare runs=[runs/00*] out=mine.html"""
COMPARISON_FILE = "compare.html"
# Of more runs nobody tells the curves apart, and the page has no room for them.
MOST_RUNS = 200
RUNS_FOLDER = "runs"


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("compare", COMPARE_SCHEMAS, summary=SUMMARY))
        return 0
    config: CompareConfig = compose("compare", COMPARE_SCHEMAS, argv)
    folders = run_folders(config.runs)
    out = Path(config.out) if config.out is not None else shared_folder(folders) / COMPARISON_FILE
    try:
        groups = write_comparison(folders, out=out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name a file with out=") from None
    runs = "1 run" if len(folders) == 1 else f"{len(folders)} runs"
    of = "" if len(groups) == len(folders) else f" of {len(groups)} configuration{'s' if len(groups) > 1 else ''}"
    sys.stdout.write(f"{runs}{of} -> {out}\n")
    return 0


def run_folders(named: Sequence[str]) -> list[Path]:
    """Return the folders of the runs that are named, each once: runs, folders of runs, and patterns with *.

    A name that is not there, but is in runs/, is meant there.

    Raises:
        UserError: a name with no run, or more runs than a page holds.
    """
    found: dict[Path, Path] = {}
    for name in named:
        runs = [run for place in _places(name) for run in find_runs(place.resolve() if place.is_symlink() else place)]
        if not runs:
            raise UserError(f"runs={name}: no run there; train one with `make train`, or name its folder")
        for run in runs:
            found.setdefault(run.resolve(), run)
    if len(found) > MOST_RUNS:
        raise UserError(f"runs: {len(found):,} runs are more than the {MOST_RUNS} of a page; name fewer")
    return list(found.values())


def _places(name: str) -> list[Path]:
    if "*" in name:
        # Hidden folders, which Path.glob would find, and links to what is found anyway are not meant by a pattern.
        matches = map(Path, sorted(glob.glob(name, recursive=True)))  # noqa: PTH207
        return [path for path in matches if path.is_dir() and not path.is_symlink()]
    path = Path(name)
    return [path if path.is_dir() or not (Path(RUNS_FOLDER) / path).is_dir() else Path(RUNS_FOLDER) / path]


def shared_folder(folders: Sequence[Path]) -> Path:
    """Return the folder that all runs are in, as the user would type it."""
    shared = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    here = Path.cwd()
    return shared.relative_to(here) if shared.is_relative_to(here) else shared


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
