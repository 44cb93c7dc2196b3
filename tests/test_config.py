"""Configs: checked strictly, varied by path, and the same after JSON."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from bigmodel_jax import config, settings
from bigmodel_jax.data.text.chats import chat_templates
from bigmodel_jax.layers import attention, ffn, norms  # noqa: F401  attention has a Plain too.
from bigmodel_jax.models import decoder
from bigmodel_jax.optim import optimizers, schedules

MODEL = decoder.gpt(vocab=64, width=16, layers=2, heads=4, length=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(norms.Norm):
    """A part of a person's own."""

    strength: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stranger:
    """A frozen dataclass that has nothing to do with experiments."""


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        ('layers', 'six', "layers = 'six' (a str): should be a valid integer"),
        ('layers', 2.0, 'layers = 2.0 (a float): should be a valid integer'),
        ('layers', True, 'layers = True (a bool): should be a valid integer'),
        ('layers', 0, 'layers = 0 (a int): should be greater than 0'),
        ('block.mixer.dropout', 1.0, 'block.mixer.dropout = 1.0 (a float): should be less than 1'),
        ('block.mixer.dropout', float('nan'), 'should be a finite number'),
        ('block.ffn', norms.LayerNorm(), 'block.ffn = LayerNorm() (a LayerNorm): should be a Ffn'),
        ('dtype', 'float16', "should be 'float32', 'bfloat16' or 'float64'"),
        ('norm', 3, 'norm = 3 (a int): should be a Norm'),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_path(path, value, message):
    with pytest.raises(config.InputError, match='^' + path) as error:
        config.check(config.vary(MODEL, {path: value}))
    assert message in str(error.value)


def test_an_int_passes_for_a_float():
    config.check(schedules.Constant(peak=1))


def test_parts_of_ones_own_are_parts():
    varied = config.check(config.vary(MODEL, {'norm': Own(strength=2.0)}))
    assert config.from_json(json.loads(json.dumps(config.to_json(varied)))) == varied


def test_json_gives_the_config_back():
    for made in (MODEL, decoder.LLAMA3_8B, optimizers.Muon(schedule=schedules.InverseSqrt(peak=1e-3, warmup_steps=10))):
        assert config.from_json(json.loads(json.dumps(config.to_json(made)))) == made


def test_json_with_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(config.InputError, match="Gated has no field 'hiden'"):
        config.from_json({'class': 'bigmodel_jax.layers.ffn:Gated', 'hiden': 3})


def test_json_with_a_missing_field_is_refused():
    with pytest.raises(config.InputError, match='needs a value for hidden'):
        config.from_json({'class': 'bigmodel_jax.layers.ffn:Gated'})


@pytest.mark.parametrize(
    'name',
    [
        'os:system',
        'subprocess:Popen',
        'bigmodel_jax.config:check',
        'bigmodel_jax.layers.ffn:MlpModule',
        'bigmodel_jax.layers.ffn:activations',
        'bigmodel_jax.layers...os:system',
        'bigmodel_jax.../../evil:Part',
        'not_loaded_yet_evil:Part',
        'bigmodel_jax.layers.ffn:',
        '',
        f'{__name__}:Stranger',
    ],
)
def test_json_cannot_name_anything_but_configs(name, tmp_path, monkeypatch):
    (tmp_path / 'not_loaded_yet_evil.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(config.InputError):
        config.from_json({'class': name})
    assert not (tmp_path / 'ran').exists()
    assert 'not_loaded_yet_evil' not in sys.modules


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(config.InputError, match='cannot be part of a config'):
        config.to_json(dataclasses.replace(MODEL, norm=pathlib.Path('x')))


def test_vary_changes_only_what_it_says():
    varied = config.vary(MODEL, {'block.mixer.heads': 2, 'width': 32})
    assert (varied.block.mixer.heads, varied.width) == (2, 32)
    assert [each.path for each in config.difference(MODEL, varied)] == ['width', 'block.mixer.heads']
    assert config.vary(varied, {'block.mixer.heads': 4, 'width': 16}) == MODEL


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('widht', "widht: Decoder has no field 'widht'. Did you mean 'width'?"),
        ('block.mixr.heads', "block.mixr: Block has no field 'mixr'. Did you mean 'mixer'?"),
        ('width.x', 'width is 16, which has no fields; set width itself'),
        ('block.cross.heads', 'block.cross is None, which has no fields'),
    ],
)
def test_a_misspelt_path_is_named_with_the_nearest(path, message):
    with pytest.raises(config.InputError) as error:
        config.vary(MODEL, {path: 1})
    assert message in str(error.value)


def test_vary_remembers_where_a_value_came_from():
    varied = settings.parse_settings(config.vary(MODEL, {'block': MODEL.block, 'width': 32}), ['layers=3'])
    assert config.origin_of(varied, 'layers') == '--set layers=3'
    assert config.origin_of(varied, 'block.mixer.heads').startswith('test_config.py:')
    assert config.origin_of(varied, 'vocab') is None


def test_difference_of_tuples_of_different_length():
    found = config.difference((1, 2), (1, 2, 3))
    assert [str(each) for each in found] == ['2: (absent) -> 3']


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('-1e-3', -1e-3),
        ('None', None),
        ('(1, 2)', (1, 2)),
        ("'3'", '3'),
        ('bfloat16', 'bfloat16'),
        ('data/input.txt', 'data/input.txt'),
        ('gs://bucket/x', 'gs://bucket/x'),
        ('/a b/c', '/a b/c'),
        ('Gated(hidden=8)', ffn.Gated(hidden=8)),
        ('ffn.Mlp(hidden=8, activation=Relu())', ffn.Mlp(hidden=8, activation=ffn.activations.Relu())),
    ],
)
def test_values_of_set(text, value):
    assert settings.parse_value(text) == value


def test_a_class_whose_name_two_have_is_told_by_its_module():
    with pytest.raises(
        config.InputError, match=r'data: Plain may be attention\.Plain or chat_templates\.Plain; write which'
    ):
        settings.parse_value('Plain()', 'data')
    assert settings.parse_value('chat_templates.Plain()') == chat_templates.Plain()


def test_set_builds_configs_only():
    with pytest.raises(config.InputError, match="no configuration class 'Gatd'"):
        settings.parse_value('Gatd(hidden=8)', 'model.block.ffn')
    with pytest.raises(config.InputError, match="no field 'hiden'"):
        settings.parse_value('Gated(hiden=8)', 'model.block.ffn')
    with pytest.raises(config.InputError, match='not of the form path=value'):
        settings.parse_settings(MODEL, ['width'])
    with pytest.raises(config.InputError, match=r"no configuration class 'Xyzzy'\.$"):  # Without a list of hundreds.
        settings.parse_value('Xyzzy()')


def test_a_value_may_name_a_class_of_the_package_that_nothing_imported():
    code = "from bigmodel_jax import settings; print(settings.parse_value('Greedy()'))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'Greedy()\n'
