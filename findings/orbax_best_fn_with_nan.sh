#!/usr/bin/env bash
# Orbax, told to keep the best checkpoints, deletes them when a metric is NaN, and calls the NaN checkpoint the best.
#
# Versions: orbax-checkpoint 0.12.8, jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11, Linux.
#
# CheckpointManager with `best_fn` and `max_to_keep` ranks checkpoints by a sort of their metrics and keeps the last
# ones of it. NaN is neither less nor greater than a number, so the sort leaves a NaN where it stands, at the end, in
# `best_mode="max"` as in "min". That is the run which diverges: from its first NaN on, each save deletes one of the
# best checkpoints and keeps a worthless one, until none is left, although this option is there to protect them; nothing
# is logged that tells it. One NaN alone is enough: what is saved later is compared with it and no longer with the best,
# and a worse checkpoint of afterwards is reported as the best. Arrays and metrics are saved as they were; only the
# choice is wrong. `BestN`, of which policies are composed, and Checkpointer of the version 1 that is under way choose
# alike. What helps: a `best_fn` that returns -inf (+inf for "min") for NaN, or `metrics=None` for such a step.
#
# Output seen (mode, number to keep; metrics of steps 0, 1, ..: steps that are left, and the best one):
#   max 2: 0.6 0.9 0.8 0.7 -> [1, 2] 1
#   max 2: 0.6 0.9 0.8 nan nan -> [3, 4] 4
#   min 2: 0.6 0.2 0.3 nan nan -> [3, 4] 4
#   max 1: 0.6 0.9 nan 0.3 -> [3] 3
#   max 2: 0.6 0.9 nan 0.3 0.1 -> [3, 4] 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/probe.py" <<'EOF'
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp

nan = float("nan")
runs = [
    ("max", 2, [0.6, 0.9, 0.8, 0.7]),
    ("max", 2, [0.6, 0.9, 0.8, nan, nan]),
    ("min", 2, [0.6, 0.2, 0.3, nan, nan]),
    ("max", 1, [0.6, 0.9, nan, 0.3]),
    ("max", 2, [0.6, 0.9, nan, 0.3, 0.1]),
]
for number, (mode, keep, values) in enumerate(runs):
    options = ocp.CheckpointManagerOptions(best_fn=lambda m: m["value"], best_mode=mode, max_to_keep=keep)
    with ocp.CheckpointManager(pathlib.Path(sys.argv[1]) / str(number), options=options) as manager:
        for step, value in enumerate(values):
            manager.save(step, args=ocp.args.StandardSave({"a": np.full(3, value)}), metrics={"value": value})
        manager.wait_until_finished()
        left, best = manager.all_steps(), manager.best_step()
    print(f"{mode} {keep}: {' '.join(map(str, values))} -> {sorted(left)} {best}")
EOF
mkdir "$folder/runs"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/probe.py" "$folder/runs" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'EOF'
max 2: 0.6 0.9 0.8 0.7 -> [1, 2] 1
max 2: 0.6 0.9 0.8 nan nan -> [3, 4] 4
min 2: 0.6 0.2 0.3 nan nan -> [3, 4] 4
max 1: 0.6 0.9 nan 0.3 -> [3] 3
max 2: 0.6 0.9 nan 0.3 0.1 -> [3, 4] 3
EOF
