"""TensorBoard as a view of the record: event files in RUN_DIR/tensorboard, for `tensorboard --logdir runs`.

The files are written anew from the record whenever a run goes on, so each step is drawn once and none is missing, also
those that a kill kept from reaching the disk; a TensorBoard that is open sees a new start, which replaces what it had.
Pictures are shown as such, tables as text. Written by the tensorboard package alone, without torch.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from pipeline.track.media import Kind, Medium
from pipeline.track.run_reading import RunRecord

FOLDER = "tensorboard"
# Of a table as text; media/ has all of them.
MOST_ROWS = 200


class TensorBoardTracker:
    """Writes the event file of a run, which replaces those of earlier attempts."""

    def __init__(self, folder: Path) -> None:
        logdir = folder / FOLDER
        logdir.mkdir(exist_ok=True)
        for path in logdir.glob("events.out.tfevents.*"):
            # Emptied, not removed: a TensorBoard that reads it would wait for it for ever. A link is none of ours.
            if not path.is_symlink():
                os.truncate(path, 0)
        self._events = EventFileWriter(str(logdir))
        # Tells a TensorBoard that is open to drop what it read from the files before.
        self._events.add_event(
            Event(step=0, wall_time=time.time(), session_log=SessionLog(status=SessionLog.SessionStatus.START))
        )

    def write(self, *, step: int, row: dict[str, float]) -> None:
        self._add(step, *(Summary.Value(tag=key, simple_value=value) for key, value in row.items()))

    def show(self, medium: Medium) -> None:
        try:
            if medium.kind is Kind.picture:
                value = _picture(medium)
            else:
                columns, rows = medium.table()
                value = _text(medium.name, f"{medium.caption}\n\n{markdown(columns, rows)}")
        except (OSError, ValueError, struct.error):  # cut meanwhile by another attempt of this run, or damaged
            return
        self._add(medium.step, value)

    def flush(self) -> None:
        self._events.flush()

    def close(self, run: RunRecord) -> None:
        self._events.close()

    def _add(self, step: int, *values: Any) -> None:
        self._events.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as Markdown, with the first MOST_ROWS rows."""
    lines = [[str(column) for column in columns], ["---"] * len(columns)]
    lines += [[_cell(value) for value in row] for row in rows[:MOST_ROWS]]
    text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return text + (f"\n\nand {len(rows) - MOST_ROWS:,} more rows" if len(rows) > MOST_ROWS else "")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _picture(medium: Medium) -> Any:
    png = medium.path.read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="images"),
        summary_description=medium.caption,
        data_class=DATA_CLASS_BLOB_SEQUENCE,
    )
    # TensorBoard's form of an image: width and height as text, then the encoded images.
    content = [str(width).encode(), str(height).encode(), png]
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(content))])
    tensor = TensorProto(dtype=DT_STRING, string_val=content, tensor_shape=shape)
    return Summary.Value(tag=medium.name, metadata=metadata, tensor=tensor)


def _text(name: str, text: str) -> Any:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"), data_class=DATA_CLASS_TENSOR)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    return Summary.Value(tag=name, metadata=metadata, tensor=tensor)
