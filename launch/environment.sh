#!/usr/bin/env bash
# Makes an environment with this checkout installed in it, in .venv or in the folder that VENV names:
#
#   launch/environment.sh             what runs need
#   launch/environment.sh test,onnx   with extras of setup.py
#
# Nothing is done where that was done before. PYTHON names another interpreter than python3. Where python3 is too old
# (Ubuntu 22.04 has 3.10) or makes no environments, uv brings a Python of its own, if it is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3} venv=${VENV:-.venv} extras=${1-}
installed="$venv/installed-${extras:-alone}" # a copy of the setup.py that was installed

is_new() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if cmp -s setup.py "$installed"; then exit; fi
# Half an environment, without pip, is what Debian's Python makes without its package python3-venv.
if ! is_new "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  # What is there would stay: its links lead to the older Python. Only an environment is cleared, no other folder.
  clear=''
  if [ -e "$venv/pyvenv.cfg" ]; then clear=--clear; fi
  uv=''
  if [ -z "${PYTHON-}" ]; then
    # Where its installer puts it; the path of a command by ssh does not have that.
    uv=$(PATH="$PATH:${HOME-}/.local/bin" command -v uv) || true
  fi
  if is_new "$python" && "$python" -m venv ${clear:+"$clear"} "$venv"; then
    :
  elif [ "$uv" ]; then
    "$uv" venv --seed --clear --python 3.12 "$venv"
  elif is_new "$python"; then
    exit 1 # it has said why
  else
    cat >&2 <<END
error: $python is not Python 3.11 or newer. Either name another, as
  PYTHON=/path/to/python3.12 $0 $extras
or install uv, which brings its own Python, and run this again:
  curl -LsSf https://astral.sh/uv/install.sh | sh
END
    exit 2
  fi
fi
echo "+ installing into $venv, which takes some minutes" >&2
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet --editable ".${extras:+[$extras]}"
cp setup.py "$installed"
