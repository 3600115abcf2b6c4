"""The claims of an introductory lecture on neural networks, each measured by runs: one file a study."""

from __future__ import annotations

from pipeline.studies import (
    activations,
    batch_size,
    depth_and_data,
    double_descent,
    gradient_noise,
    linear_limits,
    memory,
    noise_helps,
    overfitting,
    perceptron,
    permutation,
    random_labels,
    scaling,
    universal_approximation,
    width_transfer,
)
from pipeline.studies.study import Study

# In the order of the lecture.
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        linear_limits.STUDY,
        perceptron.STUDY,
        activations.STUDY,
        universal_approximation.STUDY,
        overfitting.STUDY,
        depth_and_data.STUDY,
        memory.STUDY,
        gradient_noise.STUDY,
        batch_size.STUDY,
        noise_helps.STUDY,
        double_descent.STUDY,
        random_labels.STUDY,
        scaling.STUDY,
        permutation.STUDY,
        width_transfer.STUDY,
    )
}
