"""`python -m pipeline.dashboard ...`: a page that shows runs while they train. `--help` lists options."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from pipeline.compose import compose, help_text
from pipeline.dashboard_config import DASHBOARD_SCHEMAS, RUNS_FOLDER, DashboardConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.track.live.server import serving
from pipeline.track.run_reading import find_runs

SUMMARY = """Show runs on a page of this machine, while they train and after.

  python -m pipeline.dashboard
  python -m pipeline.dashboard runs=[runs/sweep,/mnt/other/runs] port=8000

It reads run folders and nothing else: training does not know of it. Ctrl-C ends it."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("dashboard", DASHBOARD_SCHEMAS, summary=SUMMARY))
        return 0
    config: DashboardConfig = compose("dashboard", DASHBOARD_SCHEMAS, argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    roots = [Path(folder) for folder in config.runs]
    for root in roots:
        if not root.is_dir() and str(root) != RUNS_FOLDER:
            raise UserError(f"runs={root}: no such folder; name the one that holds the runs")
    # Before the address is told, since whoever reads it may end this at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with serving(roots, host=config.host, port=config.port) as server:
        try:
            if config.port not in (0, server.server_port):
                sys.stdout.write(f"port {config.port} is taken\n")
            num_runs = sum(1 for root in roots for _ in find_runs(root))
            where = ", ".join(config.runs)
            sys.stdout.write(
                f"{num_runs:,} run{'' if num_runs == 1 else 's'} in {where}; new ones appear by themselves\n"
            )
            if not server.is_private:
                sys.stdout.write(f"whoever reaches this machine at {config.host} may look\n")
            sys.stdout.write(f"{server.address}    (Ctrl-C ends)\n")
            sys.stdout.flush()
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\nended\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
