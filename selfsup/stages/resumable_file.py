"""Features on their way to the disk, so that a command that was interrupted goes on after what is there."""

import io
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfsup.output import message
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import open_own, plain_name, read_json

_ROW_GROUP = 8192  # rows of a Parquet file that are in memory at once


@dataclass
class Done:
    """How far the features are on the disk."""

    chunks: int = 0
    rows: int = 0
    dimension: int = 0  # known once there is a row
    unreadable: dict[str, dict[int, str]] = field(default_factory=dict)  # part -> number -> reason


class Partial:
    """Features on their way to the disk: an array in FILE.partial, and in FILE.partial.json what of it is whole.

    Args:
        path: FILE.partial.
        content: what the features are of; rows of anything else are not gone on with.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.beside = path.with_name(f"{path.name}.json")
        self.done = self._found() or Done()

    def _found(self) -> Done | None:
        """What an interrupted command left, where it was of the same."""
        if not (self.path.is_file() and self.beside.is_file()):
            return None
        try:
            saved = read_json(self.beside)
            of, done = saved["of"], Done(**saved["done"])
            numbers = {part: {int(key): reason for key, reason in met.items()} for part, met in done.unreadable.items()}
            done.unreadable = numbers  # JSON has only strings as keys
            if not isinstance(of, dict):
                raise ValueError("it does not say what it is of")
            if min(done.chunks, done.rows, done.dimension) < 0:
                raise ValueError("it counts less than nothing")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message(f"{self.beside} is damaged ({error}): starting afresh")
            return None
        own = json.loads(json.dumps(self.content))
        if of != own:
            differ = sorted(str(name) for name in {*of, *own} if of.get(name) != own.get(name))
            message(f"{self.path} is of something else ({plain_name(', '.join(differ))}): starting afresh")
            return None
        return done if self.path.stat().st_size >= self.offset(done) else None

    @staticmethod
    def offset(done: Done) -> int:
        """Bytes up to the end of the whole rows."""
        return len(_header(done)) + 4 * done.rows * done.dimension if done.rows else 0

    def append(self, features: NDArray[np.float32], part: str, unreadable: dict[int, str]) -> None:
        """Add a finished chunk: its rows (n, D), and the images of `part` that were left out.

        Raises:
            StorageError: the disk would not take it; the chunks before this one are safe.
        """
        done = self.done
        try:
            with open_own(self.path, "r+b" if done.rows else "wb") as file:
                file.truncate(self.offset(done))
                file.seek(self.offset(done))
                if len(features) and not done.rows:
                    done.dimension = features.shape[1]
                    file.write(_header(done))
                file.write(features.tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise checkpoint.StorageError(
                f"cannot write {self.path}: {error.strerror}\nrun the same command again to go on after the last "
                f"{done.chunks} whole chunks"
            ) from error
        done.chunks += 1
        done.rows += len(features)
        done.unreadable.setdefault(part, {}).update(unreadable)
        saved = {"of": self.content, "done": asdict(done)}
        checkpoint.write_atomically(self.beside, (json.dumps(saved, indent=1) + "\n").encode())

    def features(self) -> NDArray[np.float32]:
        """(rows, D), mapped from the disk; what is changed in it stays in memory."""
        shape = (self.done.rows, self.done.dimension)
        return np.memmap(self.path, np.dtype("<f4"), "c", offset=len(_header(self.done)), shape=shape)

    def become_array(self, path: Path, index: bytes) -> None:
        """End as the file `path`, with `index` in its .csv: where the array is, the index is the one of it."""
        with open_own(self.path, "r+b") as file:
            file.write(_header(self.done))  # now with the number of rows
            file.flush()
            os.fsync(file.fileno())
        path.unlink(missing_ok=True)
        checkpoint.write_atomically(path.with_suffix(".csv"), index)
        os.replace(self.path, path)
        self.beside.unlink()

    def become_table(self, path: Path, columns: dict[str, list[Any]]) -> None:
        """End as the Parquet file `path`, with these columns before the one of features."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        features = self.features()
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        kinds = {"row": pa.int64(), "path": pa.string(), "label": pa.int64(), "part": pa.string()}
        schema = pa.schema({**kinds, "features": pa.list_(pa.float32(), self.done.dimension)})
        with ParquetWriter(temporary, schema) as writer:
            for start in range(0, self.done.rows, _ROW_GROUP):
                rows = slice(start, start + _ROW_GROUP)
                values = pa.array(np.ascontiguousarray(features[rows]).ravel())
                found = pa.FixedSizeListArray.from_arrays(values, self.done.dimension)
                group = [pa.array(columns[name][rows], kind) for name, kind in kinds.items()]
                writer.write_table(pa.Table.from_arrays([*group, found], schema=schema))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self.path.unlink()
        self.beside.unlink()


def _header(done: Done) -> bytes:
    """Of a .npy file of so many rows; as long for any number of rows, since numpy leaves room for it to grow."""
    text = io.BytesIO()
    shape = (done.rows, done.dimension)
    np.lib.format.write_array_header_1_0(text, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return text.getvalue()
