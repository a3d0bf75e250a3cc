# Sourced by the other tools: makes .venv in the checkout and installs selfsup into it, once per change of setup.cfg.
# Usage: source tools/environment.sh EXTRAS     (EXTRAS: nothing, or "[dev]")

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
extras="${1:-}"

find_python() {
    local name
    for name in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "no Python 3.11 or newer was found; install one, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

if [ ! -x .venv/bin/python ]; then
    python="$(find_python)" || exit 2
    echo "making .venv with $($python --version)" >&2
    "$python" -m venv .venv || { echo "could not make .venv; on Debian: apt install python3-venv" >&2; exit 2; }
fi
wanted="$(cat setup.cfg pyproject.toml | sha256sum | cut -c1-16)$extras"
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ] && [ "$(cat .venv/installed 2>/dev/null)" != "${wanted%"$extras"}[dev]" ]; then
    echo "installing selfsup$extras into .venv (about two minutes, several GB with the CUDA libraries)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras" || {
        echo "the installation failed; see the message above" >&2
        exit 2
    }
    echo "$wanted" >.venv/installed
fi
