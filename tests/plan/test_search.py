"""The search finds what brute force finds, in the same order every time."""

import planned

from bigmodel_jax import config
from bigmodel_jax.optim import gradients
from bigmodel_jax.plan import analytic, request, roofline, search
from bigmodel_jax.plan.hardware import slices

SPACE = search.Space(policies=('none', 'full'), microbatches=(1, 2))


def test_search_is_brute_force():
    experiment, on = planned.experiment(), slices.parse('v5e:2x2')
    times = []
    for mesh in request.meshes(on, search.AXES):
        for parts in SPACE.microbatches:
            for remat in SPACE.policies:
                changes = {f'mesh.{axis}': size for axis, size in mesh.items()}
                varied = config.vary(
                    experiment, {**changes, 'gradients': gradients.in_parts(parts), 'model.stack.remat': remat}
                )
                found = analytic.program(varied, on)
                times.append(roofline.step_time(found.counts, on, found.mesh).seconds)
    result = search.search(experiment, [on], SPACE)
    assert [choice.time.seconds for choice in result.ranked] == sorted(times)
    assert result == search.search(experiment, [on], SPACE)


def test_illegal_meshes_are_listed_with_the_reason():
    result = search.search(planned.experiment(), [slices.parse('v5e:4x4')], SPACE)
    assert any('a mesh axis of 2, 8' in line for line in result.skipped)
    assert all(choice.mesh['tensor'] in (1, 4, 16) for choice in result.ranked)
