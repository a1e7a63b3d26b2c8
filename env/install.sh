#!/usr/bin/env bash
# Makes .venv from a lock, or says that it is up to date. Run from the repository's root by `make env`.
set -euo pipefail
source env/uv.sh

# Two makes at a time: the second waits, then finds the environment ready.
exec 9>.venv.lock
flock 9

lock=env/cpu.lock
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    lock=env/gpu.lock
fi

# What the environment was made from: the lock, the package's own metadata, and where the tree lies.
stamp=.venv/taper-stamp
wanted=$(cat "$lock" pyproject.toml <(echo "$PWD") | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "env: .venv is up to date with $lock"
    exit 0
fi

find_uv
started=$SECONDS
if ! .venv/bin/python -c '' 2>/dev/null; then
    echo "env: making .venv with Python 3.11"
    "$UV" venv --quiet --clear --no-python-downloads --python 3.11 .venv
fi
rm -f "$stamp"
echo "env: installing $(grep -c '^[a-zA-Z0-9]' "$lock") packages from $lock (about 7 GB the first time)"
VIRTUAL_ENV=.venv "$UV" pip sync --quiet --compile-bytecode "$lock"
echo "env: installing taper itself, editable"
VIRTUAL_ENV=.venv "$UV" pip install --quiet --no-deps --no-build-isolation --editable .
echo "$wanted" > "$stamp"
echo "env: ready after $((SECONDS - started)) s"
