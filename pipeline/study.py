"""`python -m pipeline.study name=linear-limits`: a claim of the lecture, measured. `--help` lists the studies.

Runs are those of a sweep: processes of their own, by the same training as any run, kept when they are finished and gone
on with when they were broken off. At the end stand result.json, figure.png and report.html.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.compose import compose, help_text
from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.studies import STUDIES
from pipeline.studies.data_sets import TITLES, ready
from pipeline.studies.result import FIGURE_FILE, REPORT_FILE, RESULT_FILE, interval_text, number_text, publish
from pipeline.studies.study import Group, Study, StudyRun, StudyRuns
from pipeline.study_config import STUDY_SCHEMAS, StudyConfig
from pipeline.sweep_config import RunsConfig
from pipeline.sweeping.axes import points, read_swept
from pipeline.sweeping.folder import open_sweep
from pipeline.sweeping.many import ResolvedRun, carry_out, resolved
from pipeline.sweeping.table import Result
from pipeline.track.run_reading import read_run

log = logging.getLogger(__name__)
SUMMARY = """Measure a claim of an introductory lecture on neural networks, over several seeds, on small real data.

  python -m pipeline.study name=linear-limits
  python -m pipeline.study                        # all of them

Killed? Type the same command again: finished runs are kept, the others go on.

"""
# The studies' own pictures are made from all runs together; a tracker and a report of each would take longer than they.
# Whoever wants them says so by `options`.
QUIET = ("logger=none", "track.report=false", "track.pictures=false", "trainer.measure_bound=false")


def main(argv: list[str]) -> int:
    listed = "".join(f"  {name:<24}{study.claim}\n" for name, study in STUDIES.items())
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("study", STUDY_SCHEMAS, summary=f"{SUMMARY}Studies:\n{listed}"))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config: StudyConfig = compose("study", STUDY_SCHEMAS, argv)
    if config.name != "all" and config.name not in STUDIES:
        raise UserError(f"name={config.name}: no such study; there are all, {', '.join(STUDIES)}")
    if config.name != "all":
        _tell(STUDIES[config.name], carry_out_study(STUDIES[config.name], config), config)
        return 0
    return _carry_out_all(config)


def _carry_out_all(config: StudyConfig) -> int:
    """Carry out one study after another, tell all verdicts at the end, and return the exit code; one fails alone."""
    outcomes: dict[str, str] = {}
    failures: list[str] = []
    for name, study in STUDIES.items():
        try:
            result = carry_out_study(study, config)
        except UserError as error:
            outcomes[name] = "failed"
            failures.append(str(error))
            log.warning("%s", error)
        else:
            outcomes[name] = f"{result['verdict']:<24}{result['seconds']:8,.0f} s"
            _tell(study, result, config)
    sys.stdout.write("\nstudy                   verdict                 runs' time\n")
    sys.stdout.write("".join(f"{name:<24}{outcome}\n" for name, outcome in outcomes.items()))
    sys.stdout.flush()
    if failures:
        raise UserError(f"{len(failures)} of {len(STUDIES)} studies failed; the first: {failures[0]}")
    return 0


def _tell(study: Study, result: dict[str, Any], config: StudyConfig) -> None:
    interval = interval_text(result["interval"])
    sys.stdout.write(
        f"\nclaim       {study.claim}\n"
        f"measured    {result['statistic']}: {number_text(result['value'])} (95 % interval {interval})\n"
        f"verdict     {result['verdict']}\n"
        f"study       {folder_of(study, config)} ({RESULT_FILE}, {FIGURE_FILE}, {REPORT_FILE})\n"
    )
    sys.stdout.flush()


def folder_of(study: Study, config: StudyConfig) -> Path:
    """Return where a study of this size lies."""
    return Path(config.dir) / (study.name if config.scale.value == "laptop" else f"{study.name}-{config.scale.value}")


def carry_out_study(study: Study, config: StudyConfig) -> dict[str, Any]:
    """Prepare the data, run what is not finished, measure, and return what result.json says.

    Raises:
        UserError: a run failed; the same command tries it again.
    """
    seeds = ",".join(str(seed) for seed in range(config.seeds or study.seeds[config.scale]))
    groups = list(study.groups(config.scale, seeds))
    finished = _run_groups(study, config, groups)
    if study.follow_up is not None:
        groups += study.follow_up(finished, config.scale, seeds)
        finished = _run_groups(study, config, groups)
    return publish(
        folder_of(study, config),
        study,
        study.measure(finished),
        runs=finished,
        scale=config.scale,
        data=list(dict.fromkeys(TITLES[group.data] for group in groups)),
    )


def _run_groups(study: Study, config: StudyConfig, groups: Sequence[Group]) -> StudyRuns:
    """Run what of these groups is not finished, and return all their runs."""
    names: list[str] = []
    runs: list[ResolvedRun] = []
    for group in groups:
        data = ready(group.data, root=Path(config.data))
        swept = read_swept([f"data.path={data}", *QUIET, *group.options, *config.options])
        found = resolved(swept.fixed, points(swept.axes))
        names += [group.name] * len(found)
        runs += found
    folder = folder_of(study, config)
    identities, options = [run.identity for run in runs], [run.options for run in runs]
    with open_sweep(folder / "runs", identities, options=options) as sweep:
        sys.stdout.write(f"{study.name}: {len(runs)} runs -> {folder}\n")
        sys.stdout.flush()

        num_ended = sum((place.folder / SUMMARY_FILE).is_file() for place in sweep.runs)

        def tell(result: Result, passed_s: float) -> None:
            nonlocal num_ended
            num_ended += 1
            words = " ".join(f"{name}={value}" for name, value in result.options.items())
            told = "done" if result.summary is not None else f"failed, {result.failure}"
            sys.stdout.write(f"  {num_ended} of {len(runs)}  {result.number:04d} {words}: {told}, {passed_s:.0f} s\n")
            sys.stdout.flush()

        results = carry_out(sweep, runs, RunsConfig(jobs=config.jobs), on_end=tell)
        failed = [result for result in results if result.summary is None]
        if failed:
            raise UserError(
                f"{study.name}: {len(failed)} of {len(runs)} runs failed, the first with {failed[0].failure};"
                f" logs in {folder}/runs/logs; the same command tries again"
            )
        records = [read_run(place.folder) for place in sweep.runs]
    return StudyRuns(
        runs=[
            StudyRun(group=name, options=run.options, record=record)
            for name, run, record in zip(names, runs, records, strict=True)
        ]
    )


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
