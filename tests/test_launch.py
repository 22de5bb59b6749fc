"""The launch scripts: what shellcheck and Kubernetes' schema say of them, their dry runs, and what they do when a run
ends, is preempted or fails, with stand-ins for the clouds' own commands."""

import fnmatch
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from mpafer_jax.runtime import signals

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.s[hb]*"))  # .sh and .sbatch


def run(*command, path=None, **variables):
    """The finished process; commands in the folder `path` come before all others."""
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    environment = {**os.environ, "PATH": search, **{name: str(value) for name, value in variables.items()}}
    return subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}")
    path.chmod(0o755)


# Makes an environment in the folder that the last argument names; its Python only notes what it is asked.
WHOLE = """for venv; do :; done
mkdir -p "$venv/bin"
printf '#!/bin/sh\necho "$@" >> "$0.calls"\n' > "$venv/bin/python"
chmod +x "$venv/bin/python"
"""


def test_shellcheck_finds_nothing():
    # Beside this Python, where pip put it; it need not be on the path.
    others = [LAUNCH.parent / "tests" / "run.sh", LAUNCH.parent / ".ci" / "run"]
    found = run(pathlib.Path(sys.executable).parent / "shellcheck", *SCRIPTS, *others)
    assert found.returncode == 0, found.stdout


def test_local_dry_run_names_every_process():
    done = run(LAUNCH / "local_multihost.sh", "--dry-run", 3, "echo", "a b", JAX_COORDINATOR_ADDRESS="127.0.0.1:7")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for index, line in enumerate(lines):
        assert f"JAX_COORDINATOR_ADDRESS=127.0.0.1:7 JAX_NUM_PROCESSES=3 JAX_PROCESS_ID={index} 'echo' 'a b'" in line
    assert run(LAUNCH / "local_multihost.sh", "many", "echo").returncode == 2


def test_local_run_marks_lines_and_ends_with_the_first_failure(tmp_path):
    script(tmp_path / "job", 'echo "I am $JAX_PROCESS_ID"; sleep 0.$JAX_PROCESS_ID; exit $((JAX_PROCESS_ID * 10))')
    done = run(LAUNCH / "local_multihost.sh", 3, tmp_path / "job")
    assert sorted(done.stdout.splitlines()) == ["I am 0", "[1] I am 1", "[2] I am 2"]
    assert done.returncode == 10
    assert run(LAUNCH / "local_multihost.sh", 2, "true").returncode == 0


def test_local_run_passes_signals_on(tmp_path):
    script(tmp_path / "job", f'trap "exit {signals.EXIT_CODE}" TERM; touch {tmp_path}/$JAX_PROCESS_ID; sleep 30 & wait')
    with subprocess.Popen([LAUNCH / "local_multihost.sh", "2", tmp_path / "job"]) as process:
        deadline = time.monotonic() + 30
        while not all((tmp_path / name).exists() for name in "01"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == signals.EXIT_CODE


def test_an_environment_that_was_made_half_is_made_again(tmp_path):
    """As Debian's Python without its package python3-venv leaves it."""
    venv = tmp_path / "venv"
    script(
        tmp_path / "python",
        f"""
        if [ "$1" = -c ]; then exit 0; fi
        mkdir -p {venv}/bin
        if [ ! -e {tmp_path}/whole ]; then
          printf '#!/bin/sh\\nexit 1\\n' > {venv}/bin/python
          chmod +x {venv}/bin/python
          exit 1
        fi
        printf '#!/bin/sh\\necho "$@" >> {tmp_path}/calls\\n' > {venv}/bin/python
        """,
    )
    variables = {"PYTHON": tmp_path / "python", "VENV": venv}
    assert run(LAUNCH / "environment.sh", **variables).returncode == 1
    (tmp_path / "whole").touch()
    done = run(LAUNCH / "environment.sh", **variables)
    assert done.returncode == 0, done.stderr
    assert "install --quiet --editable ." in (tmp_path / "calls").read_text()


@pytest.fixture
def old(tmp_path):
    """environment.sh for a user whose python3 is too old; commands in bin/ come first, no uv is there."""
    script(tmp_path / "bin" / "python3", '[ "$1" != -c ]')

    def make(**variables):
        fixed = {"VENV": tmp_path / "venv", "PYTHON": "", "HOME": tmp_path, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        return run(LAUNCH / "environment.sh", "tpu", **{**fixed, **variables})

    return make


def test_an_environment_where_python_is_too_old(old, tmp_path):
    done = old()
    assert done.returncode == 2
    assert "error: python3 is not Python 3.11 or newer" in done.stderr
    assert f"PYTHON=/path/to/python3.12 {LAUNCH / 'environment.sh'} tpu\n" in done.stderr
    assert "curl -LsSf https://astral.sh/uv/install.sh | sh\n" in done.stderr
    assert not (tmp_path / "venv").exists()

    # Where uv's installer puts it, which is not on the path.
    script(tmp_path / ".local" / "bin" / "uv", f'echo "$@" > {tmp_path}/asked\n{WHOLE}')
    assert old(PYTHON=tmp_path / "bin" / "python3").returncode == 2  # what is named is not replaced
    done = old()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == f"venv --seed --clear --python 3.12 {tmp_path / 'venv'}\n"
    assert "install --quiet --editable .[tpu]" in (tmp_path / "venv" / "bin" / "python.calls").read_text()


def test_an_environment_with_a_python_that_is_too_old_is_made_again(old, tmp_path):
    venv = tmp_path / "venv"
    script(venv / "bin" / "python", '[ "$1" != -c ]')
    (venv / "pyvenv.cfg").touch()
    script(tmp_path / "new", f'if [ "$1" = -c ]; then exit; fi\necho "$@" > {tmp_path}/asked\n{WHOLE}')
    done = old(PYTHON=tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == f"-m venv --clear {venv}\n"
    assert "install --quiet --editable .[tpu]" in (venv / "bin" / "python.calls").read_text()


def test_slurm_dry_run():
    done = run("bash", LAUNCH / "slurm.sbatch", "--dry-run", "--config=a b")
    assert done.stdout.splitlines()[0] == "srun --kill-on-bad-exit=0 python -m mpafer_jax.main '--config=a b'"


def test_slurm_gives_each_process_the_cores_of_the_job(tmp_path, monkeypatch):
    for name in ("SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    script(tmp_path / "srun", 'echo "cores: ${SRUN_CPUS_PER_TASK-as srun likes}"')

    def cores(**variables):
        return run("bash", LAUNCH / "slurm.sbatch", "--config=x", path=tmp_path, **variables).stdout

    assert cores(SLURM_CPUS_PER_TASK=8) == "cores: 8\n"
    assert cores(SLURM_CPUS_PER_TASK=8, SRUN_CPUS_PER_TASK=4) == "cores: 4\n"
    assert cores() == "cores: as srun likes\n"


def test_slurm_array_takes_a_line_each(tmp_path):
    (tmp_path / "lines").write_text("--config=a --workdir='x y'\n--config=b '--config.f=($HOME, `ls`)'\n")
    script, flags = LAUNCH / "slurm.sbatch", ["--dry-run", f"--arguments-from={tmp_path / 'lines'}"]
    first, second, third = (run("bash", script, *flags, SLURM_ARRAY_TASK_ID=task) for task in range(3))
    assert first.stdout.splitlines()[0].endswith("mpafer_jax.main '--config=a' '--workdir=x y'")
    assert second.stdout.splitlines()[0].endswith("mpafer_jax.main '--config=b' '--config.f=($HOME, `ls`)'")
    assert third.returncode == 2
    assert "has no line for task 2" in third.stderr


@pytest.mark.parametrize(
    ("code", "squeue", "requeued"),
    [
        (0, "echo RUNNING None", False),
        (2, "echo RUNNING None", False),
        (signals.EXIT_CODE, "echo RUNNING None", True),
        (signals.EXIT_CODE, "echo COMPLETING TimeLimit", True),
        (signals.EXIT_CODE, "exit 1", True),  # Slurm's controller does not answer
        (signals.EXIT_CODE, "echo COMPLETING None", False),  # scancel
        (signals.EXIT_CODE, "echo CANCELLED None", False),
    ],
)
def test_slurm_queues_again_what_was_asked_to_stop_and_not_cancelled(tmp_path, code, squeue, requeued):
    script(tmp_path / "bin" / "srun", f'echo "srun $*"; exit {code}')
    script(tmp_path / "bin" / "scontrol", 'echo "scontrol $*"')
    script(tmp_path / "bin" / "squeue", f'[[ "$*" == *" --jobs=42 "* ]] || exit 1; {squeue}')
    done = run("bash", LAUNCH / "slurm.sbatch", "--config=x", path=tmp_path / "bin", SLURM_JOB_ID=42)
    assert done.returncode == code
    assert "srun --kill-on-bad-exit=0 python -m mpafer_jax.main --config=x" in done.stdout
    assert ("scontrol requeue 42" in done.stdout) == requeued
    cancelled = code == signals.EXIT_CODE and not requeued
    said = f"saved; not queued again, as Slurm calls the job '{squeue.removeprefix('echo ')}', cancelled it seems\n"
    assert (said in done.stdout) == cancelled


# Two workers, folders here: `create` makes them, `ssh` runs a command in each, `describe` tells their state. `describe`
# fails as often as the file `outage` says, `create` as often as `refusals` does, with the error in `refusal`.
GCLOUD = r"""
set -eu
cloud=$CLOUD
echo "$*" >> "$cloud/calls"
verb=$4
worker=all command= format=
for word in "$@"; do
  case $word in
    --worker=*) worker=${word#*=} ;;
    --command=*) command=${word#*=} ;;
    --format=*) format=${word#*=} ;;
  esac
done
case $verb in
  describe)
    left=$(cat "$cloud/outage" 2>/dev/null || echo 0)
    if ((left)); then
      echo $((left - 1)) > "$cloud/outage"
      echo "ERROR: (gcloud.compute.tpus.tpu-vm.describe) UNAVAILABLE: try again" >&2
      exit 1
    fi
    if [[ ! -d $cloud/0 ]]; then
      echo "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'nodes/fer' was not found" >&2
      exit 1
    fi
    if [[ $format == *networkEndpoints* ]]; then echo "10.0.0.1;10.0.0.2"; else cat "$cloud/state"; fi
    ;;
  create)
    left=$(cat "$cloud/refusals" 2>/dev/null || echo 0)
    if ((left)); then
      echo $((left - 1)) > "$cloud/refusals"
      echo "ERROR: (gcloud.compute.tpus.tpu-vm.create) $(cat "$cloud/refusal")" >&2
      exit 1
    fi
    mkdir -p "$cloud/0" "$cloud/1" && echo READY > "$cloud/state"
    ;;
  delete) rm -rf "$cloud/0" "$cloud/1" "$cloud/state" ;;
  scp) for w in 0 1; do cp "$5" "$cloud/$w/${6#*:}"; done ;;
  ssh)
    [[ $worker == all ]] && worker='0 1'
    # A worker has no variables from here: those of launch/environment.sh would name this machine's environment.
    for w in $worker; do (cd "$cloud/$w" && HOME=$PWD WORKER=$w env -u PYTHON -u VENV bash -c "$command"); done
    ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """Runs tpu_vm.sh against a stand-in for gcloud; what a worker's Python makes installs nothing."""
    script(tmp_path / "bin" / "gcloud", GCLOUD)
    script(tmp_path / "bin" / "python3", f'if [ "$1" = -c ]; then exit; fi\n{WHOLE}')

    def start(action, job, *arguments, options=()):
        script(tmp_path / "job", job)
        fixed = ["--name=fer", "--zone=z", "--type=v5litepod-8", "--version=v2", "--poll=0.2"]
        own = [f"--workdir={tmp_path / 'shared'}", f"--out={tmp_path / 'out'}", f"--command={tmp_path / 'job'}"]
        return run(
            LAUNCH / "tpu_vm.sh",
            *fixed,
            *own,
            *options,
            action,
            "--",
            *arguments,
            path=tmp_path / "bin",
            CLOUD=tmp_path,
        )

    return start


WRITE = 'mkdir -p "$w"/checkpoints; echo "$WORKER" > "$w/of-$WORKER"; echo x > "$w/checkpoints/x"; '


def test_tpu_run_copies_installs_runs_on_all_workers_and_collects(cloud, tmp_path):
    job = f'w=${{1#--workdir=}}; {WRITE} ls > "$w/files-$WORKER"; printf "%s|" "$@" > "$w/arguments"'
    done = cloud("run", job, "--config=a b", "--config.x=('y','z')", options=["--setup=touch mounted"])
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "out" / "fer").iterdir()}
    assert files == {"of-0", "of-1", "files-0", "files-1", "arguments"}  # no checkpoints
    copied = (tmp_path / "out" / "fer" / "files-1").read_text().split()
    assert {"mpafer_jax", "setup.py", "mounted", ".venv"} - {".venv"} <= set(copied)
    arguments = (tmp_path / "out" / "fer" / "arguments").read_text()
    assert arguments == f"--workdir={tmp_path / 'shared'}|--config=a b|--config.x=('y','z')|"
    for worker in "01":
        installed = (tmp_path / worker / "mpafer-jax" / ".venv" / "bin" / "python.calls").read_text()
        assert "install --quiet --editable .[tpu]\n" in installed


@pytest.mark.parametrize("source", ["README.md", "tpu_vm.sh"])
def test_tpu_documented_setup_mounts_the_bucket_for_the_user_who_runs(source, tmp_path):
    """Otherwise all is root's; and a lock is watched for 30 s, in which what its holder writes has to be seen."""
    text = (LAUNCH / source).read_text().replace("\n# ", "\n").replace("\\\n", " ")
    (line,) = re.findall(r"launch/tpu_vm\.sh --name=fer [^']*'[^']*' +run -- .*", text)
    (setup,) = [word for word in shlex.split(line) if word.startswith("--setup=")]
    for name in ("sudo", "curl"):
        script(tmp_path / name, f'echo {name} "$@" >> {tmp_path}/calls')
    absent = "command() { return 1; }; mountpoint() { return 1; }; "  # neither uv nor the mount
    done = run("bash", "-c", absent + setup.removeprefix("--setup="), path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text().splitlines() == [
        "curl -LsSf https://astral.sh/uv/install.sh",
        "sudo mkdir -p /mnt/runs",
        f"sudo gcsfuse -o allow_other --uid={os.getuid()} --gid={os.getgid()} "
        "--metadata-cache-ttl-secs=0 --implicit-dirs BUCKET /mnt/runs",
    ]


def test_tpu_workers_whose_python_is_too_old(cloud, tmp_path):
    script(tmp_path / "bin" / "python3", '[ "$1" != -c ]')
    alone = "PATH=$CLOUD/bin:/usr/bin:/bin"  # without a uv of this machine
    script(tmp_path / "uv", WHOLE)
    cloud("up", "")
    missing = cloud("setup", "", options=[f"--setup={alone}"])
    assert missing.returncode == 2
    assert "curl -LsSf https://astral.sh/uv/install.sh | sh\n" in missing.stderr
    done = cloud("setup", "", options=[f"--setup={alone}; mkdir -p ~/.local/bin; cp {tmp_path}/uv ~/.local/bin"])
    assert done.returncode == 0, done.stderr
    for worker in "01":
        installed = (tmp_path / worker / "mpafer-jax" / ".venv" / "bin" / "python.calls").read_text()
        assert "install --quiet --editable .[tpu]\n" in installed


def test_tpu_run_goes_on_after_a_preemption_and_after_exit_code_75(cloud, tmp_path):
    # First the slice is taken away, which leaves no exit code; then one worker stops in good order; then all is well.
    job = (
        f'w=${{1#--workdir=}}; {WRITE} echo . >> "$w/starts-$WORKER"; n=$(wc -l < "$w/starts-$WORKER")\n'
        "if ((n == 1 && WORKER == 0)); then\n"
        '  until [[ -e "$w/starts-1" ]]; do sleep 0.05; done\n'
        f"  echo PREEMPTED > {tmp_path}/state\n"
        "fi\n"
        "if ((n == 1)); then exec sleep 30; fi\n"
        f"if ((n == 2 && WORKER == 1)); then exit {signals.EXIT_CODE}; fi\n"
    )
    done = cloud("run", job)
    assert done.returncode == 0, done.stderr
    assert "was preempted; creating it again" in done.stderr
    assert "asked to stop and saved; resuming" in done.stderr
    assert len((tmp_path / "shared" / "starts-0").read_text().splitlines()) == 3
    assert created_and_deleted(tmp_path) == ["create", "delete", "create"]


def created_and_deleted(tmp_path):
    verbs = [line.split()[3] for line in (tmp_path / "calls").read_text().splitlines()]
    return [verb for verb in verbs if verb in ("create", "delete")]


def preempted(cloud, tmp_path, refusals, refusal):
    """Waits for a run whose slice was taken, and cannot be created again so many times, for this reason."""
    cloud("up", "")
    (tmp_path / "state").write_text("PREEMPTED")
    (tmp_path / "refusals").write_text(str(refusals))
    (tmp_path / "refusal").write_text(refusal)
    return cloud("wait", f"w=${{1#--workdir=}}; {WRITE}", options=["--poll=0.01"])


@pytest.mark.parametrize(
    "refusal",
    [
        '{"code": 8, "message": "There is no more capacity in the zone \\"us-west4-a\\""}',
        "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded.",
    ],
    ids=["capacity", "quota"],
)
def test_tpu_wait_creates_a_preempted_slice_again_as_soon_as_there_is_room(cloud, tmp_path, refusal):
    done = preempted(cloud, tmp_path, 21, refusal)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was preempted; creating it again") == 1
    assert done.stderr.count(refusal) == done.stderr.count("there is no room for fer now; trying again in 0.01 s") == 21
    assert created_and_deleted(tmp_path) == ["create", "delete"] + 22 * ["create"]
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"of-0", "of-1", "checkpoints"}


def test_tpu_wait_goes_on_after_another_error_of_creating_but_not_for_ever(cloud, tmp_path):
    done = preempted(cloud, tmp_path, 2, "UNAVAILABLE: try again")
    assert done.returncode == 0, done.stderr
    assert "fer could not be created (2 of 20)" in done.stderr
    done = preempted(cloud, tmp_path, 1000, "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied")
    assert done.returncode == 2
    assert "PERMISSION_DENIED" in done.stderr
    assert "fer could not be created 20 times" in done.stderr
    assert created_and_deleted(tmp_path)[-21:] == ["delete"] + 20 * ["create"]


def test_tpu_run_goes_on_while_gcloud_cannot_be_asked(cloud, tmp_path):
    # Worker 0 breaks the connection, and both end when it is there again.
    job = (
        f'w=${{1#--workdir=}}; {WRITE} echo . >> "$w/starts-$WORKER"\n'
        f"if ((WORKER == 0)); then echo 3 > {tmp_path}/outage; fi\n"
        f"until [[ $(cat {tmp_path}/outage) == 0 ]]; do sleep 0.05; done"
    )
    done = cloud("run", job)
    assert done.returncode == 0, done.stderr
    assert "gcloud does not tell the state of fer (3 of 20): ERROR: " in done.stderr
    assert "preempted" not in done.stderr
    assert created_and_deleted(tmp_path) == ["create"]
    for worker in (0, 1):
        assert (tmp_path / "shared" / f"starts-{worker}").read_text() == ".\n"


@pytest.mark.parametrize("action", ["up", "wait"])
def test_tpu_creates_nothing_where_gcloud_can_never_be_asked(cloud, tmp_path, action):
    cloud("up", "")
    (tmp_path / "outage").write_text("1000")
    done = cloud(action, "", options=["--poll=0.01"])
    assert done.returncode == 2
    assert "gcloud did not tell the state of fer 20 times" in done.stderr
    assert created_and_deleted(tmp_path) == ["create"]


def test_tpu_wait_leaves_a_slice_alone_that_is_neither_ready_nor_preempted(cloud, tmp_path):
    cloud("up", "")
    (tmp_path / "state").write_text("REPAIRING")
    done = cloud("wait", "")
    assert done.returncode == 2
    assert "fer is in state REPAIRING, neither ready nor preempted" in done.stderr
    assert created_and_deleted(tmp_path) == ["create"]


def test_tpu_run_ends_with_a_failures_code_and_shows_the_logs(cloud, tmp_path):
    done = cloud("run", "echo out of luck; exit $((WORKER * 2))")
    assert done.returncode == 2
    assert "out of luck" in done.stderr
    assert not (tmp_path / "out").exists()


def test_tpu_run_ends_where_a_worker_is_gone_without_an_exit_code(cloud):
    done = cloud("run", 'if ((WORKER)); then echo killed; kill -KILL "$PPID"; fi')
    assert done.returncode == 137
    assert "exit codes 0 137" in done.stderr
    assert "killed" in done.stderr


def test_tpu_wait_ends_where_no_run_was_started(cloud):
    cloud("up", "")
    assert cloud("wait", "").returncode == 137


def test_tpu_run_with_a_bucket_installs_its_package_and_collects_nothing(cloud, tmp_path):
    dry = cloud("run", "exit 1", "--config=x", options=["--dry-run", "--workdir=gs://BUCKET/runs/a b"])
    assert dry.returncode == 0, dry.stderr
    assert "launch/environment.sh tpu,gcs'" in dry.stdout
    assert "launch/environment.sh tpu'" in cloud("run", "exit 1", "--config=x", options=["--dry-run"]).stdout
    data = cloud("setup", "exit 1", "--config.data.dir=gs://B", options=["--dry-run"])
    assert "launch/environment.sh tpu,gcs'" in data.stdout
    collected = cloud("collect", "exit 1", options=["--workdir=gs://BUCKET/runs/a b"])
    assert (collected.returncode, collected.stdout) == (0, "")
    assert "what the run left is in gs://BUCKET/runs/a b" in collected.stderr
    assert not (tmp_path / "out").exists()


def test_tpu_dry_run_runs_nothing(cloud, tmp_path):
    done = cloud("run", "exit 1", "--config=x", options=["--dry-run", "--spot"])
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "calls").exists()
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith(("'gcloud'", "gcloud"))]
    assert [words[4] for words in commands] == ["create", "ssh", "scp", "ssh", "ssh", "ssh", "ssh"]
    assert "--spot" in commands[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "--name and --zone are needed"),
        (["--name=a", "--zone=b", "run"], "--workdir is needed"),
        (["--name=a", "--zone=b", "--tpu=x", "up"], "unknown option --tpu=x"),
        (["--name=a", "--zone=b", "up", "--config=x"], "arguments of the run stand behind --"),
        (["--name=a", "--zone=b", "fly"], "--workdir is needed"),
    ],
)
def test_tpu_mistakes_are_named(arguments, message):
    done = run(LAUNCH / "tpu_vm.sh", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_jobset_is_a_valid_job_of_as_many_pods_as_hosts():
    """Kubernetes' schema has no JobSet, which is an extension; the Job inside it is checked as such."""
    import kubernetes_validate

    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **replicated["template"]}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)

    spec = job["spec"]
    pod = spec["template"]["spec"]
    chips = [int(size) for size in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    (container,) = pod["containers"]
    of_a_host = int(container["resources"]["limits"]["google.com/tpu"])
    hosts = chips[0] * chips[1] // of_a_host
    assert spec["parallelism"] == spec["completions"] == hosts
    assert spec["completionMode"] == "Indexed"
    assert spec["backoffLimit"] == 0  # JobSet restarts all pods together
    assert container["command"] == ["python", "-m", "mpafer_jax.main"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_an_image_has_what_git_knows_and_neither_environments_nor_runs():
    root = LAUNCH.parent
    left_out = [line for line in (root / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    ignored = (root / ".gitignore").read_text().splitlines()
    assert left_out == [".git", *(f"**/{line.removesuffix('/')}" for line in ignored)]
    names = {part for path in run("git", "-C", root, "ls-files").stdout.splitlines() for part in path.split("/")}
    assert "setup.py" in names
    assert not [(name, line) for name in names for line in left_out if fnmatch.fnmatch(name, line.removeprefix("**/"))]


def test_the_documentation_names_scripts_and_flags_that_exist():
    text = (LAUNCH / "README.md").read_text()
    for name in re.findall(r"launch/([\w.]+\.(?:sh|sbatch|yaml))", text):
        assert (LAUNCH / name).is_file(), name
    assert {path.name for path in SCRIPTS} | {"gke_jobset.yaml"} <= set(re.findall(r"[\w]+\.(?:sh|sbatch|yaml)", text))
