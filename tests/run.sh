#!/usr/bin/env bash
# Makes an environment in .venv with what the tests need, and passes them: lint, layers, types, all tests but slow ones.
#
# Browser tests need Chromium, which is installed where this runs as root on Debian or Ubuntu; otherwise they are
# skipped and say so. With CI=true they fail instead. VENV and PYTHON are those of launch/environment.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run() {
  echo "+ $*" >&2
  "$@"
}

launch/environment.sh test,onnx
venv=$(realpath "${VENV:-.venv}")
export PATH="$venv/bin:$PATH"
if ! python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("jax2onnx") is None)'; then
  run pip install --quiet --no-deps 'jax2onnx==0.17.1' # docs/export.md
fi
if ! command -v "${CHROMIUM:-chromium}" chromium-browser > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  run apt-get -qq update
  run apt-get -qq install -y chromium > /dev/null
fi

run ruff check .
run ruff format --check .
run lint-imports
run pyright
run pytest -n logical --maxprocesses=8 -m 'not slow' --durations=40
export XLA_FLAGS=--xla_force_host_platform_device_count=8
run pytest -q -m 'devices and not slow'
