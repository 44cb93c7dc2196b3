"""What a step becomes on NVIDIA GPUs, without one: lowered for CUDA by jax.export."""

import collections
import re
from typing import Any

import jax
import jax_side
import sizes
from jax import export
from jax._src.cudnn import fused_attention_stablehlo as cudnn_lowering  # There is no other way to name the version.

from bigmodel_jax.data import batches
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step

# Of the releases of nvidia-cudnn-cu13 that jax 0.10 to 0.12 ask for; which shapes are supported depends on it.
CUDNN_VERSION = 91_300
TARGETS = re.compile(r'custom_call @"?([\w$.]+)')


def for_cuda() -> dict[str, Any]:
    """The custom calls of a training step of each kind of decoder in bfloat16, with how often they occur.

    Raises:
      SystemExit: the attention of one is not cuDNN's.
    """
    cudnn_lowering.check_cudnn_version = lambda: CUDNN_VERSION
    found = {}
    for name in ('gpt2_124m', 'llama_1b'):
        calls = _calls(sizes.SIZES[name])
        if not any('fmha' in each for each in calls) or not any('Backward' in each for each in calls):
            raise SystemExit(f'{name}: no fused attention among {sorted(calls)}.')
        found[name] = calls
    return found


def _calls(size: sizes.Size) -> dict[str, int]:
    asked = jax_side.experiment(size)
    place = asked.mesh.abstract(1, 'gpu')
    with sharding.use(place):
        spec = state.specify(asked, place)
        batch = {
            name: jax.ShapeDtypeStruct((size.rows, *field.shape), field.dtype)
            for name, field in batches.batch_fields(asked.data.fields).items()
        }

        def update(current: Any, batch: Any) -> Any:
            return step.train_step(current, batch, spec=spec, experiment=asked)

        allowed = [export.DisabledSafetyCheck.custom_call(name) for name in _names()]
        exported = export.export(jax.jit(update), platforms=['cuda'], disabled_checks=allowed)(spec.abstract, batch)
    return dict(collections.Counter(TARGETS.findall(exported.mlir_module())))


def _names() -> list[str]:
    """The custom calls of cuDNN's attention, which jax.export does not know as stable."""
    return [f'__cudnn$fmha{kind}{way}' for kind in ('Softmax', 'ScaleBiasSoftmax') for way in ('', 'Backward')]
