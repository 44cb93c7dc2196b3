"""Distillation: a student learns from what a trained teacher answers, beside the targets."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.layers import embeddings
from bigmodel_jax.objectives import classification, language, objective, requirements
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.parallel import sharding

PyTree = Any
RIDGE = 1e-4  # Of the least squares, relative to the mean square of the student's features.


# ---- mathematics ------------------------------------------------------------------------------------------------


def soft_loss(student: jax.Array, teacher: jax.Array, *, temperature: float) -> jax.Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of each prediction, [...] float32 or float64.

    The square keeps the gradient as large as that of the targets, whatever T is: for a large T it becomes that of half
    the squared difference of the centred logits, divided by V.

    Args:
      student, teacher: logits [..., V].

    Source: Hinton et al. (2015), arXiv:1503.02531, section 2.
    """
    log_p = jax.nn.log_softmax(precision.raised(teacher) / temperature, axis=-1)
    log_q = jax.nn.log_softmax(precision.raised(student) / temperature, axis=-1)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def hidden_loss(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean squared difference of hidden states, relative to the teacher's mean square, of each position, [N].

    The student's are first projected to the teacher's by the linear map that fits best in this batch (least squares),
    so that widths may differ and no parameter is added to the model. No gradient passes through that map: at its
    optimum the loss does not change with it to first order.

    Args:
      student: [N, D] of the student.
      teacher: [N, F] of the teacher.
      weights: [N]; positions of weight 0 take no part in the fit.

    Source: Romero et al. (2015), arXiv:1412.6550, equation 3, whose regressor is trained.
    """
    student, teacher = precision.raised(student), precision.raised(teacher)
    x_ND = jax.lax.stop_gradient(student) * weights[:, None]
    y_NF = teacher * weights[:, None]
    square_DD = x_ND.T @ x_ND
    ridge = RIDGE * jnp.trace(square_DD) / x_ND.shape[1] + jnp.finfo(x_ND.dtype).tiny
    map_DF = jnp.linalg.solve(square_DD + ridge * jnp.eye(x_ND.shape[1], dtype=x_ND.dtype), x_ND.T @ y_NF)
    scale = jnp.square(y_NF).sum() / jnp.maximum(jnp.square(weights).sum(), 1.0) / y_NF.shape[1]
    return jnp.square(student @ map_DF - teacher).mean(axis=-1) / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)


# ---- the teacher ------------------------------------------------------------------------------------------------


class Teacher:
    """Interface of the configs that say which trained model is the teacher.

    Its weights are an argument of the step: not in the state of the run, in its optimizer or in its checkpoints.
    """

    def module(self) -> Any:
        """The Flax module of the teacher.

        Raises:
          InputError: there is no such model.
        """
        raise NotImplementedError

    def weights(self, place: sharding.ShardingContext) -> PyTree:
        """(params, model_state) of the teacher, laid out on the mesh as its own experiment's would be."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """JSON-ready: what the weights are, with a digest; recorded with the run and compared when it resumes."""
        raise NotImplementedError


# ---- objective --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(objective.Objective):
    """(1 - soft) x the loss of `base` + soft x soft_loss() + hidden x hidden_loss(), at each position or row.

    The logits of the whole batch are held at once, the student's and the teacher's. An evaluation measures the student
    alone, by `base`: as the same student is measured that was trained without a teacher.
    """

    teacher: Teacher
    base: language.LanguageModel | classification.Classification = language.LanguageModel()
    temperature: config.PositiveFloat = 2.0
    soft: config.Fraction = 0.5
    hidden: config.Rate = 0.0  # Weight of the last hidden states, before the output layer; of language models.

    directions: ClassVar[Mapping[str, Any]] = {'soft_loss': 'lower', 'hidden_loss': 'lower'}

    def __post_init__(self) -> None:
        if not self.soft and not self.hidden:
            raise config.InputError(f'objective: soft=0 and hidden=0 use no teacher; use {type(self.base).__name__}().')
        if self.hidden and isinstance(self.base, classification.Classification):
            raise config.InputError('objective.hidden needs a language model, with features(); of a classifier use 0.')

    @property
    def requires(self) -> requirements.Requirements | None:  # type: ignore[override]
        return self.base.requires

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        if not train:
            return self.base(apply, batch, train=train, rngs=rngs)
        raise config.InputError(
            'objective=Distillation is trained one run at a time, in one program for a step: not with '
            'gradients=FixedOrder, nor with several seeds together.'
        )

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array | None:
        return self.base.per_example(apply, batch, train=train, rngs=rngs)


class Taught(objective.Objective):
    """The objective of a step of a Distillation whose teacher is loaded."""

    def __init__(self, how: Distillation, teacher: objective.Apply):
        self._how, self._teacher = how, teacher

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        how = self._how
        hidden, logits, auxiliary = _read(how.base, apply, batch, train=train, rngs=rngs)
        taught_hidden, taught, _ = _read(how.base, self._teacher, batch, train=False, rngs={})
        if taught.shape != logits.shape:
            raise config.InputError(
                f'objective.teacher gives {taught.shape[-1]:,} logits and the model {logits.shape[-1]:,}; both need '
                'the same vocabulary or classes.'
            )
        of_language = isinstance(how.base, language.LanguageModel)
        weights = objective.position_weights(batch) if of_language else batch['example_weights']
        targets = objective.counted(batch['targets' if of_language else 'labels'], weights)
        hard, nll = language.cross_entropy(logits, targets, label_smoothing=how.base.label_smoothing)
        soft = soft_loss(logits, taught, temperature=how.temperature)
        total = (1.0 - how.soft) * hard + how.soft * soft
        parts = {'nll': nll, 'accuracy': language.hits(logits, targets), 'soft_loss': soft}
        if how.hidden:
            own, other = (each.reshape(-1, each.shape[-1]) for each in (hidden, taught_hidden))
            parts['hidden_loss'] = hidden_loss(own, other, weights.reshape(-1)).reshape(weights.shape)
            total = total + how.hidden * parts['hidden_loss']
        metrics = {name: Mean.weighted(each, weights) for name, each in parts.items()}
        return objective.Outcome.of(Mean.weighted(total, weights), metrics, auxiliary)


def _read(
    base: objective.Objective, apply: objective.Apply, batch: dict[str, jax.Array], **how: Any
) -> tuple[Any, jax.Array, objective.Auxiliary]:
    """The last hidden states of a language model, else None; the logits; and what the layers leave besides."""
    if not isinstance(base, language.LanguageModel):
        outputs, auxiliary = apply(batch, **how)
        return None, outputs['logits'], auxiliary
    (x_BTD, _), auxiliary = apply(batch, **how, method='features')
    head, _ = apply(method='head')
    return x_BTD, embeddings.unembed(x_BTD, head), auxiliary


def teacher_weights(of: objective.Objective, place: sharding.ShardingContext) -> PyTree:
    """What a step takes as an argument besides state and batch: the weights of the teacher; nothing without one."""
    return of.teacher.weights(place) if isinstance(of, Distillation) else ()


def with_teacher(of: objective.Objective, weights: PyTree) -> objective.Objective:
    """The objective within a step that has teacher_weights()."""
    if not isinstance(of, Distillation):
        return of
    return Taught(of, objective.Apply(of.teacher.module(), *weights))
