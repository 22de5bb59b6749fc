#!/usr/bin/env bash
# The same prepared TFDS dataset has other pixels where OpenCV is not installed: palette images become their indices.
#
# Versions: tensorflow-datasets 4.9.10, array_record 0.8.6, numpy 2.4.6, pillow 12.3.0, opencv-python-headless 5.0.0.93,
# Python 3.11, Linux; no TensorFlow.
#
# `as_data_source` (what JAX programs read TFDS with) decodes an image by OpenCV if that can be imported, else by Pillow,
# and warns that Pillow is slower. With Pillow an image with a palette or of one bit is not expanded: its indices are
# repeated into three channels. Shape and type are those that the feature declares, so nothing fails: a photograph of 16
# colours arrives as a nearly black one with values up to 15, one of black and white with values up to 1. Images of grey
# levels and of colours are equal either way. A model trained on a workstation and evaluated in a slim container reads
# other images. What helps: `decoders={"image": tfds.decode.SkipDecoding()}`, and decode the bytes oneself.
#
# Output seen (name, shape, least and greatest value):
#   Pillow colour (48, 48, 3) 0 240
#   Pillow grey (48, 48, 3) 0 235
#   Pillow one_bit (48, 48, 3) 0 1
#   Pillow palette (48, 48, 3) 0 15
#   OpenCV colour (48, 48, 3) 0 240
#   OpenCV grey (48, 48, 3) 0 235
#   OpenCV one_bit (48, 48, 3) 0 255
#   OpenCV palette (48, 48, 3) 7 233
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-datasets==4.9.10 array_record==0.8.6 numpy==2.4.6 pillow==12.3.0
cat > "$folder/probe.py" <<'EOF'
import io
import sys

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

ramp = np.arange(48, dtype=np.uint8)[None].repeat(48, 0) * 5
grey = Image.fromarray(ramp)
colour = Image.merge("RGB", (grey, Image.fromarray(240 - ramp), Image.new("L", (48, 48), 7)))
images = {
    "colour": colour,
    "grey": grey,
    "one_bit": grey.convert("1", dither=Image.Dither.NONE),
    "palette": colour.quantize(16),
}


class Faces(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        features = tfds.features.FeaturesDict({"image": image, "name": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for name, image in images.items():
            stream = io.BytesIO()
            image.save(stream, "PNG")
            yield name, {"image": io.BytesIO(stream.getvalue()), "name": name}


builder = Faces(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
decoder = "OpenCV" if "cv2" in sys.modules else "Pillow"
for example in sorted(builder.as_data_source(split="train"), key=lambda example: example["name"]):
    pixels = example["image"]
    print(decoder, example["name"].decode(), pixels.shape, pixels.min(), pixels.max())
EOF
"$folder/venv/bin/python" "$folder/probe.py" "$folder/data" 2> /dev/null | grep '^Pillow' > "$folder/seen"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" "$folder/probe.py" "$folder/data" 2> /dev/null | grep '^OpenCV' >> "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - <<'EOF'
Pillow colour (48, 48, 3) 0 240
Pillow grey (48, 48, 3) 0 235
Pillow one_bit (48, 48, 3) 0 1
Pillow palette (48, 48, 3) 0 15
OpenCV colour (48, 48, 3) 0 240
OpenCV grey (48, 48, 3) 0 235
OpenCV one_bit (48, 48, 3) 0 255
OpenCV palette (48, 48, 3) 7 233
EOF
