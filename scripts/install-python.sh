#!/bin/sh
# Install this project and all its extras into a virtual environment.
#   install-python.sh BIN TORCH     BIN: the environment's bin directory; TORCH: torch's requirement
#
# torch comes first and pinned: an unpinned one would be the newest CUDA build, gigabytes of it.
# uv does not read pip's settings, so the local wheels pip would find are passed on by hand.
set -eu
bin=$1
torch=$2

if "$bin/python" -m pip install --quiet --disable-pip-version-check uv; then
    export UV_FIND_LINKS="${PIP_FIND_LINKS:-}"
    export VIRTUAL_ENV="$(cd "$bin/.." && pwd)"
    "$bin/uv" pip install --quiet -c constraints.txt "$torch"
    "$bin/uv" pip install --quiet -c constraints.txt -e ".[dev]"
else
    echo "uv cannot be had here; using pip (slower)"
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt "$torch"
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
fi

# Neither way leaves bytecode, and where PYTHONDONTWRITEBYTECODE is set it is never written later: every command would
# compile its imports again, a quarter of the CPU time of `stannary verify`. torch is left out: it takes a minute.
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for package in click cryptography httpx2 pydantic platformdirs yaml; do
    "$bin/python" -m compileall -q "$site/$package"
done
"$bin/python" -m compileall -q src
