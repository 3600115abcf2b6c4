"""What bounded a run, and the batch below which its network does: measured after training, on all ranks together.

    find_bound(recorder, module, how=HowUpdated())
    # {"rate/compute_frac": 0.95, ..., "bounded_by": "compute, 95 % of the time: the model alone does ..."}
    find_network_bound(recorder, module, how=HowUpdated())      # Bound(images=1_033, source="an exchange takes ...")

Weights and whatever else belongs to the run stay as they are. Where there is nothing to measure, or no room to, that is
said instead: by then the run is trained, and nothing here may take that away.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.track.ceilings import HowUpdated, has_room, loader_images_per_s, model_images_per_s, over_ranks
from pipeline.track.cockpit import Bound
from pipeline.track.exchange import network_bound
from pipeline.track.recorder import Recorder
from pipeline.track.starvation import Rates, bound_text, shares_of
from pipeline.training.module import ClassifierModule

# Of the time that a run has trained, what measuring may take of model and of loader, and at most so long.
BOUND_FRAC, BOUND_S = 0.01, 0.8
# A shorter run's own speed is not known well enough.
LEAST_TRAINED_S = 2.0


def find_bound(recorder: Recorder, module: ClassifierModule, *, how: HowUpdated) -> dict[str, Any]:
    """Measure what model and loader can do alone, log it, and return it with `bounded_by`, for the summary."""
    trained_s = over_ranks(recorder.trained_s, "max", device=module.device)
    if (reason := _why_not(module, trained_s)) is not None:
        return {"bounded_by": f"nothing that could be measured {reason}"}
    assert recorder.replayed is not None  # trained to the last step
    max_s = _max_s(trained_s)
    rates = Rates(
        run=recorder.trained_images / trained_s,
        model_alone=model_images_per_s(module, recorder.replayed, how=how, max_s=max_s),
        loader_alone=None,
        data_wait_frac=over_ranks(recorder.data_wait_frac, "max", device=module.device),
    )
    # A loader that was waited for all the time had no rest: it can do no more, and its next batch may be long.
    if shares_of(rates).bound != "data":
        loader_alone = loader_images_per_s(recorder.loader, device=module.device, max_s=max_s)
        rates = dataclasses.replace(rates, loader_alone=loader_alone)
    row = {"rate/model_alone_images_per_s": rates.model_alone}
    if rates.loader_alone is not None:
        row["rate/loader_alone_images_per_s"] = rates.loader_alone
    row |= {f"rate/{name}_frac": value for name, value in dataclasses.asdict(shares_of(rates)).items()}
    if recorder.metric_log is not None:
        recorder.metric_log.write(step=module.plan.total_steps, row=row)
    return {**row, "bounded_by": bound_text(rates)}


def find_network_bound(recorder: Recorder, module: ClassifierModule, *, how: HowUpdated) -> Bound:
    """Measure the batch below which ranks exchange gradients for longer than they compute them."""
    trained_s = over_ranks(recorder.trained_s, "max", device=module.device)
    if (reason := _why_not(module, trained_s)) is not None:
        return Bound(images=None, source=f"not measured {reason}")
    assert recorder.replayed is not None  # trained to the last step
    return network_bound(module, recorder.replayed, how=how, max_s=_max_s(trained_s) / 2)


def _why_not(module: ClassifierModule, trained_s: float) -> str | None:
    """Return why nothing is measured, None if it is: on all ranks the same."""
    if trained_s < max(LEAST_TRAINED_S, 1e-9):  # a resumed run may have had nothing left to train
        return f"in {trained_s:.1f} s of training"
    return None if has_room(module.model, device=module.device) else "without room for a second copy of the model"


def _max_s(trained_s: float) -> float:
    return min(BOUND_S, BOUND_FRAC * trained_s)
