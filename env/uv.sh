# Sourced: sets UV to a uv of our own or the user's. Without one on PATH it is installed, once, into .tools/.
UV_VERSION=0.13.8

find_uv() {
    UV=$(command -v uv || true)
    [ -n "$UV" ] && return
    UV=.tools/bin/uv
    [ -x "$UV" ] && return
    echo "env: uv is not on PATH; installing uv $UV_VERSION into .tools/"
    python3 -m venv .tools
    .tools/bin/python -m pip install --quiet "uv==$UV_VERSION"
}
