#!/usr/bin/env bash
# A Flax kernel that is transposed for PyTorch and saved by safetensors 0.8 comes back with its numbers in wrong places.
#
# Versions: safetensors 0.8.0 and 0.7.0, numpy 2.4.6, Python 3.11, Linux.
#
# The step that every conversion of a CLIP from Flax to PyTorch makes: a linear kernel [in, out] of Flax is saved as
# `kernel.T` [out, in]. NumPy transposes by strides alone. Since 0.8 `safetensors.numpy` hands over the address of an
# array and its length; the strides are not looked at, so what is written is the memory of the kernel that was not
# transposed, under the transposed shape. Nothing warns, the file is valid, its shapes are right, and PyTorch's
# `load_state_dict` takes it. A square kernel (queries, keys, values and output of every attention) is read as if it
# had not been transposed at all; others, such as those of an MLP, are scrambled. Up to 0.7 the same call copied the
# array and wrote it rightly. Upstream knows it (safetensors/safetensors, issue 825, open since August 2026).
# What helps: `np.array(kernel.T, order="C")`; `ascontiguousarray` makes a vector of a scalar such as `logit_scale`.
#
# Output seen:
#   0.7.0: attention [[0. 2.] [1. 3.]] right, MLP [[0. 2. 4.] [1. 3. 5.]] right
#   0.8.0: attention [[0. 1.] [2. 3.]] WRONG, MLP [[0. 1. 2.] [3. 4. 5.]] WRONG
#   0.8.0, order="C": attention [[0. 2.] [1. 3.]] right, MLP [[0. 2. 4.] [1. 3. 5.]] right
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
for version in 0.7.0 0.8.0; do
  "$folder/venv/bin/pip" install --quiet --target="$folder/$version" --no-deps "safetensors==$version"
done
cat > "$folder/probe.py" <<'EOF'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

kernels = {"attention": np.arange(4, dtype=np.float32).reshape(2, 2), "MLP": np.arange(6, dtype=np.float32).reshape(3, 2)}
copied = sys.argv[2:] == ["copied"]
save_file({name: np.array(k.T, order="C") if copied else k.T for name, k in kernels.items()}, sys.argv[1])
loaded = load_file(sys.argv[1])
seen = [
    f"{name} {' '.join(str(loaded[name]).split())} {'right' if np.array_equal(loaded[name], k.T) else 'WRONG'}"
    for name, k in kernels.items()
]
print(safetensors.__version__ + (', order="C"' if copied else '') + f": {', '.join(seen)}")
EOF
for version in 0.7.0 0.8.0; do
  PYTHONPATH="$folder/$version" "$folder/venv/bin/python" "$folder/probe.py" "$folder/weights"
done | tee "$folder/seen"
PYTHONPATH="$folder/0.8.0" "$folder/venv/bin/python" "$folder/probe.py" "$folder/weights" copied | tee -a "$folder/seen"
diff "$folder/seen" - <<'EOF'
0.7.0: attention [[0. 2.] [1. 3.]] right, MLP [[0. 2. 4.] [1. 3. 5.]] right
0.8.0: attention [[0. 1.] [2. 3.]] WRONG, MLP [[0. 1. 2.] [3. 4. 5.]] WRONG
0.8.0, order="C": attention [[0. 2.] [1. 3.]] right, MLP [[0. 2. 4.] [1. 3. 5.]] right
EOF
