"""Where the initial weights of a run come from, when not all are random: fine-tuning, or a second phase."""

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from bigmodel_jax import config

# Path of a parameter ('blocks.layers.ffn.up'), or of state of the model (see STATE) -> shape, dtype, sharding.
Wanted = Mapping[str, jax.ShapeDtypeStruct]
SHOWN = 4  # Paths that a sentence names.
# Arrays that are state of the model and no parameters, such as the statistics of batch norm, have paths that begin so:
# 'model_state.batch_stats.backbone.stem_norm.mean'.
STATE = 'model_state.'
ADAPTER = '_lora'  # What the adapter of the weight 'query' is called: 'query_lora'.


def stored_name(path: str) -> str:
    """What an array is called in a checkpoint."""
    return path if path.startswith(STATE) else f'params.{path}'


def path_of(stored: str) -> str | None:
    """The path of an array of a checkpoint; None where it is neither a parameter nor state of the model."""
    if stored.startswith(STATE):
        return stored
    return stored.removeprefix('params.') if stored.startswith('params.') else None


class ResolvedWeights(NamedTuple):
    """What a source of weights gives."""

    arrays: dict[str, jax.Array]  # By path, as they were wanted; what is missing here is initialized at random.
    origin: dict[
        str, Any
    ]  # JSON-ready: what they are, with a digest, so that a repetition can tell whether it had them.


class Initialization:
    """Interface of the configs that give a run initial weights.

    A run that has a checkpoint of its own resumes from it instead.
    """

    def check(self, wanted: Wanted) -> None:
        """Raises InputError if read() would; reads no array."""
        raise NotImplementedError

    def check_tokenizer(self, fingerprint: Mapping[str, Any], by_id: Wanted) -> None:
        """Raises InputError if weights that belong to token ids were trained with another tokenizer; by default never.

        Args:
          fingerprint: of the tokenizer of the run.
          by_id: the parameters that have an entry for each token id, such as 'embedding.table'.
        """

    def read(self, wanted: Wanted) -> ResolvedWeights:
        """The parameters that the source has, in the shapes, dtypes and shardings of `wanted`.

        Raises:
          InputError: there is no such source, it is damaged, it has none of them, or one of another shape.
        """
        raise NotImplementedError


def match(
    wanted: Wanted, there: Mapping[str, tuple[int, ...]], *, without: tuple[str, ...], where: str
) -> tuple[str, ...]:
    """The paths to take from a source: those that both sides have.

    Args:
      there: path -> shape, of the source.
      without: patterns of paths that keep their random initialization, such as 'embedding.positions.*'.
      where: the source, for people.

    Raises:
      InputError: a pattern matches nothing, nothing is left, a shape differs, or adapters would be lost.
    """
    lost = [path for path in there if f'{ADAPTER}.' in path and path not in wanted]
    if lost:
        raise config.InputError(
            f'initialization: {where} has adapters ({listed(lost)}), but this model has none there, so that what they '
            'learned would be lost. Give the experiment the same adapter; or begin with the merged model: convert RUN '
            'DIR --merge, then initialization=finetuning.Weights(path=DIR).'
        )
    idle = [pattern for pattern in without if not fnmatch.filter(wanted, pattern)]
    if idle:
        raise config.InputError(
            f'initialization.without: no parameter of the model matches {idle[0]!r}.{config.nearest(idle[0], wanted)}'
        )
    left_out = {path for pattern in without for path in fnmatch.filter(wanted, pattern)}
    common = tuple(path for path in wanted if path in there and path not in left_out)
    if not common:
        raise config.InputError(
            f'initialization: {where} has none of the parameters of this model. It has {listed(sorted(there))}; the '
            f'model has {listed(sorted(wanted))}.'
        )
    other = [path for path in common if tuple(there[path]) != tuple(wanted[path].shape)]
    if other:
        lines = [f'  {path}: {list(there[path])} there, {list(wanted[path].shape)} here' for path in other]
        raise config.InputError(
            f'initialization: {where} has parameters of other shapes:\n'
            + '\n'.join(lines[:8])
            + f'\nUse a model of the same sizes, or initialize them at random: initialization.without=({other[0]!r},).'
        )
    return common


def listed(names: list[str]) -> str:
    """The first few of some names."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more if names else 'nothing'
