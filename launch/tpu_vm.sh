#!/usr/bin/env bash
# Runs the command on all hosts of a Cloud TPU slice, from creating it to fetching the results, over preemptions.
#
#   launch/tpu_vm.sh [options] ACTION [-- arguments of python -m mpafer_jax.main]
#
#   launch/tpu_vm.sh --name=fer --zone=us-west4-a --type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot \
#     --workdir=/mnt/runs/rafdb --setup='
#       command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh
#       mountpoint -q /mnt/runs || { sudo mkdir -p /mnt/runs && sudo gcsfuse -o allow_other --uid=$(id -u) --gid=$(id -g) \
#         --metadata-cache-ttl-secs=0 --implicit-dirs BUCKET /mnt/runs; }' \
#     run -- --config=configs/rafdb.py:bf16 --config.data.dir=/mnt/runs/RAF-DB --config.data.prepared_dir=/tmp/prepared
#
# Actions: up (create, or reuse what is there; a preempted slice is deleted and created again), setup (copy this checkout,
# install it by launch/environment.sh), start (on all workers, in the background), wait (until all have ended; starts
# again after exit code 75, and after a preemption as soon as there is room), collect (the workdir, without checkpoints,
# into --out), run (all of these), delete.
#
# Options: --name, --zone, --project, --type, --version as gcloud's; --spot; --workdir, a folder on a disk that all hosts
# share; --setup=COMMAND, run on every worker before the installation (mounting that disk; uv, which brings a Python
# where the image's is older than 3.11, as on Ubuntu 22.04; export PYTHON=... names another); --out=FOLDER (default
# runs); --command=COMMAND (default .venv/bin/python -m mpafer_jax.main); --poll=SECONDS (default 30); --dry-run prints
# the commands and runs none. Ends with the run's exit code; 137 where a worker is gone and has left none.
set -euo pipefail

usage() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

fail() {
  echo "tpu_vm.sh: $1" >&2
  exit 2
}

name='' zone='' project='' type='' version='' spot='' workdir='' setup='' out=runs dry_run='' poll=30
command='.venv/bin/python -m mpafer_jax.main'
while [[ ${1-} == --?* ]]; do
  case $1 in
    --name=* | --zone=* | --project=* | --type=* | --version=* | --workdir=* | --setup=* | --out=* | --command=* | --poll=*)
      variable=${1%%=*}
      printf -v "${variable#--}" %s "${1#*=}"
      ;;
    --spot) spot=1 ;;
    --dry-run) dry_run=1 ;;
    *) fail "unknown option $1" ;;
  esac
  shift
done
action=${1-}
[[ $action ]] || usage
shift
if [[ ${1-} == -- ]]; then shift; elif [[ $# -gt 0 ]]; then fail "unexpected $1; arguments of the run stand behind --"; fi
[[ $name && $zone ]] || fail "--name and --zone are needed"
[[ $workdir || $action =~ ^(up|setup|delete)$ ]] || fail "--workdir is needed, on a disk that all hosts share"

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
readonly remote=mpafer-jax ended=run.exit pid=run.pid tries=20
extras=tpu
if [[ "$workdir $*" == *gs://* ]]; then extras=tpu,gcs; fi

tpu() { # one gcloud command on the slice
  local words=(gcloud compute tpus tpu-vm "$1" "$name" "${where[@]}" "${@:2}")
  if [[ $dry_run ]]; then
    echo "${words[*]@Q}"
  else
    "${words[@]}"
  fi
}

on_all() { # a shell command on every worker
  tpu ssh --worker=all --command="$1"
}

# A field of the slice; empty where there is no slice, which only gcloud's NOT_FOUND says. What cannot be asked just now
# (no connection, a token that has run out) is asked again: taken for a preemption, it would start a second run beside
# the running one.
describe() {
  local errors answer try
  errors=$(mktemp)
  for ((try = 1; try <= tries; try++)); do
    answer=$(gcloud compute tpus tpu-vm describe "$name" "${where[@]}" "--format=value($1)" 2> "$errors") || true
    if [[ $answer ]] || grep -q NOT_FOUND "$errors"; then
      rm -f "$errors"
      [[ -z $answer ]] || echo "$answer"
      return
    fi
    echo "tpu_vm.sh: gcloud does not tell the state of $name ($try of $tries): $(tail -n 1 "$errors")" >&2
    sleep "$poll"
  done
  rm -f "$errors"
  fail "gcloud did not tell the state of $name $tries times (its message stands above); a run continues meanwhile, and the action wait takes it up again"
}

state() {
  [[ $dry_run ]] || describe state
}

create() {
  [[ $type && $version ]] || fail "--type and --version are needed to create $name"
  tpu create "--accelerator-type=$type" "--version=$version" ${spot:+--spot}
}

up() {
  local found
  found=$(state)
  case $found in
    READY) echo "tpu_vm.sh: $name is there and is used" >&2 ;;
    '') create ;;
    PREEMPTED | TERMINATED)
      tpu delete --quiet
      create
      ;;
    *) fail "$name is in state $found, neither ready nor preempted; try again later, or delete it" ;;
  esac
}

setup_workers() {
  on_all "mkdir -p $remote"
  # What git knows of, as it is now: no environments, no runs.
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  (cd "$checkout" && git ls-files -z | tar --null --files-from=- --create --gzip --file="$archive")
  if [[ $dry_run ]]; then
    echo "gcloud compute tpus tpu-vm scp CHECKOUT.tar.gz $name:$remote/checkout.tar.gz ${where[*]} --worker=all"
  else
    gcloud compute tpus tpu-vm scp "$archive" "$name:$remote/checkout.tar.gz" "${where[@]}" --worker=all
  fi
  rm -f "$archive"
  on_all "cd $remote && tar xzf checkout.tar.gz${setup:+ && { $setup; \}} && launch/environment.sh $extras"
}

start() { # in the background, so that a lost connection ends nothing
  local run="$command --workdir=${workdir@Q} ${*@Q}"
  on_all "cd $remote && rm -f $ended && (nohup bash -c ${run@Q}' > run.log 2>&1; echo \$? > $ended' > /dev/null 2>&1 & echo \$! > $pid)"
}

# The exit codes of the workers that have ended, one a line. One that was killed with its shell, or whose host was started
# anew, has left none; it counts as killed, since a slice that is waited for costs its price. The code is looked for once
# more after that: the run may have ended between the two.
ask() {
  on_all "cd $remote; { cat $ended || kill -0 \$(cat $pid) || cat $ended || echo 137; } 2>/dev/null"
}

codes() {
  ask 2>/dev/null | grep -E '^[0-9]+$' || true
}

workers() {
  describe 'networkEndpoints[].ipAddress' | tr ';' '\n' | tr ',' '\n' | grep -c .
}

# A slice in place of a preempted one, with the variables of wait_for_end, which calls it again where it fails. Who took
# the place may leave no room for hours, which costs nothing: that has no end, other errors have one.
recreate() {
  local errors code=0
  [[ $type && $version ]] || fail "--type and --version are needed to create $name"
  if [[ $now ]]; then tpu delete --quiet || return; fi
  errors=$(mktemp)
  create 2> "$errors" || code=$?
  cat "$errors" >&2
  if ((code == 0)); then
    failures=0
  elif grep -qiE 'RESOURCE_EXHAUSTED|capacity|quota' "$errors"; then
    echo "tpu_vm.sh: there is no room for $name now; trying again in $poll s" >&2
  elif ((++failures < tries)); then
    echo "tpu_vm.sh: $name could not be created ($failures of $tries); trying again in $poll s" >&2
  else
    rm -f "$errors"
    fail "$name could not be created $tries times (gcloud's message stands above); the action run creates it and resumes"
  fi
  rm -f "$errors"
  return "$code"
}

wait_for_end() {
  if [[ $dry_run ]]; then
    ask
    return
  fi
  local number='' now found lost='' failures=0
  while sleep "$poll"; do
    now=$(state)
    case $now in
      READY) ;;
      '' | PREEMPTED | TERMINATED)
        [[ $lost ]] || echo "tpu_vm.sh: $name was preempted; creating it again, and resuming" >&2
        lost=1
        recreate || continue
        ;;
      *) fail "$name is in state $now, neither ready nor preempted; wait again later, or delete it" ;;
    esac
    if [[ $lost ]]; then
      setup_workers
      start "$@"
      lost=''
      continue
    fi
    [[ $number ]] || number=$(workers)
    mapfile -t found < <(codes)
    ((${#found[@]} >= number)) || continue
    if [[ " ${found[*]} " == *" 75 "* ]]; then
      echo "tpu_vm.sh: the run was asked to stop and saved; resuming" >&2
      start "$@"
      continue
    fi
    for code in "${found[@]}"; do
      if ((code)); then
        echo "tpu_vm.sh: exit codes ${found[*]}; the end of each worker's log:" >&2
        on_all "tail -n 20 $remote/run.log" >&2 || true # a worker may have none
        return "$code"
      fi
    done
    return 0
  done
}

collect() {
  if [[ $workdir == gs://* ]]; then
    echo "tpu_vm.sh: what the run left is in $workdir; gcloud storage cp --recursive copies it" >&2
    return
  fi
  local pack="tar -C ${workdir@Q} --exclude=./checkpoints --exclude='./.shared-*' -czf - ."
  if [[ $dry_run ]]; then
    tpu ssh --worker=0 "--command=$pack"
    echo "  > $out/$name.tar.gz"
  else
    mkdir -p "$out/$name"
    tpu ssh --worker=0 "--command=$pack" > "$out/$name.tar.gz"
    tar -C "$out/$name" -xzf "$out/$name.tar.gz"
    rm "$out/$name.tar.gz"
    echo "tpu_vm.sh: $out/$name holds what the run left; checkpoints are in $workdir" >&2
  fi
}

case $action in
  up) up ;;
  setup) setup_workers ;;
  start) start "$@" ;;
  wait) wait_for_end "$@" ;;
  collect) collect ;;
  delete) tpu delete --quiet ;;
  run)
    up
    setup_workers
    start "$@"
    wait_for_end "$@"
    collect
    ;;
  *) fail "unknown action $action" ;;
esac
