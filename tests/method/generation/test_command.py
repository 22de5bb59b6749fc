"""The command: killed and started again, exit codes, and where the key never is."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mpafer_jax.method.hard_prompts.bank import load_bank
from tests.jobs import runs
from tests.method.generation.chat_server import MODEL, Fail, Silence, good, in_turn, serve

pytestmark = pytest.mark.processes

KEY = "sk-only-for-this-test"


def arguments(server, out, *flags):
    command = [sys.executable, "-m", "mpafer_jax.cli", "prompts", "generate", f"--endpoint={server.url}"]
    return [*command, f"--model={MODEL}", f"--out={out}", "--granularities=holistic,mouth", "--paraphrases=2", *flags]


def environment(**extra):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**clean, **extra}


def run(*args, **extra):
    return subprocess.run(
        arguments(*args), env=environment(**extra), capture_output=True, text=True, timeout=120, check=False
    )


def test_a_run_that_was_killed_asks_only_for_the_rest_and_never_shows_its_key(tmp_path):
    out, log = tmp_path / "bank.json", tmp_path / "log"
    flags = ("--classes=fear,anger,boredom", "--verbosity=1")  # the most that anyone can have logged
    loud = environment(OPENAI_API_KEY=KEY, OPENAI_LOG="debug")

    def echo(request):
        """A server that repeats the key wherever it can."""
        said = good(request)
        said.text = said.text.replace("skin", request.headers["authorization"].split()[-1])
        return said

    with serve(in_turn(echo, echo, echo, Silence(60), then=echo)) as server:
        with log.open("w") as stream:
            process = subprocess.Popen(arguments(server, out, *flags), env=loud, stdout=stream, stderr=stream)
            deadline = time.monotonic() + 60
            while len(server.requests) < 4 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        partial = tmp_path / "bank.json.partial.jsonl"
        assert len(partial.read_text().splitlines()) == 3
        assert not out.exists()
        with partial.open("a") as file:
            file.write('{"question": "to')  # as if it had been killed while writing
        first = server.questions()

        second = run(server, out, *flags, OPENAI_API_KEY=KEY, OPENAI_LOG="debug")
        assert second.returncode == 0, second.stderr
        assert "6 questions for tiny-1, 3 of them answered before" in second.stderr
        assert "line 4 is no answer" in second.stderr
        assert server.questions()[len(first) - 1 :] == [first[3], *server.questions()[4:]]
        assert len(server.requests) == 7
        assert len(set(server.questions())) == 6
        assert f"{out}: 3 classes, holistic, mouth" in second.stdout

        server.behave = lambda request: Fail(401, f"{request.headers['authorization']} is not welcome")
        third = run(server, out, *flags, "--overwrite", "--model=tiny-1", OPENAI_API_KEY=KEY)
        assert third.returncode == 2
        assert "Bearer [OPENAI_API_KEY] is not welcome" in third.stderr

    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert load_bank(str(out)).texts("boredom", "mouth")[0].text.endswith("[OPENAI_API_KEY]")
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2  # the bank and the log
    for text in (*written, second.stdout, second.stderr, third.stdout, third.stderr):
        assert KEY not in text


def call(server, out, *flags):
    return runs.call("prompts generate", *arguments(server, out, *flags)[5:])


def test_the_classes_and_the_clip_of_a_dataset(sample, tmp_path, monkeypatch):
    out = tmp_path / "bank.json"
    flags = (f"--config={runs.ROOT / 'configs' / 'sample.py'}", f"--config.data.dir={sample / 'faces'}")
    clip = f"--config.clip.name={sample / 'clip'}"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MINE", "another-key")
    with serve() as server:
        done = call(server, out, *flags, clip, "--key_variable=MINE")
    assert done.code == 0, done.err
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer another-key"}
    bank = json.loads(out.read_text())
    assert list(bank["classes"]) == sorted(path.name for path in (sample / "faces" / "train").iterdir())
    assert bank["provenance"]["tokenizer"] == str(sample / "clip")


def test_a_server_that_stays_busy(tmp_path):
    with serve(lambda _: Fail(500, headers={"Retry-After": "0.01"})) as server:
        busy = run(server, tmp_path / "bank.json", "--classes=fear", "--retries=1")
    assert busy.returncode == 1
    assert "Retrying request in 0.01" in busy.stderr
    assert "500 - it went wrong; asked 2 times at most (--retries)" in busy.stderr
    assert "the same command asks only for the rest" in busy.stderr
    assert "Traceback" not in busy.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--classes=fear", "--endpoint="), "name the server: --endpoint="),
        ((), "name the classes, --classes=happiness,sadness, or a dataset's --config"),
        (("--classes=fear,scared",), "classes: 'fear' and 'scared' are the same class, 'fear'"),
        (("--classes=fear", "--token_budget=100"), "--token_budget: 100 tokens do not fit the 77 positions"),
    ],
)
def test_mistakes(tmp_path, flags, message):
    with serve() as server:
        done = call(server, tmp_path / "bank.json", *flags)
    assert (done.code, server.requests) == (2, [])
    assert message in done.err
