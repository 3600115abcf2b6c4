"""The tasks that a data set may be for."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """What labels mean: one class a sample, or any number of them."""

    classification = "classification"
    multilabel = "multilabel"
