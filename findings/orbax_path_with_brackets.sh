#!/usr/bin/env bash
# Orbax commits a checkpoint that it cannot read again, where the path has a square bracket.
#
# Versions: orbax-checkpoint 0.12.8, etils 1.15.0, tensorstore 0.1.86, jax and jaxlib 0.10.2, Python 3.11, Linux.
#
# In a folder such as `lr=[0.1]` (sweep tools make such names) StandardCheckpointer.save returns, wait_until_finished
# returns, and commit_success.txt is written. But the arrays are still in ocdbt.process_0: the merge into the
# checkpoint's own OCDBT database finds the parts of the processes by a glob of the unescaped path, which matches
# nothing, and takes that for "nothing to merge". Restoring fails: NOT_FOUND, "a/.zarray" does not exist. A training that
# saves for days says nothing; the loss shows at the first restore. The arrays are whole and can be had: the same folder
# under a name without brackets, opened with tensorstore at ocdbt.process_0.
#
# Output seen (hashes aside):
#   run_1: committed True, merged True, restored [0.0, 1.0, 2.0]
#   run[1]: committed True, merged False, ValueError NOT_FOUND
#   run[1] ocdbt.process_0 by tensorstore: [0.0, 1.0, 2.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 etils==1.15.0 tensorstore==0.1.86 jax==0.10.2 jaxlib==0.10.2
cat > "$folder/probe.py" <<'EOF'
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

saved = {"a": np.arange(3.0)}
for name in ("run_1", "run[1]"):
    path = pathlib.Path(sys.argv[1]) / name / "checkpoint"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, saved)
        checkpointer.wait_until_finished()
        committed, merged = (path / "commit_success.txt").exists(), (path / "manifest.ocdbt").exists()
        try:
            outcome = f"restored {checkpointer.restore(path, saved)['a'].tolist()}"
        except ValueError as error:
            outcome = f"ValueError {str(error).split(':')[0]}"
    print(f"{name}: committed {committed}, merged {merged}, {outcome}")

part = {"driver": "ocdbt", "base": f"file://{sys.argv[1]}/moved/checkpoint/ocdbt.process_0", "path": "a/"}
(pathlib.Path(sys.argv[1]) / "run[1]").rename(pathlib.Path(sys.argv[1]) / "moved")
array = ts.open({"driver": "zarr", "kvstore": part}).result().read().result()
print(f"run[1] ocdbt.process_0 by tensorstore: {array.tolist()}")
EOF
mkdir "$folder/runs"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/probe.py" "$folder/runs" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'EOF'
run_1: committed True, merged True, restored [0.0, 1.0, 2.0]
run[1]: committed True, merged False, ValueError NOT_FOUND
run[1] ocdbt.process_0 by tensorstore: [0.0, 1.0, 2.0]
EOF
