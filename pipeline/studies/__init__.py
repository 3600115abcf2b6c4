"""The claims of an introductory lecture on neural networks, each measured by runs: one file a study."""

from __future__ import annotations

from pipeline.studies import activations, gradient_noise, linear_limits, permutation, random_labels, width_transfer
from pipeline.studies.study import Study

# In the order of the lecture.
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        linear_limits.STUDY,
        activations.STUDY,
        gradient_noise.STUDY,
        random_labels.STUDY,
        permutation.STUDY,
        width_transfer.STUDY,
    )
}
