#!/usr/bin/env bash
# Resolves both locks from the one input, pyproject.toml. Run from the repository's root by `make locks`.
set -euo pipefail
source env/uv.sh
find_uv

for kind in cpu gpu; do
    echo "locks: resolving env/$kind.lock"
    "$UV" pip compile pyproject.toml --all-extras --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_34 \
        --override "env/$kind-overrides.txt" --custom-compile-command "make locks" \
        --output-file "env/$kind.lock" "$@"
    echo "locks: env/$kind.lock has $(grep -c '^[a-zA-Z0-9]' "env/$kind.lock") packages"
done
