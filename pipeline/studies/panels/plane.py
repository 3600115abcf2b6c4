"""What a model of two classes says of each point of the plane, for pictures of sets whose images are two pixels.

boundary(run, title="Linear")                   # the panel "Linear: 49 % right", of a run on rings
field = Field(values=shares_over_plane(open_trained(folder)), extent=PLANE, label="share", limits=(0.0, 1.0))
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.studies.study import ACCURACY, StudyRun
from pipeline.track.plots import Axis, Field, Panel
from pipeline.trained import Trained, build_trained, open_trained

# Every second level, 0 to 254.
LEVELS = np.arange(0, 256, 2)
# Lowest and highest x, lowest and highest y.
PLANE = (0.0, 255.0, 0.0, 255.0)


def boundary(run: StudyRun, *, title: str) -> Panel:
    """Draw the share that a run's model gives to the outer ring, over the plane; its accuracy is in the title."""
    return Panel(
        x=Axis(label="x", limits=PLANE[:2]),
        y=Axis(label="y", limits=PLANE[2:]),
        series=[],
        field=Field(
            values=shares_over_plane(open_trained(run.record.folder)),
            extent=PLANE,
            label="share given to the outer ring",
            limits=(0.0, 1.0),
        ),
        title=f"{title}: {100 * run.metric(ACCURACY):.0f} % right",
    )


def shares_over_plane(trained: Trained) -> list[list[float]]:
    """Return the share that the model gives to class 1, by rows from the lowest y, each from the lowest x."""
    grid = np.stack(np.meshgrid(LEVELS, LEVELS), axis=-1).reshape(-1, 2)
    mean, std = (torch.tensor(values) for values in (trained.facts.mean, trained.facts.std))
    with torch.no_grad():
        logits = build_trained(trained)((torch.from_numpy(grid).float() - mean) / std)
    shares: list[list[float]] = logits.softmax(dim=1)[:, 1].reshape(len(LEVELS), len(LEVELS)).tolist()
    return shares
