"""The page holds the numbers of the plan and loads nothing."""

import itertools
import json

import planned

from bigmodel_jax import verbs
from bigmodel_jax.plan import page
from bigmodel_jax.plan.hardware import slices


def test_page_and_json_are_written(tmp_path):
    found = verbs.plan(planned.experiment(mesh__fsdp=4), [slices.parse('v5e:4x4')], fast=True)
    text = page.write(found, tmp_path).read_text()
    assert 'src=' not in text
    assert '<script' not in text
    data = json.loads((tmp_path / page.JSON).read_text())
    assert data[0]['program']['memory']['peak'] == found[0].program.memory.peak
    assert data[0]['program']['source'] == 'analytic'


def test_bars_of_the_waterfall_join():
    (plan,) = verbs.plan(planned.experiment(), [slices.parse('v5e:4x4')], fast=True)
    *parts, total = page.waterfall(plan).bars
    for before, after in itertools.pairwise(parts):
        assert after.x >= before.x
    assert total.width >= max(part.width for part in parts)


def test_a_tile_says_which_axis_cuts_which_dimension():
    (plan,) = verbs.plan(planned.experiment(mesh__fsdp=4, mesh__tensor=4), [slices.parse('v5e:4x4')], fast=True)
    cuts = {tile.name: tile.cuts for tile in (page.tile(array, plan.program.mesh) for array in plan.arrays)}
    assert any('hidden 1,536 by tensor 4' in line for lines in cuts.values() for line in lines)
