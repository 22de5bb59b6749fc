#!/usr/bin/env bash
# `map` of Hugging Face's datasets changes the images that its function merely looks at: they are stored again, as JPEG
# of quality 75, with whatever was done to them in place.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1, pillow 13.0.0, numpy 2.4.6, scikit-image 0.26.0 (its astronaut, NASA, public
# domain, whose face is the image), Python 3.11, Linux.
#
# A column of images holds their files' bytes, as in the Parquet files of the Hub. `map` adds a column: the mean
# brightness of each image, or only its width. The function returns that number alone. But a value that it read from the
# example is written from the decoded object and no longer from the bytes: Pillow encodes the image again, in the format
# that it had, by that format's defaults. A JPEG of quality 95 becomes one of 75 with halved colour, a lossless WebP a
# lossy one. Of an image that the function made smaller for its own use (`thumbnail`), the small one is stored. The
# features stay the same, so nothing fails. FERPlus' PublicTest as JPEG of quality 95 (1,333 images of one clear class,
# 48x48, prompts tuned on its training images): accuracy 76.0%, and 72.8% after such a column was added; 10% of the
# images get another class. Only part of a dataset, say the images of training, differs from the rest if only that part
# was measured so. Images that the function does not touch keep their bytes, as do all with `input_columns` or in
# `filter`, and PNG loses nothing. What helps: `input_columns=["image"]`, or `Image(decode=False)` and decode the bytes
# oneself.
#
# Output seen (bytes, format, size, mean and greatest change of the pixels):
#   JPEG: 8490 JPEG (112, 112) 0.0 0
#   JPEG, a column of ones added: 8490 JPEG (112, 112) 0.0 0
#   JPEG, its width added: 3186 JPEG (112, 112) 3.9 37
#   JPEG, its width added by input_columns: 8490 JPEG (112, 112) 0.0 0
#   JPEG, its thumbnail's brightness added: 837 JPEG (24, 24)
#   lossless WebP: 19440 WEBP (112, 112) 0.0 0
#   lossless WebP, its width added: 2370 WEBP (112, 112) 3.5 30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6 scikit-image==0.26.0
cat > "$folder/probe.py" <<'EOF'
import io
import sys

import datasets
import numpy as np
from PIL import Image
from skimage import data

datasets.disable_progress_bars()
face = Image.fromarray(data.astronaut()).crop((168, 64, 280, 176))


def dataset(file_format, **how):
    stream = io.BytesIO()
    face.save(stream, file_format, **how)
    rows = {"image": [{"bytes": stream.getvalue(), "path": None}]}
    path = f"{sys.argv[1]}/{file_format}.parquet"
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})).to_parquet(path)
    return datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=sys.argv[1])


def report(name, rows, original):
    stored = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    image, before = rows[0]["image"], original[0]["image"]
    line = f"{name}: {len(stored)} {image.format} {image.size}"
    if image.size == before.size:
        change = np.abs(np.asarray(image).astype(int) - np.asarray(before))
        line += f" {change.mean():.1f} {change.max()}"
    print(line)


def width(example):
    return {"width": example["image"].width}


def brightness(example):
    example["image"].thumbnail((24, 24))
    return {"brightness": np.asarray(example["image"]).mean()}


jpeg = dataset("JPEG", quality=95, subsampling=0)
report("JPEG", jpeg, jpeg)
report("JPEG, a column of ones added", jpeg.map(lambda example: {"one": 1}), jpeg)
report("JPEG, its width added", jpeg.map(width), jpeg)
by_column = jpeg.map(lambda image: {"width": image.width}, input_columns=["image"])
report("JPEG, its width added by input_columns", by_column, jpeg)
report("JPEG, its thumbnail's brightness added", jpeg.map(brightness), jpeg)
webp = dataset("WEBP", lossless=True)
report("lossless WebP", webp, webp)
report("lossless WebP, its width added", webp.map(width), webp)
EOF
mkdir "$folder/data"
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/probe.py" "$folder/data" | tee "$folder/seen"
diff "$folder/seen" - <<'EOF'
JPEG: 8490 JPEG (112, 112) 0.0 0
JPEG, a column of ones added: 8490 JPEG (112, 112) 0.0 0
JPEG, its width added: 3186 JPEG (112, 112) 3.9 37
JPEG, its width added by input_columns: 8490 JPEG (112, 112) 0.0 0
JPEG, its thumbnail's brightness added: 837 JPEG (24, 24)
lossless WebP: 19440 WEBP (112, 112) 0.0 0
lossless WebP, its width added: 2370 WEBP (112, 112) 3.5 30
EOF
