"""The framework's side of a model: an experiment, and its step with a state and a batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import sizes

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step

RECIPE = sizes.Recipe()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomTokens(batches.Data):
    """Rows of random tokens, each its own target."""

    batch: int
    length: int
    vocab: int

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((self.length,), np.dtype(np.int32), ('length',), self.vocab)
        return {'inputs': tokens, 'targets': tokens}

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)


def model(size: sizes.Size) -> decoder.Decoder:
    shared = {'vocab': size.vocab, 'width': size.width, 'layers': size.layers, 'heads': size.heads}
    if size.kv_heads is None:
        no_bias = dict.fromkeys(('block.mixer.bias', 'block.ffn.bias', 'block.residual.norm.bias', 'norm.bias'), False)
        return vary(decoder.gpt(**shared, length=size.length), {**no_bias, 'block.ffn.hidden': size.hidden})
    llama = decoder.llama(**shared, kv_heads=size.kv_heads, hidden=size.hidden, rope_base=500_000.0)
    return vary(llama, {'embedding.tied': True})


def experiment(size: sizes.Size, *, dtype: str = 'bfloat16') -> Experiment:
    """The whole state in float32; products in `dtype`; nothing is computed again in the backward pass."""
    return Experiment(
        name='gpu',
        steps=1_000,
        data=RandomTokens(batch=size.rows, length=size.length, vocab=size.vocab),
        model=vary(model(size), {'dtype': dtype}),
        # Logits of a few thousand tokens at a time: an accelerator of many gigabytes need not cut them finer.
        objective=language.LanguageModel(logits_mib=2_048),
        optimizer=optimizers.AdamW(
            schedule=schedules.Constant(peak=RECIPE.rate),
            b1=RECIPE.b1,
            b2=RECIPE.b2,
            weight_decay=RECIPE.decay,
            clip_norm=RECIPE.clip,
        ),
        mesh=sharding.MeshShape(data=1),
    )


class Training(NamedTuple):
    """A step that is not compiled yet, and its arguments."""

    update: Callable[[Any, Any], tuple[Any, Any]]
    state: Any
    batch: dict[str, jax.Array]
    place: sharding.ShardingContext
    spec: state.StateSpec


def training(asked: Experiment, tokens: np.ndarray) -> Training:
    place = asked.mesh.build()
    with sharding.use(place):
        spec = state.specify(asked, place)
        weights = np.ones(len(tokens), np.float32)
        rows = {'inputs': tokens, 'targets': tokens, batches.EXAMPLE_WEIGHTS: weights}
        batch = place.put_batch(rows, len(tokens))
        return Training(step.compile_step(asked, spec, place), spec.init(), batch, place, spec)
