"""`python -m pipeline.report run=DIR`: a run as one HTML file that loads nothing, also while the run is at work.

    make report                             # runs/latest
    make report ARGS="run=runs/0001"        # runs/0001/report.html

Training writes the same at its end (`track.report`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.compose import compose, help_text
from pipeline.report_config import REPORT_SCHEMAS, ReportConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.track.report.run_page import write_report

SUMMARY = """Write a run as one page: curves, tables, pictures, what bounded the speed, how to repeat it.

  python -m pipeline.report run=runs/0007"""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("report", REPORT_SCHEMAS, summary=SUMMARY))
        return 0
    config: ReportConfig = compose("report", REPORT_SCHEMAS, argv)
    out = None if config.out is None else Path(config.out)
    try:
        path = write_report(Path(config.run), out=out)
    except OSError as error:
        raise UserError(f"{out or config.run}: cannot be written ({error.strerror}); name a file with out=") from None
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
