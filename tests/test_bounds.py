"""Every number in a config has bounds: what no run can mean is refused when it is read, not found in its result."""

import dataclasses
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

import annotated_types
import pytest

import bigmodel_jax
import tiny
from bigmodel_jax import config, experiment
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.optim import anomaly_policy, optimizers, schedules
from bigmodel_jax.plan import search

ROOTS = (experiment.Experiment, search.Space)
LOWER, UPPER = (annotated_types.Gt, annotated_types.Ge), (annotated_types.Lt, annotated_types.Le)
# Fields whose numbers need no bounds, and why.
EXCEPTIONS = {
    'MeshShape.data': '-1 stands for what is left; sizes() checks it against the devices',
    'Counted.value': 'a difference of two counts may be negative',
    'Setting.value': 'is compared with any field',
    'Measured.value': 'a metric may be any number',
    'Measured.on': 'is compared with any field',
    'Normalize.mean': 'the mean of a channel may be any number',
    'ColorNoise.components': 'a direction among colors may have any numbers',
}
# Counts of a paper, which no device computes with.
UNLIMITED = config.Count.__metadata__


def modules() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(bigmodel_jax.__path__, 'bigmodel_jax.'):
        if not found.name.endswith('__main__'):
            yield importlib.import_module(found.name)


def parts() -> list[type]:
    """Every class of the package that can be a part of an experiment."""
    known = {each for module in modules() for each in vars(module).values() if isinstance(each, type)}
    found, waiting = set(), list(ROOTS)
    while waiting:
        cls = waiting.pop()
        found.add(cls)
        waiting += [each for each in known if issubclass(each, cls) and each not in found]
        if config.is_config_class(cls):
            hints = typing.get_type_hints(cls, include_extras=True)
            inner = [each for field in dataclasses.fields(cls) for each in classes(hints[field.name])]
            waiting += [each for each in inner if each not in found]
    return sorted((cls for cls in found if config.is_config_class(cls)), key=config.class_name)


def classes(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and hint.__module__.startswith('bigmodel_jax'):
        yield hint
    for argument in typing.get_args(hint):
        yield from classes(argument)


def numbers(hint: Any, bounds: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The bounds of each number in a type."""
    if hint in (int, float):
        yield bounds
    own = getattr(hint, '__metadata__', ())
    arguments = typing.get_args(hint)[:1] if own else typing.get_args(hint)
    for argument in arguments:
        yield from numbers(argument, (*bounds, *own))


def test_every_number_has_bounds():
    found = [(cls, field.name) for cls in parts() for field in dataclasses.fields(cls)]
    unbounded = [f'{config.class_name(cls)}.{name}' for cls, name in found if not is_bounded(cls, name)]
    assert not unbounded, 'use a type of config.py, such as Positive, Rate or PositiveFloat'


def is_bounded(cls: type, name: str) -> bool:
    origin = next(base for base in reversed(cls.__mro__) if name in getattr(base, '__annotations__', {}))
    if f'{origin.__name__}.{name}' in EXCEPTIONS:
        return True
    found = numbers(typing.get_type_hints(cls, include_extras=True)[name])
    return all(bounds == UNLIMITED or (_has(bounds, LOWER) and _has(bounds, UPPER)) for bounds in found)


def _has(bounds: tuple[Any, ...], kinds: tuple[type, ...]) -> bool:
    return any(isinstance(each, kinds) for each in bounds)


def test_the_walk_finds_parts_of_every_kind():
    names = {cls.__name__ for cls in parts()}
    assert {'AdamW', 'WarmupCosine', 'Spikes', 'Attention', 'Choices', 'Beam', 'Text', 'Checkpoints', 'Ring'} <= names


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'optimizer.clip_norm': 0}, 'should be greater than 0. 0 would scale every gradient to 0. Use None'),
        ({'optimizer.eps': 0.0}, 'should be greater than 0'),
        ({'optimizer.eps': 1e-50}, 'is 0 in float32'),
        ({'optimizer.b2': 0.999999999}, 'is 1 in float32; use at most'),
        ({'optimizer.schedule.peak': 1e39}, 'should be less than or equal to 3'),
        ({'optimizer.schedule.peak': -1e-3}, 'should be greater than or equal to 0'),
        (
            {'watch.anomalies': anomaly_policy.Skip(spikes=anomaly_policy.Spikes(loss=0.0))},
            'should be greater than 1. It is how many',
        ),
        ({'checkpoints.every_minutes': 0}, 'should be greater than 0. It would save after every step. Use None'),
        ({'model.block.residual.dropout': 1.0}, 'should be less than'),
        ({'steps': 3_000_000_000}, 'should be less than or equal to 2147483647'),
        ({'model.vocab': 2**31}, 'should be less than or equal to 2147483647'),
        ({'seed': 2**64}, 'should be less than 18446744073709551616'),
        ({'seed': -1}, 'should be greater than or equal to 0'),
    ],
    ids=str,
)
def test_a_number_that_no_run_can_mean_is_refused(changes, message):
    with pytest.raises(config.InputError) as error:
        experiment.check(config.vary(tiny.experiment(), changes))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    'part',
    [
        optimizers.Muon(schedule=schedules.Constant(peak=1.0), rms=0.0),
        decoding.Sampling(temperature=0.0),
        decoding.Sampling(temperature=float('inf')),
        decoding.Sampling(top_p=0.0),
        decoding.Sampling(top_k=0),
        decoding.Beam(length_penalty=100.0),
    ],
    ids=str,
)
def test_a_part_that_would_do_nothing_is_refused(part):
    with pytest.raises(config.InputError):
        config.check(part)


def test_what_a_run_can_mean_is_taken():
    changes = {'seed': 2**64 - 1, 'optimizer.clip_norm': None, 'optimizer.weight_decay': 0, 'optimizer.eps': 1e-30}
    experiment.check(config.vary(tiny.experiment(), changes))
