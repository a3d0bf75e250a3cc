"""Images in tar archives and in tables, as other tools write them."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

Sample = tuple[str, Mapping[str, bytes]]  # a name, and the content of its files by what follows the first dot


def tar_of(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar archive of files by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shard(path: Path, samples: Iterable[Sample]) -> Path:
    """A shard of WebDataset."""
    return tar_of(path, {f"{name}.{end}": content for name, parts in samples for end, content in parts.items()})


def table(
    images: Sequence[bytes | None], labels: Sequence[int] = (), names: Sequence[str] = (), **more: Sequence[Any]
) -> pyarrow.Table:
    """A table as Hugging Face's data sets store images and classes, with what they say of the columns."""
    columns: dict[str, Any] = {
        "image": pyarrow.array(
            [{"bytes": content, "path": None} for content in images],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )
    }
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels:
        columns["label"] = pyarrow.array(labels, pyarrow.int64())
        features["label"] = {"_type": "ClassLabel", "names": list(names)}
    found = pyarrow.table(columns | {name: pyarrow.array(values) for name, values in more.items()})
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def arrow_file(path: Path, content: pyarrow.Table, rows: int = 3) -> Path:
    """An Arrow file in pieces of some rows, as `save_to_disk` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as target, pyarrow.ipc.new_stream(target, content.schema) as writer:
        for batch in content.to_batches(rows):
            writer.write_batch(batch)
    return path


def parquet_file(path: Path, content: pyarrow.Table, rows: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(content, path, row_group_size=rows)
    return path
