"""What a folder already holds is compared with the sweep before a run is started or queued."""

import json
import sys

import pytest

from mpafer_jax.jobs.sweeps import launch, runner
from mpafer_jax.runtime.errors import ConfigError, ReportError
from tests.jobs import runs
from tests.jobs.sweeps import made

TEXT = """
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep


def get_sweep(argument):
    points = (Point("full", "full method"), Point("half", "half the weight", {"loss.beta": WEIGHT}))
    return Sweep("Two", "configs/sample.py", points)
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Writes the sweep and plans it: weight of the second point, seeds -> plan. Its runs leave a file `started`."""
    monkeypatch.chdir(runs.ROOT)
    monkeypatch.setattr(runner, "MAIN", (sys.executable, "-c", f"open({str(tmp_path / 'started')!r}, 'w')"))
    file = tmp_path / "two.py"

    def plan(weight, *seeds):
        file.write_text(TEXT.replace("WEIGHT", str(weight)))
        return launch.Plan.make(str(file), tmp_path / "sweep", seeds=seeds)

    return plan


def finish(plan, **values):
    """Leaves what the runs of a plan leave."""
    for run in plan.left:
        made.run(plan.root, run.name, 0.8, **values)
        (plan.root / run.name / "config.json").write_text(run.config.to_json())


def test_other_settings_of_a_point_are_refused_before_anything_is_run(planned, tmp_path):
    root = tmp_path / "sweep"
    finish(planned(0.5, 0))
    planned(0.5, 0).run()
    record = (root / "sweep.json").read_text()
    changed = planned(0.25, 1, 2)
    assert len(changed.left) == 4
    for start in (changed.run, lambda: changed.queue(0, [])):
        with pytest.raises(ConfigError, match=r"all/half/seed_0 holds a run with .*\n.*loss\.beta: there 0\.5, here 0"):
            start()
    assert (root / "sweep.json").read_text() == record
    assert not (tmp_path / "started").exists()
    # Of other seeds, with the same settings, they go on.
    planned(0.5, 1).run()
    assert (tmp_path / "started").exists()


def test_finished_runs_that_make_no_table_are_refused_before_others_are_run(planned, tmp_path):
    finish(planned(0.5, 0))
    finish(planned(0.5, 1), test="other")
    with pytest.raises(ReportError, match="do not have the same validation or test images"):
        planned(0.5, 2).run()
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_another_sweep_is_named_as_such(planned, tmp_path):
    finish(planned(0.5, 0))
    planned(0.5, 0).run()
    values = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({**values, "source": "another.py"}))
    with pytest.raises(ConfigError, match=r"sweep holds a sweep: there another\.py, here .*two\.py"):
        planned(0.25, 1).run()
