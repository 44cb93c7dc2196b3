"""Whatever JSON or --set puts into a field of a configuration class, the answer is an experiment or an InputError."""

import contextlib
import dataclasses
import importlib
import pkgutil
import sys

import pytest

import bigmodel_jax
import tiny
from bigmodel_jax import config, settings

WRONG = (None, 'x', '', -1, 0, 1.5, 2**70, 10**400, True, [], ['x'], [[1]], {}, {'a': 1})
LEFT_OUT = ('bigmodel_jax.hosts', 'bigmodel_jax.__main__', 'bigmodel_jax.data.builders')


def classes():
    """Every configuration class of the package."""
    for module in pkgutil.walk_packages(bigmodel_jax.__path__, 'bigmodel_jax.'):
        if not module.name.startswith(LEFT_OUT):
            importlib.import_module(module.name)
    loaded = [module for name, module in sys.modules.items() if name.startswith('bigmodel_jax.')]
    found = {cls for module in loaded for cls in vars(module).values() if config.is_config_class(cls)}
    return sorted((cls for cls in found if cls.__module__.startswith('bigmodel_jax.')), key=config.class_name)


def wrongly_filled(cls):
    """JSON of a class with a wrong value in each of its fields in turn, and some value in those that need one."""
    fields = dataclasses.fields(cls)
    needed = [field.name for field in fields if config.default_of(field) is dataclasses.MISSING]
    for i, wrong in enumerate(WRONG):
        others = {name: WRONG[(i + j) % len(WRONG)] for j, name in enumerate(needed)}
        yield from ({'class': config.class_name(cls), **others, field.name: wrong} for field in fields)


def test_a_value_of_another_type_is_refused_by_name_for_every_class():
    for stored in (each for cls in classes() for each in wrongly_filled(cls)):
        with contextlib.suppress(config.InputError):
            config.from_json(stored)


def test_a_setting_of_another_type_is_refused_by_name():
    for path in ('data.batch', 'optimizer.schedule.peak', 'checkpoints', 'mesh.data', 'model.block', 'evaluations'):
        with pytest.raises(config.InputError, match=path):
            settings.parse_settings(tiny.experiment(), [f'{path}=x'])


def test_a_name_that_is_not_text_is_refused():
    with pytest.raises(config.InputError, match=r'name = .*half of a surrogate pair'):
        config.vary(tiny.experiment(), {'name': 'a\ud800'})


@pytest.mark.parametrize(
    'text',
    ['1+' * 5_000 + '1', '+' * 200_000, '(' * 500, '-' * 500 + '1', '[' * 90 + ']' * 90 + '+1', '{[]: 1}'],
)
def test_a_value_that_cannot_be_read_is_one_message_or_text(text):
    try:
        value = settings.parse_value(text, 'name')
    except config.InputError as error:
        assert str(error).startswith('name: ')  # noqa: PT017
    else:
        assert value == text


def test_sums_and_signs_within_reason_are_still_values():
    assert settings.parse_value('-1') == -1
    assert settings.parse_value('((1, 2), [3], {"a": (4,)})') == ((1, 2), (3,), {'a': (4,)})
