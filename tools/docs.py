"""The documentation: builds the site, follows its pages as a reader would, and looks at the addresses they name.

    python -m tools.docs                    # builds build/site, without a warning
    python -m tools.docs --serve            # and shows it on this machine
    python -m tools.docs --follow           # carries out the tutorial and the notebook, each in a folder of its own
    python -m tools.docs --external         # asks for every address outside of the checkout
    python -m tools.docs --write            # writes docs/reproducing.md anew, from the records of the recipes

Needs `pip install 'selfsup[docs]'`.
"""

import argparse
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from selfsup.config.recipe_record import published, read_record
from selfsup.output import message
from tools.checkout import ROOT
from tools.documents import blocks, elsewhere, faults, with_table

FOLLOWED = ("tutorial.md", "collapse.md", "adding_a_data_source.md")  # pages whose blocks run from top to bottom
_ASKED = re.compile(r"""(?:src|srcset|data|href)=["']?(?:https?:)?//[^"'\s>]+""")
_LOADING = re.compile(r"<(?:script|link|img|iframe|source|object|embed)\b[^>]*>")
_SECONDS = 20  # for an address to answer


def main() -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="where the site is built")
    parser.add_argument("--serve", action="store_true", help="show the built site on this machine")
    parser.add_argument("--follow", action="store_true", help="carry out the pages that can be carried out")
    parser.add_argument("--external", action="store_true", help="ask for the addresses that pages name")
    parser.add_argument("--write", action="store_true", help="write the generated part of docs/reproducing.md")
    asked = parser.parse_args()
    if asked.write:
        page = ROOT / "docs" / "reproducing.md"
        page.write_text(with_table(page.read_text(), reproducing()))
        return 0
    if asked.follow:
        return follow()
    if asked.external:
        return external()
    wrong = [*faults(ROOT), *build(asked.out.resolve())]
    for fault in wrong:
        message(fault)
    if asked.serve and not wrong:
        serve(asked.out)
    return 1 if wrong else 0


def build(out: Path) -> list[str]:
    """Build the site; what is wrong with it."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    if done.returncode:
        return [done.stdout + done.stderr]
    pages = sorted(out.rglob("*.html"))
    message(f"{len(pages)} pages in {out}, {time.monotonic() - begin:.0f} s")
    return [fault for page in pages for fault in faults_of_page(page, out)]


def faults_of_page(page: Path, site: Path) -> list[str]:
    """What a built page asks of elsewhere, and where it names a place of this machine."""
    text, name = page.read_text(), page.relative_to(site)
    asked = [what[0] for tag in _LOADING.finditer(text) if (what := _ASKED.search(tag[0]))]
    wrong = [f"{name} asks for something from elsewhere: {what}" for what in asked]
    return wrong + ([f"{name} names {ROOT}"] if str(ROOT) in text else [])


def serve(site: Path) -> None:
    """Show the built site until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        message(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            message("ended")


def follow() -> int:
    """Carry out the pages and the notebook as a reader does: a shell, one command after the other."""
    failed = 0
    for name in FOLLOWED:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            done = subprocess.run(
                ["bash", "-euc", script(ROOT / "docs" / name)], cwd=folder, env=_environment(Path(folder))
            )
            failed |= done.returncode
            message(f"{name}: exit code {done.returncode}, {time.monotonic() - begin:.0f} s")
    begin = time.monotonic()
    code = follow_notebook(ROOT / "docs" / "first_look.ipynb")
    message(f"first_look.ipynb: exit code {code}, {time.monotonic() - begin:.0f} s")
    return failed | code


def script(page: Path) -> str:
    """The blocks of a page as one script of the shell; a block of Python that names its file is written there."""
    parts = []
    for number, block in enumerate(blocks(page.read_text())):
        named = re.match(r"# (\S+\.py)\n", block.code)
        if block.language == "sh":
            parts.append(block.code)
        elif block.language == "python":
            file = named[1] if named else f"block_{number}.py"
            parts.append(f"cat >{file} <<'END_OF_BLOCK'\n{block.code}END_OF_BLOCK\n")
            parts += [] if named else [f"python {file}\n"]
    return "\n".join(parts)


def follow_notebook(notebook: Path) -> int:
    """Run all cells in a kernel; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(notebook, folder)
        command = [sys.executable, "-c", "from nbclient.cli import main; main()", "--timeout=600", copy]
        return subprocess.run(command, cwd=folder, env=_environment(Path(folder))).returncode


def _environment(folder: Path) -> dict[str, str]:
    """Of a reader's shell: `selfsup` and `python` are those of this checkout."""
    programs = folder / ".programs"
    programs.mkdir()
    for name, module in (("selfsup", "-m selfsup "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (programs / name).chmod(0o755)
    return os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def external() -> int:
    """Ask for each address; 1 where one does not answer."""
    failed = 0
    for address, places in sorted(elsewhere(ROOT).items()):
        request = urllib.request.Request(address, headers={"User-Agent": "selfsup-docs"})
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                told = str(answer.status)
        except (urllib.error.URLError, OSError, ValueError) as error:
            told, failed = f"{error}", 1
        message(f"{told:>8}  {address}  ({', '.join(places)})")
    return failed


def reproducing() -> str:
    """The part of docs/reproducing.md on single recipes, from their records."""
    parts = []
    for name in published():
        found = read_record(name)
        hardware = "one process; no hardware is named" if found.hardware.startswith("not said") else found.hardware
        departures = re.search(r"Departures?\b.*", found.more)
        measured = ", ".join(f"[{Path(place).stem}]({place.removeprefix('docs/')})" for place in found.measured)
        rows = [
            f"- Expected: {found.expected or 'nothing is written down'}",
            f"- Needs: {hardware}. Time: {found.time or 'not measured'}.",
            f"- Measured here: {measured or 'not yet'}.",
            *([f"- {departures[0]}"] if departures else []),
        ]
        commands = "\n".join(f"    {command}" for command in found.commands)
        parts.append("\n\n".join([f"### `{name}`", found.title, commands, "\n".join(rows)]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
