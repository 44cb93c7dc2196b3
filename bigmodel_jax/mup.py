"""muP, the parametrization in which the best learning rate and the size of activations do not depend on the width.

apply() changes an experiment as table 8 of Yang et al. (2022), "Tensor Programs V", arXiv:2203.03466, says, relative to
a base experiment that differs from it in the width alone. Nothing else knows of muP: the result is an experiment whose
initializers, output multiple, attention scale and parameter groups say it all. With m = width / base width:

                        embeddings, biases, norms     output matrix      hidden matrices
  initial deviation     as at the base width          as at the base     as at the base, / sqrt(m)
  multiple              1                             1 / m              1
  rate, AdamW, Lion     1                             1                  1 / m
  rate, SGD             m                             m                  1
  rate, Muon            1 (by Adam)                   1 (by Adam)        1 / sqrt(m)

Table 8 and not the equivalent table 3, because it holds for tied embeddings too, where one matrix is both. Muon's rate
is not in their table: scaled to the root mean square of Adam's, its update of a matrix has a spectral norm that grows
with sqrt(m), while muP asks for a constant one (Yang et al., 2023, arXiv:2310.17813, condition 1). Scores of queries
and keys are divided by K and not by sqrt(K) (their definition 4.1). Decoupled weight decay is multiplied by the inverse
of the rate's multiple, so that what decays in a step does not depend on the width, as in their code.

With these multiples every entry of the gradient falls as 1 / m. Whatever a gradient is compared with must fall with it:
AdamW's eps (Everett et al., 2024, arXiv:2407.05872, section 4.3; their code leaves it) and clip_value are divided by m.
clip_norm is left as it is: the norm over the hidden matrices does not depend on the width, but that over tables and
vectors falls as 1 / sqrt(m), so that a wide model is clipped a little less often.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import attention, embeddings, ffn, norms, positions
from bigmodel_jax.layers.base import layer, weights
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.optim import optimizers, parameter_groups

MODELS = (decoder.Decoder, seq2seq.Seq2Seq)
OPTIMIZERS = (optimizers.AdamW, optimizers.Lion, optimizers.Muon, optimizers.Sgd)
HIDDEN = (('embed', 'hidden'), ('embed', 'head'))  # The logical axes of the hidden matrices.
TABLES = (('vocab', 'embed'), ('length', 'embed'))
# Fields in which the two models may differ: their sizes, and initializers, whose deviations are compared.
SIZES = frozenset({'width', 'hidden', 'heads', 'kv_heads', 'head_width'})
INITIALIZERS = frozenset({'init', 'out_init', 'output_init'})

Models = tuple[Any, Any]  # The model, and that of the base; both of MODELS.


class _Matrix(NamedTuple):
    """A weight matrix: the initializer that a config gives it, and its inputs and outputs."""

    field: str
    init: weights.Initializer
    fan_in: int
    fan_out: int

    @property
    def deviation(self) -> float:
        return self.init.deviation(self.fan_in, self.fan_out)


def apply(experiment: Experiment, base: Experiment) -> Experiment:
    """The experiment in muP, equal to `base` in the standard parametrization at the width of `base`.

    Where the widths are equal the run is the same to the bit. A learning rate that is best at one width is then about
    the best at others (Yang et al., 2022, figure 1).

    Args:
      experiment: a Decoder or Seq2Seq of Attention and Mlp or Gated, trained by AdamW, Lion, Muon or SGD.
      base: the same at the width from which settings are transferred, mostly a small one: that of the sweep.

    Raises:
      InputError: the experiment has a part for which muP is not defined here, or differs from the base in more than its
        width, or does not grow alike in all its layers.
    """
    _check(experiment, base)
    models: Models = (experiment.model, base.model)
    changes = {}
    for (path, part), (_, small) in zip(*(_parts(each, 'model') for each in models)):
        changes |= {config.join(path, field): value for field, value in _changed(path, part, small, models).items()}
    multiple = models[0].width / models[1].width
    changes |= _thresholds(experiment.optimizer, multiple)
    groups = (*experiment.optimizer.groups, *_groups(experiment, multiple))
    return config.vary(experiment, {**changes, 'optimizer.groups': groups}, origin='mup.apply')


# ---- what is refused ----------------------------------------------------------------------------------------------


def _check(experiment: Experiment, base: Experiment) -> None:
    """Raises InputError, with all that stands against muP in one message."""
    problems = list(_problems(experiment))
    if type(experiment.model) is not type(base.model):
        kinds = [type(each.model).__name__ for each in (experiment, base)]
        problems.append(f'model is a {kinds[0]}, but that of the base a {kinds[1]}')
    elif not problems:
        problems += [f'{each}, which is not a width' for each in _other_differences(experiment, base)]
    if problems:
        raise config.InputError('mup.apply: ' + '; '.join(problems) + '.')


def _problems(experiment: Experiment) -> Iterator[str]:
    optimizer = experiment.optimizer
    known, supported = (', '.join(each.__name__ for each in kinds) for kinds in (OPTIMIZERS, RULES))
    if type(experiment.model) not in MODELS:
        yield f'model is a {type(experiment.model).__name__}, but only Decoder and Seq2Seq are supported'
        return
    if type(optimizer) not in OPTIMIZERS:
        yield f'optimizer is {type(optimizer).__name__}, but only {known} are supported'
    if isinstance(optimizer, optimizers.Sgd) and optimizer.weight_decay:
        yield 'optimizer.weight_decay of Sgd is a part of the gradient, whose scale differs between groups; use 0'
    if experiment.initialization is not None:
        yield 'initialization takes the weights of another run, but muP draws its own; leave it out'
    if any(group.axes in HIDDEN and group.learning_rate_multiple is not None for group in optimizer.groups):
        yield 'optimizer.groups give hidden matrices a learning rate already, as after mup.apply; apply it once'
    for path, part in _parts(experiment.model, 'model'):
        drawn = any(isinstance(value, weights.Initializer) for value in vars(part).values())
        if type(part) not in RULES and (drawn or isinstance(part, (layer.Mixer, ffn.Ffn))):
            yield f'{path} is {type(part).__name__}, but only {supported} are supported'
        if isinstance(part, embeddings.Embedding) and (part.scaled or part.output_scaled):
            yield f'{path} is scaled with the width; use scaled=False and output_scaled=False'


def _other_differences(experiment: Experiment, base: Experiment) -> list[config.Difference]:
    found = config.difference(base.model, experiment.model, 'model')
    return [
        each
        for each in found
        if each.path.rpartition('.')[2] not in SIZES and INITIALIZERS.isdisjoint(each.path.split('.'))
    ]


# ---- initial values and scales ------------------------------------------------------------------------------------


def _parts(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The configs below a config, and itself, without initializers; a path for each."""
    if isinstance(node, weights.Initializer):
        return
    if config.is_config(node):
        yield path, node
    for name, value in config.walk(node):
        if config.is_config(value):
            yield from _parts(value, config.join(path, name))


def _changed(path: str, part: Any, small: Any, pair: Models) -> dict[str, Any]:
    """Field -> its value in muP, of a part of the model and the same part of the base."""
    rule = RULES.get(type(part))
    if rule is None:
        return {}
    model, base = pair
    multiple, found = model.width / base.width, {}
    hidden = isinstance(part, (attention.Attention, ffn.Mlp, ffn.Gated))
    for matrix, of_base in zip(rule(part, model), rule(small, base)):
        if hidden:
            _check_growth(path, (matrix, of_base), pair)
        # The matrices that one field draws are equally much wider, so that they have one factor.
        found[matrix.field] = _scaled(matrix, of_base.deviation * (multiple**-0.5 if hidden else 1.0))
    changes = {}
    for field, init in found.items():
        before = getattr(part, field)
        # A field that is None stands for 'init'.
        if init != (found['init'] if before is None else before):
            changes[field] = init
    return changes | _scales(part, small, pair)


def _check_growth(path: str, matrices: tuple[_Matrix, _Matrix], pair: Models) -> None:
    (matrix, of_base), (width, base_width) = matrices, (each.width for each in pair)
    grown = [(matrix.fan_in, of_base.fan_in), (matrix.fan_out, of_base.fan_out)]
    if any(large * base_width != small * width for large, small in grown):
        raise config.InputError(
            f'mup.apply: {path} has a matrix of {matrix.fan_in} x {matrix.fan_out}, and at the base width of '
            f'{of_base.fan_in} x {of_base.fan_out}; both sides must grow as the width does, from {base_width} to '
            f'{width}. Give the base heads, kv_heads, head_width and hidden in proportion.'
        )


def _scaled(matrix: _Matrix, wanted: float) -> weights.Initializer:
    """The initializer of the matrix, with the deviation `wanted`."""
    # The deviations are products of roots, which are rounded. Both are 0 for a matrix that starts at 0.
    if math.isclose(wanted, matrix.deviation, rel_tol=1e-12):
        return matrix.init
    if not matrix.deviation:
        raise config.InputError(
            f'mup.apply: {matrix.field} is 0 here, but has a deviation of {wanted:g} at the base width; give both the '
            'same initializer.'
        )
    return weights.Times(init=matrix.init, factor=wanted / matrix.deviation)


def _scales(part: Any, small: Any, pair: Models) -> dict[str, Any]:
    """The scale of the scores, and the multiple of the output."""
    model, base = pair
    if isinstance(part, embeddings.Embedding):
        return {'output_multiple': part.output_multiple * base.width / model.width}
    if not isinstance(part, attention.Attention):
        return {}
    head, base_head = part.width_of_head(model.width), small.width_of_head(base.width)
    if part.scores.scale is None:
        return {'scores': attention.InverseWidth(base_head_width=base_head, soft_cap=part.scores.soft_cap)}
    if head != base_head:
        raise config.InputError(
            f'mup.apply: attention has scores.scale={part.scores.scale:g} for heads of {head} channels, and of '
            f'{base_head} at the base width; leave scores.scale out, or keep the width of the heads.'
        )
    return {}


def _attention(part: attention.Attention, model: Any) -> list[_Matrix]:
    width = model.width
    head = part.width_of_head(width)
    wide, narrow = part.heads * head, (part.kv_heads or part.heads) * head
    return [
        _Matrix('init', part.init, width, wide),
        _Matrix('init', part.init, width, narrow),
        _Matrix('out_init', part.out_init or part.init, wide, width),
    ]


def _feed_forward(part: ffn.Mlp | ffn.Gated, model: Any) -> list[_Matrix]:
    return [
        _Matrix('init', part.init, model.width, part.hidden),
        _Matrix('out_init', part.out_init or part.init, part.hidden, model.width),
    ]


def _embedding(part: embeddings.Embedding, model: Any) -> list[_Matrix]:
    # The table is drawn as a matrix with the width as its inputs, like the output matrix.
    table = _Matrix('init', part.init, model.width, model.vocab)
    return [table] if part.tied else [table, table._replace(field='output_init', init=part.output_init or part.init)]


def _learned(part: positions.Learned, model: Any) -> list[_Matrix]:
    return [_Matrix('init', part.init, part.length, model.width)]


RULES: dict[type, Any] = {
    attention.Attention: _attention,
    ffn.Mlp: _feed_forward,
    ffn.Gated: _feed_forward,
    embeddings.Embedding: _embedding,
    positions.Learned: _learned,
}


# ---- learning rates -----------------------------------------------------------------------------------------------


def _thresholds(optimizer: optimizers.Optimizer, multiple: float) -> dict[str, float]:
    """The settings that entries of the gradient are compared with."""
    found = {'optimizer.eps': optimizer.eps / multiple} if isinstance(optimizer, optimizers.AdamW) else {}
    if optimizer.clip_value is not None:
        found['optimizer.clip_value'] = optimizer.clip_value / multiple
    return found if multiple != 1 else {}


def _groups(experiment: Experiment, multiple: float) -> Iterator[parameter_groups.Group]:
    """The groups of parameters whose rate is another than the schedule's."""
    optimizer = experiment.optimizer
    if isinstance(optimizer, optimizers.Sgd):
        yield from _wide_vectors(experiment, multiple)
        return
    rate = multiple**-0.5 if isinstance(optimizer, optimizers.Muon) else 1 / multiple
    decay = 1 / rate if optimizer.weight_decay else None
    for axes in HIDDEN:
        yield parameter_groups.Group(axes=axes, learning_rate_multiple=rate, weight_decay_multiple=decay)


def _wide_vectors(experiment: Experiment, multiple: float) -> Iterator[parameter_groups.Group]:
    """For SGD: tables, biases and the scales of norms, which grow along one axis alone."""
    parts = [part for _, part in _parts(experiment.model, 'model')]
    learned = any(isinstance(part, positions.Learned) for part in parts)
    for axes in TABLES if learned else TABLES[:1]:
        yield parameter_groups.Group(axes=axes, learning_rate_multiple=multiple)
    if any(isinstance(part, (norms.LayerNorm, norms.RmsNorm)) for part in parts):
        yield parameter_groups.Group(match='*scale', learning_rate_multiple=multiple)
    if any(getattr(part, 'bias', False) is True for part in parts):
        # That of the output does not grow: it has one entry for each token.
        of_output = any(isinstance(part, embeddings.Embedding) and part.output_bias for part in parts)
        without = ('*output_bias',) if of_output else ()
        yield parameter_groups.Group(match='*bias', without=without, learning_rate_multiple=multiple)
