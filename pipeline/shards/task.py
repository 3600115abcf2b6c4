"""The tasks that a data set may be for."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """What a sample is labelled with: one class, any number of classes, or numbers that a model is to give."""

    classification = "classification"
    multilabel = "multilabel"
    regression = "regression"
