"""A machine that lacks something: pretraining on photographs, kNN and a comparison in a process of their own."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import ROOT
from tests.support.tiny import photographs

NOWHERE = "/dev/null/nowhere"
HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR")
# Root may write anywhere; without this right it may not.
_AS_USER = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-all") if os.geteuid() == 0 else ()


def _sh(script: str) -> tuple[str, ...]:
    return "sh", "-c", f'{script} && exec "$@"', "sh"


@dataclass(frozen=True)
class Lack:
    """Something that the machine does not have."""

    name: str
    before: tuple[str, ...] = ()  # words in front of the command
    environment: tuple[tuple[str, str], ...] = ()
    folder: str = "run here"  # name of the working folder
    closed: bool = False  # whether the current folder cannot be written
    elsewhere: bool = False  # whether the run folder lies outside of `folder`, whose name may be no text here


_READ_ONLY_TMP = (
    "unshare",
    "-m",
    *_sh(
        "mount --rbind /tmp /tmp && mount -o remount,bind,ro /tmp && mount --rbind /var/tmp /var/tmp "
        '&& mount -o remount,bind,ro /var/tmp && mount --bind "$PLACE" "$PLACE" && mount -o remount,bind,rw "$PLACE"'
    ),
)
LACKS = (
    Lack("nothing"),
    Lack("64 MB of shared memory", ("unshare", "-m", *_sh("mount -t tmpfs -o size=64m none /dev/shm"))),
    Lack("256 file handles", _sh("ulimit -n 256")),
    Lack("no network", ("unshare", "-n")),
    Lack("no home", environment=tuple((name, NOWHERE) for name in HOMES)),
    Lack("a current folder that cannot be written", _AS_USER, closed=True),
    Lack("the C locale", environment=(("LC_ALL", "C"),), folder="Läufe 猫"),
    Lack(
        "the C locale without UTF-8",
        environment=(("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")),
        folder="Läufe 猫",
        elsewhere=True,
    ),
    Lack("a TMPDIR that is not there", environment=(("TMPDIR", NOWHERE),)),
    Lack("no /tmp that can be written", _READ_ONLY_TMP, (("TMPDIR", "{place}"),), closed=True),
    Lack("a path of spaces and signs", folder="a b 'c' ä $HOME;&"),
)
ALL = Lack(
    "all of this at once",
    (
        *("unshare", "-m", "-n"),
        *_sh("mount -t tmpfs -o size=64m none /dev/shm && ulimit -n 256"),
        *_AS_USER,
    ),
    (
        *((name, NOWHERE) for name in HOMES),
        *(("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0"), ("TMPDIR", NOWHERE)),
    ),
    folder="a b 'c' ä $HOME;&",
    closed=True,
    elsewhere=True,
)

_RECIPE = """from dataclasses import replace
from pathlib import Path
from tests.support.tiny import tiny_run
here = Path(__file__).parent
run = tiny_run(here, root=str(here / "photos"), epochs=1, workers=4)
recipe = replace(run, batch_size=12)
"""
_COMMANDS = """import sys
from selfsup import cli
commands = [words.split("|") for words in sys.argv[1:]]
for words in commands:
    sys.argv = ["selfsup", *words]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
"""


def missing(lack: Lack) -> str:
    """Why this cannot be tried here; empty: it can."""
    if not lack.before:
        return ""
    try:
        done = subprocess.run([*lack.before, "true"], capture_output=True, text=True, env={**os.environ, "PLACE": "/"})
    except FileNotFoundError as error:
        return f"there is no {error.filename} here"
    return f"not allowed here: {done.stderr.strip()}" if done.returncode else ""


def carried_out(lack: Lack, folder: Path) -> str:
    """The digest of the encoder that was trained under these conditions.

    Raises:
        RuntimeError: a command failed; with what it said.
    """
    place = folder / lack.folder
    photographs(place / "photos", 24)
    shutil.move(sorted((place / "photos").iterdir())[0], place / "photos" / "größe")
    (place / "recipe.py").write_text(_RECIPE)
    current = folder / "current"
    current.mkdir(mode=0o555 if lack.closed else 0o755)
    run = str((folder if lack.elsewhere else place) / "run")
    words = [
        ["pretrain", str(place / "recipe.py"), "--folder", run],
        ["knn", run, "--device", "cpu", "--workers", "4", "--k", "3"],
        ["compare", run, "--out", f"{run}/table.html"],
    ]
    names = ("HOME", "PATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PLACE": str(place),
        **{name: value.format(place=place) for name, value in lack.environment},
    }
    done = subprocess.run(
        [*lack.before, sys.executable, "-c", _COMMANDS, *("|".join(command) for command in words)],
        cwd=current,
        env=environment,
        capture_output=True,
        timeout=300,
    )
    errors = done.stderr.decode(errors="replace")
    if done.returncode or "Traceback" in errors:
        raise RuntimeError(f"ended with {done.returncode}: {errors[-1500:]}")
    trained, judged, compared = [json.loads(line) for line in done.stdout.decode().splitlines() if line[0] == "{"]
    if trained["reason"] != "finished" or judged["query_images"] != 24 or not Path(compared["out"]).is_file():
        raise RuntimeError(f"the commands did not do their work: {done.stdout.decode()[-500:]}")
    return str(trained["encoder_sha256"])
