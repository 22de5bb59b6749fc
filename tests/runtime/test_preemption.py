"""What Ctrl-C and SIGTERM do to a command, in small programs that import nothing that takes long."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mpafer_jax.runtime import signals
from tests.jobs import runs

pytestmark = pytest.mark.processes

BEGIN = """
import hashlib, pathlib, signal, sys, time
from mpafer_jax.runtime import signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background ignores
signals.listen()
def ready():
    print("ready", flush=True)
with signals.ending():
"""


def start(body, begin=BEGIN, **options):
    """A program that listens, when it has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", begin + "".join(f"    {line}\n" for line in body.splitlines())],
        env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def end(process, *numbers):
    for number in numbers:
        process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert "Interrupt" not in errors
    return process.returncode, out, errors


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 75, "SIGTERM")])
def test_where_nothing_is_to_be_saved_it_ends_at_once_even_in_native_code(number, code, name):
    # Python's own handlers would wait for minutes until this call returns.
    process = start("ready(); hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9); print('went on')")
    assert end(process, number) == (
        code,
        "",
        f"stopped by {name}; the same command starts again, or resumes where it had saved (exit code {code})\n",
    )


ORDERLY = """
with signals.orderly():
    ready()
    while True:
        {}
        time.sleep(0.01)
"""


def test_orderly_work_stops_itself_and_a_second_request_ends_it():
    process = start(ORDERLY.format("signals.check_alone()"))
    code, _, errors = end(process, signal.SIGINT)
    first, second = errors.splitlines()
    assert (code, first) == (130, "Ctrl-C: stopping in good order; once more ends it at once")
    assert second.startswith("stopped by Ctrl-C; the same command")

    process = start(ORDERLY.format("pass"))
    process.send_signal(signal.SIGINT)
    assert "stopping in good order" in process.stderr.readline()
    time.sleep(2 * signals._ECHO_SECONDS)
    code, _, errors = end(process, signal.SIGINT)
    assert (code, errors.partition(";")[0]) == (130, "ended at once by Ctrl-C")


def test_a_signal_that_is_passed_on_twice_is_one_request():
    body = "with signals.orderly():\n    ready(); time.sleep(1); print('saved', flush=True)"
    code, out, _ = end(start(body), signal.SIGTERM, signal.SIGTERM)  # as `timeout` sends it
    assert (code, out) == (75, "saved\n")


def test_without_a_request_nothing_changes_and_what_is_ignored_stays_so():
    assert end(start("ready()")) == (0, "", "")
    body = "ready(); time.sleep(0.5); print('went on')"
    begin = BEGIN.replace("signal.default_int_handler", "signal.SIG_IGN")
    ignoring = start(body, begin)
    assert end(ignoring, signal.SIGINT)[:2] == (0, "went on\n")


def test_what_comes_after_the_last_step_ends_the_run_as_one_that_has_saved():
    body = "from mpafer_jax.runtime import preemption\nwith preemption.Notice() as notice:\n"
    body += "    notice.start_steps(); ready(); time.sleep(0.5); notice.end_steps()"
    code, _, errors = end(start(body), signal.SIGINT)
    assert code == signals.EXIT_CODE
    assert errors.splitlines()[1].startswith("stopped by Ctrl-C while no step was running; the same command resumes")


JOINED = """
import socket
from mpafer_jax.runtime import distributed, preemption
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
distributed.start(distributed.Cluster("as on a TPU machine", address, 1, 0))
with preemption.Notice() as notice:
    ready()
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 75, "SIGTERM")])
def test_a_process_that_joined_a_run_of_one_ends_at_once_too(number, code, name):
    found, _, errors = end(start(JOINED), number)
    assert found == code, errors
    assert f"stopped by {name} while no step was running; the same command resumes (exit code {code})\n" in errors


def test_a_signal_during_pythons_own_end_does_no_harm():
    class_ = "class Slow:\n    def __del__(self):\n        ready(); time.sleep(1)\nslow = Slow()"
    for number in (signal.SIGINT, signal.SIGTERM):
        assert end(start(class_), number) == (0, "", "")


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


CHILD = """
import os, subprocess
code = "from mpafer_jax.runtime import signals; signals.listen(); import time; time.sleep(60)"
variables, pipe = signals.ends_with_this(os.environ)
child = subprocess.Popen([sys.executable, "-c", code], env=variables, pass_fds=pipe, process_group=0)
print("ready", child.pid, sep="\\n", flush=True)
time.sleep(60)
"""
WORKERS = """
import os
from mpafer_jax.runtime import workers
pool = workers.pool(1)
pid = pool.submit(os.getpid).result()
print("ready", pid, sep="\\n", flush=True)
list(workers.map_in_order(pool, time.sleep, [0.1] * 600, 1)) if {orderly} else time.sleep(60)
"""


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("body", [CHILD, WORKERS.format(orderly=False)])
def test_processes_end_with_the_one_that_started_them_even_if_it_is_killed(body):
    process = start(body)
    pid = int(process.stdout.readline())
    process.kill()
    deadline = time.monotonic() + 60
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_to_the_command_what_a_terminal_sends_to_all(number):
    process = start("with signals.orderly():" + WORKERS.format(orderly=True).replace("\n", "\n    "), process_group=0)
    pid = int(process.stdout.readline())
    os.killpg(process.pid, number)
    code, _, errors = end(process)
    assert code == (130 if number == signal.SIGINT else 75)
    assert len(errors.splitlines()) == 2, errors
    assert is_gone(pid)


@pytest.mark.parametrize("path", ["mpafer_jax/main.py", "mpafer_jax/predict.py", "mpafer_jax/cli/__main__.py"])
def test_every_command_listens_before_its_imports(path):
    text = (runs.ROOT / path).read_text()
    assert text.index("signals.listen()") < text.index("from mpafer_jax.cli")
    imports = [line for line in text.partition("signals.listen()")[0].splitlines() if "import" in line.split()]
    assert imports[-1] in ("from mpafer_jax.runtime import signals", "from mpafer_jax.runtime import memory, signals")
    assert set(imports[:-1]) <= {"from __future__ import annotations", "import sys"}
