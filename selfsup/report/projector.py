"""The embedding projector of TensorBoard: features of a sample of images, with their pictures and classes."""

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from selfsup.evaluation.newest import newest_encoder
from selfsup.output import message
from selfsup.report.at_end import Finished
from selfsup.report.encoding import Deadline, Feeding, drawn, features_within, unit
from selfsup.report.pictures import sheet, shown
from selfsup.storage.checkpoint import write_atomically
from selfsup.storage.untrusted import plain_name

IMAGES = 1_000  # at most
SHARE = 0.02  # of the time that training took
MOST = 30.0  # seconds
EDGE = 48  # pixels of a picture
_LEAST = 1.0  # seconds that are worth reading images for
_ENCODING = 0.6  # of the time; the rest is for pictures


class Points(NamedTuple):
    """What is projected."""

    features: Tensor  # (N, D)
    classes: list[str]  # (N,), "" where there is none
    names: list[str]  # (N,) of the images
    pictures: list[Image.Image]  # (N,), of at most `EDGE` pixels a side

    @property
    def edge(self) -> int:
        """The side of a square that holds any of the pictures."""
        return max(max(picture.size) for picture in self.pictures)


def projector_at_end(board: Path, run: Finished) -> None:
    """Write the projector's files beside the event files of a finished run; whatever goes wrong is only said.

    For one process alone, as `report_at_end`.

    Args:
        board: the folder of the event files.
        run: of whose time `SHARE` is taken, `MOST` seconds at most.
    """
    try:
        seconds = min(MOST, SHARE * run.trained)
        if seconds < _LEAST:
            message("no embedding projector was written: there is time for it in runs of a minute or more")
            return
        exported = newest_encoder(run.folder, told=False)
        images = drawn(run.tested() or run.source, IMAGES)
        feeding = Feeding(exported.feed.center(), run.device, run.canvas, workers=0)
        read = features_within(exported.encoder, images, feeding, Deadline(_ENCODING * seconds))
        if read is None:
            raise ValueError("there was no time for it")
        read.require_finite()
        pictures = list[Image.Image]()
        deadline = Deadline((1 - _ENCODING) * seconds)
        for index in read.indices.tolist():
            pictures.append(shown(images, index, EDGE))
            if deadline.passed:
                break
        labels, indices = (column[: len(pictures)].tolist() for column in (read.labels, read.indices))
        classes = [images.class_name(label) if label >= 0 else "" for label in labels]
        names = [images.name(index) for index in indices]
        write_projector(board, Points(read.features[: len(pictures)], classes, names, pictures))
    except Exception as error:  # as in `report_at_end`
        message(f"no embedding projector was written: {str(error).partition(chr(10))[0] or type(error).__name__}")


def write_projector(board: Path, points: Points) -> None:
    """Write projector_config.pbtxt, and in `projector/` the features as rows of length one, pictures and metadata.

    Metadata are class and name; names alone where no image has a class.

    Args:
        board: the folder of the event files.
        points: at least one.
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = ProjectorConfig()
    info = config.embeddings.add()
    info.tensor_name, info.tensor_shape[:] = "features", points.features.shape
    info.tensor_path, info.metadata_path = "projector/tensors.tsv", "projector/metadata.tsv"
    info.sprite.image_path, info.sprite.single_image_dim[:] = "projector/sprite.png", (points.edge, points.edge)
    place = board / "projector"
    place.mkdir(parents=True, exist_ok=True)
    rows = io.BytesIO()
    np.savetxt(rows, unit(points.features.float()).numpy(), fmt="%.4g", delimiter="\t")
    write_atomically(place / "tensors.tsv", rows.getvalue())
    write_atomically(place / "metadata.tsv", _metadata(points).encode())
    write_atomically(place / "sprite.png", _sprite(points.pictures, points.edge))
    write_atomically(board / "projector_config.pbtxt", text_format.MessageToString(config).encode())


def _metadata(points: Points) -> str:
    names = [plain_name(name) for name in points.names]
    if not any(points.classes):  # of a single column TensorBoard wants no title
        return "".join(f"{name}\n" for name in names)
    rows = zip([plain_name(name) or "(none)" for name in points.classes], names, strict=True)
    return "class\timage\n" + "".join(f"{label}\t{name}\n" for label, name in rows)


def _sprite(pictures: list[Image.Image], edge: int) -> bytes:
    """All pictures row by row in a square, as a PNG."""
    columns = math.ceil(math.sqrt(len(pictures)))
    square = Image.new("RGB", (columns * edge, columns * edge))
    square.paste(sheet(pictures, edge, columns))
    content = io.BytesIO()
    square.save(content, "PNG")
    return content.getvalue()
