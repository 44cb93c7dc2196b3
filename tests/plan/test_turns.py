"""Layers that take turns are planned as what they are: of one kind, they cost what the plain stack costs."""

import planned
import pytest

from bigmodel_jax import config
from bigmodel_jax.plan import analytic
from bigmodel_jax.plan.hardware import slices

# Every kind of formula: weights that are gathered, products cut over a tensor axis, and cut rows.
MESH = {'mesh__fsdp': 4, 'mesh__tensor': 4, 'mesh__sequence': 4}


def program(model=None):
    experiment = planned.experiment(**MESH)
    experiment = experiment if model is None else config.vary(experiment, {'model': model})
    return analytic.program(experiment, slices.parse('v5p:4x4x4'))


def said(found):
    """Bytes that each kind of collective moves in a step."""
    totals = {}
    for each in found.counts.collectives:
        totals[each.kind] = totals.get(each.kind, 0) + each.bytes * each.times
    return totals


def test_turns_of_one_kind_cost_what_the_plain_stack_costs():
    plain = planned.experiment(**MESH).model
    expected, found = program(), program(config.vary(plain, {'interleaved': (plain.block,)}))
    assert found.memory.parameters == expected.memory.parameters
    assert found.memory.saved == pytest.approx(expected.memory.saved, rel=0.01)
    assert found.memory.temporaries == pytest.approx(expected.memory.temporaries, rel=0.05)
    assert found.counts.matmul_flops == pytest.approx(expected.counts.matmul_flops, rel=0.01)
    assert said(found) == pytest.approx(said(expected), rel=0.01)
