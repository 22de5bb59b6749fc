"""Every config file with every argument gives the values that it gave."""

import importlib
import json

import pytest

from configs import common
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from tests.golden import cases, store


def flat(config) -> dict:
    """Dotted names, sorted -> values."""

    def pairs(values, start):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from pairs(value, f"{start}{name}.")
            else:
                yield start + name, value

    return dict(sorted(pairs(json.loads(config.to_json()), "")))


def difference(values: dict, base: dict) -> dict:
    """What `values` change of `base`; what they lack is None, which is no value of a configuration."""
    changed = {name: value for name, value in values.items() if name not in base or base[name] != value}
    return changed | {name: None for name in base if name not in values}


def changed_by_arguments(name: str) -> dict:
    base = flat(cases.build(name))
    return {argument: difference(flat(cases.build(name, argument)), base) for argument in cases.ARGUMENTS[1:]}


def test_all_files_and_arguments_are_covered():
    files = {path.stem for path in cases.FOLDER.glob("*.py")} - {"__init__", "common"}
    assert files == {*cases.NAMES, *cases.PRETRAINING}
    with pytest.raises(ValueError, match=f"known are {', '.join(cases.SINGLE)}$"):
        common.apply_arguments(common.get_common(), "no such argument at all")


def test_the_first_config():
    store.check("configs/1 rafdb", flat(cases.build(cases.FIRST)))


def test_the_other_configs():
    first = flat(cases.build(cases.FIRST))
    values = {name: difference(flat(cases.build(name)), first) for name in cases.NAMES[1:]}
    store.check("configs/2 others, by their difference to rafdb", values)


def test_arguments():
    """Of each argument what it changes of the first config; of the other configs only where that is not the same."""
    first = changed_by_arguments(cases.FIRST)
    store.check("configs/3 arguments, by their changes of rafdb", first)
    others = {}
    for name in cases.NAMES[1:]:
        changes = changed_by_arguments(name)
        others[name] = {
            argument: change for argument in changes if (change := difference(changes[argument], first[argument]))
        }
    # A field is None where the argument changes it in rafdb and not here.
    store.check("configs/4 arguments of others, where their changes differ", others)


def test_pretraining():
    tiny, small = (
        flat(PretrainConfig.from_config_dict(importlib.import_module(f"configs.{name}").get_config()))
        for name in cases.PRETRAINING
    )
    store.check("configs/5 pretrain_tiny_clip", tiny)
    store.check("configs/6 pretrain_small_clip, by its difference to it", difference(small, tiny))
