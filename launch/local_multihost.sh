#!/usr/bin/env bash
# Runs one command as several processes on this machine, which talk to each other as those of several hosts would.
#
#   launch/local_multihost.sh [--dry-run] N COMMAND...
#   launch/local_multihost.sh 2 python -m mpafer_jax.main --config=configs/sample.py --workdir=runs/two
#
# CPU only, unless JAX_PLATFORMS says otherwise; JAX_LOCAL_CPU_DEVICES (default 1) devices a process. Lines of all
# processes but the first are marked with their number. SIGTERM is passed on, and Ctrl-C as SIGTERM. Ends with the exit
# code of the process that failed first, after the others have ended too, or with 0.
set -euo pipefail

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || usage
processes=$1
shift

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export XLA_FLAGS="${XLA_FLAGS-} --xla_force_host_platform_device_count=${JAX_LOCAL_CPU_DEVICES:-1}"
export JAX_NUM_PROCESSES=$processes
if [[ -z ${JAX_COORDINATOR_ADDRESS-} ]]; then
  JAX_COORDINATOR_ADDRESS=127.0.0.1:$(free_port)
  export JAX_COORDINATOR_ADDRESS
fi

if [[ $dry_run ]]; then
  for ((i = 0; i < processes; i++)); do
    echo "JAX_PLATFORMS=$JAX_PLATFORMS XLA_FLAGS='${XLA_FLAGS# }' JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS" \
      "JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$i ${*@Q}"
  done
  exit
fi

pids=()
# Ctrl-C too: of a script's processes in the background bash has it ignored.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

for ((i = 0; i < processes; i++)); do
  if ((i == 0)); then
    JAX_PROCESS_ID=$i "$@" &
  else
    # The substitution keeps $! the command's own id, so that signals reach it.
    JAX_PROCESS_ID=$i "$@" > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) &
  fi
  pids+=($!)
done

code=0
left=("${pids[@]}")
while ((${#left[@]})); do
  this=0
  wait -n -p ended "${left[@]}" || this=$?
  [[ ${ended-} ]] || continue # a signal interrupted the waiting
  remaining=()
  for pid in "${left[@]}"; do
    [[ $pid == "$ended" ]] || remaining+=("$pid")
  done
  left=("${remaining[@]+"${remaining[@]}"}")
  ((code)) || code=$this
done
exit "$code"
