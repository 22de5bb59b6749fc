#!/usr/bin/env bash
# Makes an environment in .venv and runs the quickstart there: trains on drawn faces, and ends with a table.
#
#   launch/quickstart.sh                               the run is in runs/quickstart; the same command resumes with it
#   launch/quickstart.sh --config.train.num_steps=100  flags of `python -m mpafer_jax.main`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/environment.sh
command=("${VENV:-.venv}/bin/python" -m mpafer_jax.main --config=configs/quickstart.py --workdir=runs/quickstart "$@")
echo "+ ${command[*]}" >&2
exec "${command[@]}"
