import dataclasses
import io
import sys

import jax
import jax.numpy as jnp
import pytest
from rich import console

import tiny
from bigmodel_jax import config, settings, tree
from bigmodel_jax.data import preparation_progress
from bigmodel_jax.kernels import ring
from bigmodel_jax.parallel import sharding
from bigmodel_jax.report import describe, show
from bigmodel_jax.train import placement
from runs import run_maker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """A part."""

    size: int = 1
    rate: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """Holds a part whose default differs from the part's own defaults."""

    part: Inner = Inner(size=2)
    parts: tuple[Inner, ...] = ()


def rows(experiment):
    return {row.path: row for row in tree.rows(experiment)}


def test_every_field_is_shown_once():
    found = [row.path for row in tree.rows(run_maker.example())]
    assert len(found) == len(set(found))
    assert {'name', 'model.block.mixer.heads', 'evaluations.0.data.length', 'checkpoints.keep_last'} <= set(found)


def test_default_is_that_of_the_holder():
    assert [row.origin for row in tree.rows(Outer())] == [None] * 4
    assert rows(Outer(part=Inner(size=1)))['part.size'].origin == tree.FILE
    assert rows(Outer(part=Inner(size=2, rate=1.0)))['part.size'].origin is None
    assert rows(Outer(parts=(Inner(), Inner(size=3))))['parts.1.size'].origin == tree.FILE


def test_origin_is_the_last_that_changed_it():
    base = run_maker.example()
    varied = settings.parse_settings(config.vary(base, {'model.width': 64}), ['optimizer.schedule.peak=0.1'])
    found = rows(varied)
    assert found['model.width'].origin.startswith('test_show.py:')
    assert found['optimizer.schedule.peak'].origin == '--set optimizer.schedule.peak=0.1'
    assert found['model.layers'].origin == tree.FILE
    assert found['seed'].origin is None


def test_plain_where_there_is_no_terminal():
    stream = io.StringIO()
    console.Console(file=stream, width=40).print(tree.render(run_maker.example()), soft_wrap=True)
    text = stream.getvalue()
    assert '\x1b' not in text
    assert len(text.splitlines()) == 1 + len(tree.rows(run_maker.example()))
    assert '    width = 128 ' in text
    assert 'seed = 0' not in tree.render(run_maker.example(), only_changed=True).plain


# ---- how attention is computed ----------------------------------------------------------------------------------


def test_one_line_says_how_attention_is_computed():
    assert show.attention(tiny.experiment()) == ['attention: plain, since a CPU has no fused kernel']


def test_a_line_for_each_way():
    mesh = sharding.MeshShape(data=1, sequence=2, tensor=4)
    changes = {'mesh': mesh, 'model.block.mixer.kernel': ring.Ring()}
    forced = config.vary(tiny.experiment(), changes)
    assert show.attention(forced) == ['attention: ring of 2 (CPU, causal), as attention.kernel says']
    dropped = config.vary(forced, {'model.block.mixer.dropout': 0.1})
    assert show.attention(dropped) == [
        'attention: it cannot run here, since attention.kernel=Ring() cannot compute this attention, since ring '
        'attention has no dropout. Leave attention.kernel out, and `show` says what is used instead and why.'
    ]


def test_a_mesh_that_is_not_here():
    (line,) = show.attention(config.vary(tiny.experiment(), {'mesh': sharding.MeshShape(data=16)}))
    assert line.startswith('attention: it cannot run here, since mesh data 16 needs 16 devices')


# ---- describe ---------------------------------------------------------------------------------------------------


@pytest.fixture
def state():
    place = sharding.MeshShape(data=2, fsdp=2, tensor=2).build()
    shapes = {
        'matrix': jax.ShapeDtypeStruct((512, 2048), jnp.float32),
        'table': jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16),
        'step': jax.ShapeDtypeStruct((), jnp.int32),
    }
    axes = {'matrix': ('embed', 'hidden'), 'table': ('length', None), 'step': ()}
    return place, shapes, axes, placement.tree_shardings(place, shapes, axes)


def test_bytes_are_those_that_jax_allocates(state):
    place, shapes, axes, shardings = state
    arrays = jax.tree.map(lambda s, where: jax.device_put(jnp.zeros(s.shape, s.dtype), where), shapes, shardings)
    for row in describe.rows(shapes, axes, shardings):
        array = arrays[row.path]
        assert row.size_bytes == array.nbytes
        assert {shard.data.nbytes for shard in array.addressable_shards} == {row.device_bytes}
        assert row.copies * row.size_bytes == row.device_bytes * place.mesh.size


def test_rows_say_where_arrays_lie(state):
    _, shapes, axes, shardings = state
    found = {row.path: row for row in describe.rows(shapes, axes, shardings)}
    assert (found['matrix'].axes, found['matrix'].spec, found['matrix'].copies) == (
        ('embed', 'hidden'),
        ('fsdp', 'tensor'),
        2,
    )
    assert (found['table'].spec, found['table'].copies) == ((None, None), 8)
    assert describe.rows(shapes, None, shardings)[0].axes is None


def test_large_replicated_arrays_are_warned_of(state):
    _, shapes, axes, shardings = state
    groups = {'parameters': describe.rows(shapes, axes, shardings), 'optimizer state': []}
    # The table is 2 MiB in bfloat16; the step is replicated too, but small.
    assert describe.replicated(groups) == [
        'parameters/matrix, 4 MiB: 2 copies, split over fsdp, tensor only',
        'parameters/table, 2 MiB: 8 copies, split over nothing',
    ]
    stream = io.StringIO()
    console.Console(file=stream, width=40).print(describe.render(groups), soft_wrap=True)
    assert 'WARNING' in stream.getvalue()
    assert '2,097,153 numbers in 3 arrays' in stream.getvalue()
    (line,) = [line for line in stream.getvalue().splitlines() if line.startswith('  matrix ')]
    cells = [
        'matrix',
        '512',
        'x',
        '2048',
        'float32',
        'embed,',
        'hidden',
        'fsdp,',
        'tensor',
        '4',
        'MiB',
        '1',
        'MiB',
        '2',
    ]
    assert line.split() == cells


def test_one_device_holds_no_copies():
    place = sharding.MeshShape(data=1).build()
    shapes = {'w': jax.ShapeDtypeStruct((2048, 2048), jnp.float32)}
    found = describe.rows(shapes, {'w': (None, None)}, placement.tree_shardings(place, shapes, {'w': (None, None)}))
    assert describe.replicated({'parameters': found}) == []


def test_an_experiment_prints_as_a_tree_and_a_notebook_gets_it_escaped():
    experiment = config.vary(tiny.experiment(), {'name': '<script>'})
    lines = repr(experiment).splitlines()
    assert len(lines) == 1 + len(tree.rows(experiment))
    assert '<script>' not in experiment._repr_html_()
    assert '&lt;script&gt;' in experiment._repr_html_()


def test_progress_is_no_error_in_a_notebook(monkeypatch, capsys):
    preparation_progress.say('outside')
    monkeypatch.setitem(sys.modules, 'ipykernel', sys)
    preparation_progress.say('within')
    assert (capsys.readouterr()) == ('within\n', 'outside\n')
