#!/usr/bin/env bash
# fer classifies another rectangle than the one that it is given: 10 pixels more on each side, whatever the face's size.
#
# Versions: fer 25.10.3, tensorflow-cpu 2.20.0, keras 3.15.1, numpy 2.2.6, opencv-contrib-python-headless 4.12.0.88,
# Python 3.11, Linux.
#
# FER.detect_emotions takes the rectangles of faces that were found elsewhere and reports them back unchanged. What its
# network sees is larger by FER's default `offsets=(10, 10)` on each side, in pixels of the image and not in shares of
# the face: 10% of the width of a face of 200 pixels in all, 42% of one of 48. A dataset of cropped faces (FER2013,
# FERPlus: 48x48) has nothing there: outside of the image the package fills in one grey. Measured on FERPlus' PublicTest
# (3,191 images, rectangle = image): accuracy 58.0%, UAR 44.1% by default; 68.2%, 60.6% with offsets=(0, 0). A number of
# this package on cropped or small faces means nothing without its offsets.
#
# Output seen:
#   given a face of 48: reported (100, 80, 48, 48)
#   the same as offsets=(0, 0) given a face of 68 around it: True
#   the same as offsets=(0, 0) given the face: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.20.0 keras==3.15.1 opencv-contrib-python-headless==4.12.0.88 \
  numpy==2.2.6 pandas==3.1.1 pillow==13.0.0 requests==2.34.2 tqdm==4.70.1 setuptools==80.9.0
"$folder/venv/bin/pip" install --quiet --no-deps fer==25.10.3 # else it brings an OpenCV with windows, and PyTorch
cat > "$folder/probe.py" <<'EOF'
import sys

import numpy as np
from fer.fer import FER

image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
face = (100, 80, 48, 48)
around = (90, 70, 68, 68)
plain = FER(offsets=(0, 0))
(default,) = FER().detect_emotions(image, [face])
(same,) = plain.detect_emotions(image, [around])
(other,) = plain.detect_emotions(image, [face])
lines = [
    f"given a face of 48: reported {tuple(map(int, default['box']))}",
    f"the same as offsets=(0, 0) given a face of 68 around it: {default['emotions'] == same['emotions']}",
    f"the same as offsets=(0, 0) given the face: {default['emotions'] == other['emotions']}",
]
print("\n".join(lines))
seen = [
    "given a face of 48: reported (100, 80, 48, 48)",
    "the same as offsets=(0, 0) given a face of 68 around it: True",
    "the same as offsets=(0, 0) given the face: False",
]
sys.exit(lines != seen)
EOF
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/probe.py" 2> "$folder/log" || { tail -20 "$folder/log"; exit 1; }
