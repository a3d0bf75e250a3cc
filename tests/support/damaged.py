"""Files that were cut or in which a bit has flipped, and whoever reads them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from selfsup.evaluation.encoder import load_encoder
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import read
from selfsup.storage import checkpoint


class Trials(NamedTuple):
    tried: int
    silent: list[str]  # damage that was read without a word, or of which the file was not named


def damaged(content: bytes, offsets: int) -> Iterator[tuple[str, bytes]]:
    """`content` cut at so many places from its beginning to its end, and with a bit flipped at each of them."""
    for number in range(offsets):
        place = number * (len(content) - 1) // (offsets - 1)
        yield f"cut at {place}", content[:place]
        flipped = content[place] ^ (1 << number % 8)
        yield f"flipped at {place}", content[:place] + bytes([flipped]) + content[place + 1 :]


def readers(run: Path) -> dict[Path, Callable[[], Any]]:
    """Every file of a finished run that is ever read again for what it says, and its reader."""
    newest = run / "checkpoints" / f"step_{checkpoint.steps(run / 'checkpoints')[-1]:08d}"
    folder = RunFolder(run)
    found: dict[Path, Callable[[], Any]] = {path: lambda: checkpoint.load(newest) for path in sorted(newest.iterdir())}
    for name in ("encoder.safetensors", "encoder.json", "head.safetensors"):
        found[run / name] = lambda: load_encoder(run)
    found[run / "config.json"] = folder.saved_run
    for path in (run / "results").iterdir():
        found[path] = lambda stage=path.stem: read(folder, stage)  # type: ignore[misc]
    return found


def try_all(run: Path, offsets: int) -> Trials:
    """Damage every file of a finished run in every way, one at a time; each is put back."""
    count, silent = 0, []
    for path, reader in readers(run).items():
        whole = path.read_bytes()
        reader()
        for what, content in damaged(whole, offsets):
            path.write_bytes(content)
            count += 1
            try:
                reader()
                silent.append(f"{path.name} {what}")
            except ValueError as error:
                silent += [] if path.name in str(error) else [f"{path.name} {what}: {error}"]
        path.write_bytes(whole)
    return Trials(count, silent)


def passed_over(run: Path) -> list[str]:
    """Files of the newest checkpoint whose damage does not make a run go on from the one before, or is not named."""
    folder = run / "checkpoints"
    before, newest = checkpoint.steps(folder)[-2:]
    missed = []
    for path in sorted((folder / f"step_{newest:08d}").iterdir()):
        whole = path.read_bytes()
        for _, content in damaged(whole, 4):
            path.write_bytes(content)
            found, told = checkpoint.load_newest(folder)
            if found is None or found.step != before or len(told) != 1 or path.name not in told[0]:
                missed.append(path.name)
        path.write_bytes(whole)
    return missed
