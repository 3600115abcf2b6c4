"""The error of a run that is stopped early, by someone who knows when: that of its best evaluation."""

from __future__ import annotations

from pipeline.studies.study import ACCURACY, StudyRun


def least_error(run: StudyRun) -> float:
    """Return the lowest error of a run's evaluations, %.

    Raises:
        UserError: it was not evaluated.
    """
    return 100 * (1 - max(run.logged(ACCURACY).values()))
