#!/usr/bin/env bash
# Puts a CLIP or prompts into this checkout, in place of the ones for photographs that ship with the package:
#
#   launch/ship.sh clip runs/small_clip/clip     a CLIP of `mpafer-jax clip pretrain`, as small-face-clip, in float16
#   launch/ship.sh prompts runs/ferplus_prompts  a run with configs/ferplus_prompts.py, as ferplus-prompts
#
# In this order: rounding to float16 makes another CLIP, and prompts fit only the CLIP that they were trained with. The
# cards (README.md) stay as they are.
set -euo pipefail

what=${1-} source=$(realpath -- "${2:?give clip or prompts, and the folder}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

case $what in
  clip)
    folder=mpafer_jax/backbones/small_face_clip
    python -m mpafer_jax.cli clip convert --dtype=float16 "$source" "$new/files"
    ;;
  prompts)
    folder=mpafer_jax/artifacts/ferplus_prompts
    python -m mpafer_jax.cli export "$source" --to=prompts --out="$new/files"
    python -m mpafer_jax.predict docs/images/quickstart_faces.png --checkpoint="$new/files" # finds the CLIP, and fits it
    rm "$new/files/README.md"
    ;;
  *)
    echo "error: $what is neither clip nor prompts" >&2
    exit 2
    ;;
esac
mkdir -p "$folder"
find "$folder" -type f ! -name README.md -delete
cp "$new"/files/* "$folder/"
du -ch "$folder"/*
cat >&2 << END
Now bring $folder/README.md up to date, and run
  pytest -m '' tests/backbones/test_shipped.py tests/artifacts/test_shipped.py
  pytest -m '' tests/golden/test_parameters.py --update-goldens
END
