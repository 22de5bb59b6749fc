"""The measurement of starts: what is counted, and its table."""

import os

import pytest

from tests.bench import startup
from tests.jobs.runs import ROOT

pytestmark = pytest.mark.bench


def test_processor_time_of_a_process_and_its_children():
    code = "import time\nwhile time.process_time() < {}: pass"
    twice = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code.format(0.3)!r}])\n{code.format(0.3)}"
    assert startup.processor_seconds(("-c", code.format(0.3)), ROOT, os.environ) >= 0.3
    assert startup.processor_seconds(("-c", twice), ROOT, os.environ) >= 0.6


def test_ratios_are_taken_within_turns():
    text = startup.render({"a": {"before": [1.0, 2.0, 4.0], "now": [0.5, 0.5, 3.0]}})
    assert "now / before" in text
    assert text.splitlines()[-1].split("|")[1:-1] == [
        *(" a                 ", " 2.00 (1.00 to 4.00) ", " 0.50 (0.50 to 3.00) ", " 0.50 (0.25 to 0.75) "),
    ]
    assert "before" not in startup.render({"a": {"now": [1.0]}})
