"""The claims of an introductory lecture on neural networks, each measured by runs: one file a study."""

from __future__ import annotations

from pipeline.studies import linear_limits
from pipeline.studies.study import Study

STUDIES: dict[str, Study] = {study.name: study for study in (linear_limits.STUDY,)}
