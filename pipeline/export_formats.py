"""A model in forms that others read: safetensors, ONNX, torch.export; each written, and read back to be asked.

    answer = write_onnx(model, example, path)           # the model as it stands in the file
    logits_BK = answer(images)

Each function writes one file and returns what that very file says of inputs, through the reader that its users have:
so what is checked is the file and not the object that it was made from. The number of rows is free, one included.

Axes: B batch, H height, W width, C channels, D = H*W*C, K classes.
"""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.shards.errors import UserError

# From inputs to logits, both torch tensors on the CPU.
Answer = Callable[[torch.Tensor], torch.Tensor]
INPUT, OUTPUT = "input", "logits"


class ImageModel(nn.Module):
    """The model with its normalisation before it: uint8 images (B, H, W, C) in, logits (B, K) out."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, *, mean: Iterable[float], std: Iterable[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))

    def forward(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        pixels_BHWC = (images_BHWC.to(torch.float32) - self.mean) / self.std
        logits_BK: torch.Tensor = self.model(pixels_BHWC.flatten(1))
        return logits_BK


def write_safetensors(model: nn.Module, path: Path, *, metadata: dict[str, str]) -> Answer:
    """Write the state dict of a model; what is read back is put into a copy of it whose weights were wiped out."""
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path, metadata=metadata)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(load_file(path))
    return _asked(other)


def write_torch_export(model: nn.Module, example: torch.Tensor, path: Path) -> Answer:
    """Write a model as a program of torch.export (`.pt2`), which runs without our code."""
    with _quiet():
        program = torch.export.export(model, (example,), dynamic_shapes=(_rows(),))
        torch.export.save(program, path)
        loaded: Any = torch.export.load(path).module()
    return _asked(loaded)


def write_onnx(model: nn.Module, example: torch.Tensor, path: Path) -> Answer:
    """Write a model as ONNX, weights inside the file; it is read back by ONNX Runtime.

    Raises:
        UserError: the packages that it takes are not installed.
    """
    try:
        # onnx and onnxscript are torch's exporter's, which asks for them in many more words.
        _, _, onnxruntime = (importlib.import_module(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    except ImportError as error:
        raise UserError(
            f"format=onnx: needs the package {error.name}, which is not installed: pip install 'tarmac[export]'"
        ) from None
    # It warns of every kind of operator that some other library, such as torchvision, would bring.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with _quiet():
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(_rows(),),
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: inputs.numpy()})
        return torch.from_numpy(logits)

    return answer


def _asked(model: Callable[..., Any]) -> Answer:
    """Return what asks a model for its outputs and no gradients."""

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            outputs: torch.Tensor = model(inputs)
        return outputs

    return answer


def _rows() -> dict[int, Any]:
    return {0: torch.export.Dim("batch", min=1)}


class _quiet(warnings.catch_warnings):
    """Leaves out what torch's exporters tell their own developers."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered
