"""Optimizers: configs over Optax, each with its schedule, clipping and the weights it decays."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import optax

from bigmodel_jax import bounds, config
from bigmodel_jax.optim import masks, parameter_groups, schedules

PyTree = Any

ClipNorm = Annotated[
    config.PositiveFloat,
    bounds.Advice('0 would scale every gradient to 0. Use None for no clipping, which is what 0 means in nanoGPT.'),
]
ClipValue = Annotated[
    config.PositiveFloat, bounds.Advice('0 would make every gradient 0. Use None for no clipping by value.')
]


class Optimizer:
    """Interface of the optimizer configs."""

    schedule: schedules.Scheduler
    clip_norm: float | None  # The gradient is scaled down to this global norm (Pascanu et al., 2012, algorithm 1).
    # Each element of the gradient is first limited to [-clip_value, clip_value]; clip_norm applies to what remains.
    clip_value: float | None = None
    weight_decay: float = 0.0
    decoupled: ClassVar[bool] = True  # Weights decay by rate x weight_decay, apart from the gradient.
    groups: tuple[parameter_groups.Group, ...] = ()  # What is frozen, decayed, or trained at another rate.

    def rule(self, rate: schedules.Schedule, parameters: parameter_groups.Assigned) -> optax.GradientTransformation:
        """The update rule at learning rate `rate`.

        Args:
          parameters: the trained parameters, and what holds for each.
        """
        raise NotImplementedError

    def assign(self, axes: PyTree, *, frozen: Sequence[str] = ()) -> parameter_groups.Assigned:
        """What the groups say of the parameters whose logical axes are `axes`.

        Args:
          frozen: paths of parameters that cannot be trained, whatever the groups say.

        Raises:
          InputError: they do not fit the parameters or one another.
        """
        weighted = [each for each in self.groups if each.weight_decay_multiple is not None]
        unused = [each for each in self.groups if (each.decay or each in weighted) and not self.weight_decay]
        if unused:
            raise config.InputError(
                f'optimizer.groups: {config.format_value(unused[0])} has no effect with optimizer.weight_decay='
                f'{self.weight_decay}; set a weight decay.'
            )
        if weighted and not self.decoupled:
            raise config.InputError(
                f'optimizer.groups: {config.format_value(weighted[0])}: the decay of {type(self).__name__} is a part '
                'of the gradient and has no multiple; leave weight_decay_multiple out.'
            )
        fixed = [parameter_groups.Group(match=path, frozen=True) for path in frozen]
        return parameter_groups.assign([*self.groups, *fixed], axes)

    def build(self, steps: int, assigned: parameter_groups.Assigned) -> optax.GradientTransformation:
        """The whole transformation of gradients into updates, for a run of `steps` updates.

        Args:
          assigned: what assign() gives for the parameters.
        """
        rate, by_decay = self.schedule.build(steps), assigned.by_decay()
        rule = self.rule(rate, by_decay.pop(1.0))
        for multiple, of_multiple in by_decay.items():
            rule = optax.chain(rule, decay(rate, multiple * self.weight_decay, of_multiple))
        by_value = [] if self.clip_value is None else [optax.clip(self.clip_value)]
        by_norm = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        clipping = by_value + by_norm
        rule = optax.chain(*clipping, rule) if clipping else rule
        return parameter_groups.only_trained(rule, assigned)


def decay(
    rate: schedules.Schedule, weight_decay: float, parameters: parameter_groups.Assigned
) -> optax.GradientTransformation:
    """Takes rate x weight_decay of each matrix and table away from it; stands after the updates were given their sign.

    For rules of Optax whose own decay is another: Adafactor's leaves out the rate, Muon's does not spare the vectors.
    """
    return optax.add_decayed_weights(lambda step: -weight_decay * rate(step), mask=parameters.decayed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter (2017), arXiv:1711.05101, algorithm 2."""

    schedule: schedules.Scheduler
    b1: config.Probability = 0.9
    b2: config.Probability = 0.999
    eps: config.PositiveFloat = 1e-8
    weight_decay: config.Rate = 0.0  # Times the learning rate, on matrices and tables.
    clip_norm: ClipNorm | None = None
    clip_value: ClipValue | None = None
    groups: tuple[parameter_groups.Group, ...] = ()
    # Of the mean of the gradients; bfloat16 saves 2 bytes for each parameter. The mean of their squares stays float32:
    # in one step it moves by 1 - b2, often less than the 2^-9 that bfloat16 rounds away, and so would stand still.
    momentum_dtype: Literal['float32', 'bfloat16'] = 'float32'

    def rule(self, rate: schedules.Schedule, parameters: parameter_groups.Assigned) -> optax.GradientTransformation:
        decay, mask = self.weight_decay, parameters.decayed
        return optax.adamw(
            rate,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            mu_dtype=self.momentum_dtype,
            weight_decay=decay,
            mask=mask,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adam whose second moments are stored by rows and columns. Source: Shazeer and Stern (2018), arXiv:1804.04235."""

    schedule: schedules.Scheduler
    decay_rate: config.Probability = 0.8
    momentum: config.Probability | None = None
    relative: bool = True  # The step is relative to the size of the weights (their section 8).
    smallest: config.Positive = 128  # Matrices with a shorter side keep all their second moments, as in T5's code.
    weight_decay: config.Rate = 0.0  # As in AdamW.
    clip_norm: ClipNorm | None = None
    clip_value: ClipValue | None = None
    groups: tuple[parameter_groups.Group, ...] = ()

    def rule(self, rate: schedules.Schedule, parameters: parameter_groups.Assigned) -> optax.GradientTransformation:
        updates = optax.adafactor(
            rate,
            min_dim_size_to_factor=self.smallest,
            decay_rate=self.decay_rate,
            momentum=self.momentum,
            multiply_by_parameter_scale=self.relative,
        )
        return optax.chain(updates, decay(rate, self.weight_decay, parameters))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """The sign of an interpolated momentum. Source: Chen et al. (2023), arXiv:2302.06675, program 1."""

    schedule: schedules.Scheduler
    b1: config.Probability = 0.9
    b2: config.Probability = 0.99
    weight_decay: config.Rate = 0.0
    clip_norm: ClipNorm | None = None
    clip_value: ClipValue | None = None
    groups: tuple[parameter_groups.Group, ...] = ()

    def rule(self, rate: schedules.Schedule, parameters: parameter_groups.Assigned) -> optax.GradientTransformation:
        return optax.lion(rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay, mask=parameters.decayed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum; its decay is added to the gradient (L2)."""

    schedule: schedules.Scheduler
    decoupled: ClassVar[bool] = False
    momentum: config.Probability = 0.9
    nesterov: bool = False
    weight_decay: config.Rate = 0.0
    clip_norm: ClipNorm | None = None
    clip_value: ClipValue | None = None
    groups: tuple[parameter_groups.Group, ...] = ()

    def rule(self, rate: schedules.Schedule, parameters: parameter_groups.Assigned) -> optax.GradientTransformation:
        penalty = optax.add_decayed_weights(self.weight_decay, mask=parameters.decayed)
        return optax.chain(penalty, optax.sgd(rate, momentum=self.momentum or None, nesterov=self.nesterov))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Orthogonalised momentum for hidden matrices, Adam for the rest.

    Source: Jordan et al. (2024), Muon; scaled to the size of Adam's updates as in Liu et al. (2025), arXiv:2502.16982.
    """

    schedule: schedules.Scheduler
    momentum: config.Probability = 0.95
    b1: config.Probability = 0.9  # Adam's.
    b2: config.Probability = 0.95
    rms: config.PositiveFloat = 0.2  # Root mean square of an update, as Adam's is in practice (their section 2.2).
    weight_decay: config.Rate = 0.0
    clip_norm: ClipNorm | None = None
    clip_value: ClipValue | None = None
    groups: tuple[parameter_groups.Group, ...] = ()

    def rule(self, rate: schedules.Schedule, parameters: parameter_groups.Assigned) -> optax.GradientTransformation:
        updates = optax.contrib.muon(
            rate,
            beta=self.momentum,
            adam_b1=self.b1,
            adam_b2=self.b2,
            muon_weight_dimension_numbers=masks.orthogonalised(parameters.axes),
            consistent_rms=self.rms,
        )
        return optax.chain(updates, decay(rate, self.weight_decay, parameters))
