#!/usr/bin/env bash
# Makes an environment with this checkout installed in it, in .venv or in the folder that VENV names:
#
#   launch/environment.sh             what runs need
#   launch/environment.sh test,onnx   with extras of setup.py
#
# Nothing is done where that was done before. PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3} venv=${VENV:-.venv} extras=${1-}
installed="$venv/installed-${extras:-alone}" # a copy of the setup.py that was installed

if cmp -s setup.py "$installed"; then exit; fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $python is not Python 3.11 or newer; PYTHON=/path/to/python3.11 $0 takes another" >&2
  exit 2
fi
echo "+ installing into $venv, which takes some minutes" >&2
# Without Debian's package python3-venv it is made half, without pip; made again with it, it is whole.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then "$python" -m venv "$venv"; fi
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet --editable ".${extras:+[$extras]}"
cp setup.py "$installed"
