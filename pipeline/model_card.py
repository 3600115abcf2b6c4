"""`python -m pipeline.model_card run=DIR`: a page about a trained model, for the people who are to use it.

    text = card_of(open_trained(Path("runs/0007")))         # Markdown

What it is, on which data, which numbers were measured, how it was trained, how to use it, what is not known of it; all
from the run folder: config.yaml, run.json, summary.json, evaluation.json. A number that is not there is left out, or
said to be missing; none is made up. `pipeline.export` puts the page beside what it writes; this command writes it into
the run folder, as card.md.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.card_config import CARD_SCHEMAS, CardConfig
from pipeline.compose import compose, help_text, to_plain
from pipeline.run_folder import CONFIG_FILE, EVALUATION_FILE, RUN_FILE, SUMMARY_FILE, TTA_FILE, read_json
from pipeline.shards.errors import run_entry_point
from pipeline.shards.publish import publish_bytes
from pipeline.shards.task import Task
from pipeline.trained import WEIGHTS_FILE, Trained, open_trained

SUMMARY = """Write a page about a run's model: what it is, its data, its numbers, how to use it.

  python -m pipeline.model_card run=runs/0007"""

RUN_CARD_FILE = "card.md"
FACT_FILES = (RUN_FILE, SUMMARY_FILE, EVALUATION_FILE, TTA_FILE)
# Names of classes that are listed; of more, the first.
MOST_CLASSES = 50
TRAINING = ("optimizer", "schedule", "objective", "augment", "batch")


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("model_card", CARD_SCHEMAS, summary=SUMMARY))
        return 0
    config: CardConfig = compose("model_card", CARD_SCHEMAS, argv)
    trained = open_trained(Path(config.run), data_path=config.data.path, cache=config.cache)
    path = Path(config.out) if config.out is not None else trained.folder / RUN_CARD_FILE
    publish_bytes(path, card_of(trained).encode())
    sys.stdout.write(f"{path}\n")
    return 0


def card_of(trained: Trained, *, file: Path | None = None, takes_images: bool = True) -> str:
    """Return the page, in Markdown.

    Args:
        file: the exported model that the page is beside; None: the page is about the run folder.
        takes_images: whether an exported program takes uint8 images.
    """
    facts = {name: _read(trained.folder / name) for name in FACT_FILES}
    sections = [
        ("", _what(trained)),
        ("Data", _data(trained, facts[SUMMARY_FILE])),
        ("Numbers", _numbers(trained, facts[SUMMARY_FILE], [facts[EVALUATION_FILE], facts[TTA_FILE]])),
        ("Training", _training(trained, facts[RUN_FILE], facts[SUMMARY_FILE])),
        ("Use", _use(trained, file, takes_images=takes_images)),
        ("What is not known", _unknown(trained)),
        ("Config", ["```yaml", (trained.folder / CONFIG_FILE).read_text().rstrip(), "```"]),
    ]
    title = f"# {_kind(trained.config.model)} on {trained.facts.data_name}"
    lines = [title]
    for name, section in sections:
        lines += ["", *([f"## {name}", ""] if name else []), *section]
    return "\n".join(lines) + "\n"


def _what(trained: Trained) -> Iterator[str]:
    height, width, channels = trained.facts.image_shape
    parameters = sum(value.numel() for value in trained.weights.values() if value.is_floating_point())
    colours = "RGB" if channels == 3 else "grey"
    classes = len(trained.facts.classes)
    says = f"names {'any number of' if trained.facts.task is Task.multilabel else 'one of'} {classes:,} classes"
    if trained.facts.task is Task.regression:
        says = f"gives {classes:,} number{'' if classes == 1 else 's'}"
    yield (
        f"A multi-layer perceptron with {parameters / 1e6:.2f} million weights that {says}"
        f" for a {colours} image of {width}x{height} pixels. Trained with Tarmac."
    )
    yield ""
    yield from _table(("model option", "value"), _options(trained.config.model))


def _data(trained: Trained, summary: dict[str, Any]) -> Iterator[str]:
    facts, preparation = trained.facts, trained.facts.preparation
    samples = summary.get("data", {}).get("train_samples")
    images = f", {samples:,} training images" if samples else ""
    yield f"{facts.data_name}{images}. {_outputs(trained).capitalize()}, in the order of the outputs:"
    yield ""
    more = f", and {len(facts.classes) - MOST_CLASSES:,} more" if len(facts.classes) > MOST_CLASSES else ""
    yield "; ".join(_escaped(name) for name in facts.classes[:MOST_CLASSES]) + more
    yield ""
    fit = "the largest centred part of that shape" if preparation.is_cropped else "the whole image, stretched"
    by = "Lanczos, when the data set was made" if preparation.is_packed else "a linear filter, when they are read"
    yield f"Images are brought to size from {fit}, by {by}; then each channel is normalised, in 0..255:"
    yield ""
    pairs = zip(facts.mean, facts.std, strict=True)
    rows = ((str(channel), f"{mean:.4g}", f"{std:.4g}") for channel, (mean, std) in enumerate(pairs))
    yield from _table(("channel", "mean", "standard deviation"), rows)


def _numbers(trained: Trained, summary: dict[str, Any], evaluations: list[dict[str, Any]]) -> Iterator[str]:
    at_end = {name.removeprefix("val/"): value for name, value in summary.items() if name.startswith("val/")}
    columns = {f"at the end of training, on {trained.facts.data_name}/{trained.config.data.val_split}": at_end}
    for found in evaluations:
        looks = f", averaged over {found['tta_crops']} crops" if "tta_crops" in found else ""
        columns[f"evaluated on {found.get('data')}/{found.get('split')}{looks}"] = found
    columns = {title: _scalars(values) for title, values in columns.items() if values}
    if not columns:
        yield "None: the run has not ended, and was not evaluated."
        return
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    rows = ((name, *(_number(values.get(name)) for values in columns.values())) for name in names)
    yield from _table(("metric", *columns), rows)
    yield ""
    yield "Exact over the split, each image once; one training run, one seed."


def _training(trained: Trained, run: dict[str, Any], summary: dict[str, Any]) -> Iterator[str]:
    config = trained.config
    rows = [(f"{group}", _one_line(getattr(config, group))) for group in TRAINING]
    rows += [("seed", str(config.seed)), ("precision", config.trainer.precision.name)]
    if trained.step is not None:
        rows.append(("updates", f"{trained.step:,}"))
    if config.init.run is not None:
        frozen = ", its body frozen" if config.init.freeze_body else ""
        rows.append(("started from", f"{config.init.run}, head {config.init.head.name}{frozen}"))
    if "wall_s" in summary:
        ranks = "1 rank" if summary["world_size"] == 1 else f"{summary['world_size']} ranks"
        rows.append(("time", f"{summary['wall_s']:,.0f} s on {ranks}"))
    if versions := run.get("versions"):
        rows.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    if commit := run.get("git_commit"):
        rows.append(("commit", commit))
    yield from _table(("what", "value"), rows)


def _use(trained: Trained, file: Path | None, *, takes_images: bool) -> Iterator[str]:
    height, width, channels = trained.facts.image_shape
    if file is None or file.name == WEIGHTS_FILE:
        folder = trained.folder if file is None else "THIS_FOLDER"
        yield from ("```", f"python -m pipeline.predict run={folder} images=[photos]", "```")
        if (seed := trained.config.model.input_shuffle_seed) is not None:
            order = f"input_order({height * width * channels}, seed={seed})"
            yield from (
                "",
                f"The weights take an image's values in the order `{order}` of `pipeline.model.input_shuffle`.",
            )
        return
    inputs = (
        f"images = torch.zeros((1, {height}, {width}, {channels}), dtype=torch.uint8)"
        if takes_images
        else f"pixels = torch.zeros((1, {height * width * channels}))       # (image - mean) / std, flattened"
    )
    name = inputs.split(" ")[0]
    yield "```python"
    yield "import torch"
    if file.suffix == ".onnx":
        yield "import onnxruntime"
        yield inputs
        yield f'session = onnxruntime.InferenceSession("{file.name}")'
        yield f'(logits,) = session.run(["logits"], {{"input": {name}.numpy()}})'
    else:
        yield inputs
        yield f'logits = torch.export.load("{file.name}").module()({name})'
    yield "```"
    yield ""
    yield f"`logits` has a column for each of the {_outputs(trained)}, in the order of `classes` in model.json."


def _outputs(trained: Trained) -> str:
    """Return what the model's outputs are of."""
    return "targets" if trained.facts.task is Task.regression else "classes"


def _unknown(trained: Trained) -> Iterator[str]:
    yield (
        "The numbers hold for pictures like those of the split that they were measured on. How the model does on other"
        " pictures, whom its mistakes hit, and whether the data may be used for your purpose was not examined here."
    )


def _options(config: Any) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        yield field.name, str(to_plain(getattr(config, field.name)))


def _one_line(config: Any) -> str:
    kind = _kind(config)
    options = ", ".join(f"{name} {value}" for name, value in _options(config))
    return f"{kind}: {options}" if options else kind


def _kind(config: Any) -> str:
    return type(config).__name__.removesuffix("Config")


def _scalars(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"


def _escaped(text: str) -> str:
    """Return text that is only text to Markdown: names of classes may hold anything."""
    text = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
