"""Whether the data, the model, the objective and the evaluations of an experiment fit one another."""

import functools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.experiment import BEST, STOPPING, Experiment
from bigmodel_jax.models import model
from bigmodel_jax.objectives import (
    answer_spans,
    classification,
    language,
    masked,
    objective,
    regression,
    requirements,
    rngs,
)

Fields = Mapping[str, batches.Field]
# What may be proposed in place of an objective that does not fit, if it fits itself.
OBJECTIVES: Mapping[str, objective.Objective] = {
    'Classification()': classification.Classification(),
    'Regression()': regression.Regression(),
    'LanguageModel()': language.LanguageModel(),
    'MaskedLanguageModel()': masked.MaskedLanguageModel(),
    'MaskedLanguageModel(next_sentence=0.0)': masked.MaskedLanguageModel(next_sentence=0.0),
    'AnswerSpans()': answer_spans.AnswerSpans(),
}


class Given(NamedTuple):
    """What there is."""

    model: model.Model
    fields: Fields  # Of a batch.
    outputs: requirements.Outputs  # Of the model for such a batch.

    def problems(self, needed: requirements.Requirements) -> list[str]:
        """What is missing; see Requirements.problems()."""
        return needed.problems(self.model, self.fields, self.outputs)

    def __str__(self) -> str:
        returned = ', '.join(f'{name} {output}' for name, output in self.outputs.items())
        fields = ', '.join(f'{name} {_shown(field)}' for name, field in self.fields.items())
        return f'The model {type(self.model).__name__} returns {returned or "no arrays"}; the data gives {fields}.'


class Directions(NamedTuple):
    """In which direction the metrics are better that the experiment asks for; 'lower' where it asks for none."""

    best: metric.Direction = 'lower'  # checkpoints.keep_best
    stopping: metric.Direction = 'lower'  # watch.early_stopping.metric


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment if its parts fit one another. Nothing is computed or compiled, and no data is read.

    Raises:
      InputError: see check_parts() and directions().
    """
    check_parts(experiment)
    directions(experiment)
    return experiment


def directions(experiment: Experiment) -> Directions:
    """In which direction the metrics of keep_best and of early stopping are better.

    Raises:
      InputError: no evaluation measures such a metric, or nothing says in which direction it is better.
    """
    stopping = experiment.watch.early_stopping
    asked = {
        'best': (experiment.checkpoints.keep_best, BEST),
        'stopping': (None if stopping is None else stopping.metric, STOPPING),
    }
    return Directions(
        **{key: direction(name, experiment, field=field) for key, (name, field) in asked.items() if name is not None}
    )


def direction(name: str, experiment: Experiment, *, field: str) -> metric.Direction:
    """In which direction a metric of the experiment's evaluations is better, such as 'validation/loss'; reads no data.

    Args:
      field: what asks for the metric, for the message.

    Raises:
      InputError: no evaluation measures it, or nothing says in which direction it is better.
    """
    measured = functools.partial(_measured, experiment)
    return evaluation.direction(name, experiment.evaluations, of=experiment.objective, measured=measured, field=field)


def _check_requirements(experiment: Experiment) -> None:
    """Whether each requirement bounds a metric of an evaluation on the side on which it is worse.

    Raises:
      InputError: no evaluation measures it, or the bound is on the other side.
    """
    measured = functools.partial(_measured, experiment)
    for number, each in enumerate(experiment.requires):
        how: dict[str, Any] = {'of': experiment.objective, 'measured': measured, 'field': f'requires.{number}.metric'}
        better = evaluation.definition(each.metric, experiment.evaluations, **how).direction
        if better is not None and (better == 'higher') != (each.at_most is None):
            other, bound = ('at_least', each.at_most) if better == 'higher' else ('at_most', each.at_least)
            raise config.InputError(
                f'requires.{number}: of {each.metric} a {better} value is better, so that a requirement is {other}='
                f'{bound:g}, and not {each}.'
            )


def metrics(each: evaluation.Evaluation, experiment: Experiment) -> metric.Definitions | None:
    """The metrics of an evaluation of an experiment, known without data; None where it does not declare them."""
    return each.metrics(experiment.objective, functools.partial(_measured, experiment))


def _measured(experiment: Experiment, data: batches.Data) -> Collection[str]:
    """The names of the metrics of the experiment's objective on the batches of `data`, found by tracing it."""
    module, chosen = experiment.model.build(), experiment.objective
    batch = _abstract(batches.batch_fields(data.fields), data.batch)

    def found(key: jax.Array, batch: dict[str, jax.Array]) -> Any:
        apply = objective.Apply(module, *model.initialize(module, key, batch))
        return chosen(apply, batch, train=False, rngs=rngs.Rngs(key, chosen.streams)).metrics

    return jax.eval_shape(found, jax.eval_shape(lambda: jax.random.key(0)), batch).keys()


def _abstract(fields: Fields, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct((rows, *field.shape), field.dtype) for name, field in fields.items()}


def check_parts(experiment: Experiment) -> None:
    """Checks that data, model, objective, evaluations and requirements fit one another.

    Raises:
      InputError: a part lacks what another one needs; it says which field of the experiment, what it needs, what there
        is, and what to use instead.
    """
    fields, of = batches.batch_fields(experiment.data.fields), experiment.model
    of.check(fields)
    for name in experiment.objective.streams:
        rngs.check(name)
    needed = experiment.objective.requires
    if needed is None:
        _check_by_tracing(experiment.objective, of, fields)
    else:
        _check_objective(experiment.objective, needed, Given(of, fields, of.outputs(fields)))
    if experiment.mesh.pipeline > 1:
        _check_pipeline(of, fields)
    for number, each in enumerate(experiment.evaluations):
        _check_evaluation(f'evaluations.{number} ({each.name!r})', each, experiment)
    _check_requirements(experiment)


def _check_objective(chosen: objective.Objective, needed: requirements.Requirements, given: Given) -> None:
    problems = given.problems(needed)
    if not problems:
        return
    fitting = [name for name, each in OBJECTIVES.items() if each.requires and not given.problems(each.requires)]
    advice = [f'use objective={fitting[0]}'] if fitting else []
    advice += [f'use {needed.provided_by}'] if needed.provided_by else []
    raise config.InputError(
        f'objective={type(chosen).__name__} needs {"; and ".join(problems)}. {given} '
        f'Instead: {", or ".join(advice) or "use other data or another model"}.'
    )


def _check_evaluation(where: str, each: evaluation.Evaluation, experiment: Experiment) -> None:
    of, own = experiment.model, getattr(each, 'data', None)
    data = own if isinstance(own, batches.Data) else experiment.data
    try:
        fields = batches.batch_fields(data.fields)
        of.check(fields)
        given = Given(of, fields, of.outputs(fields))
    except config.InputError as error:
        raise config.InputError(f'{where}: its data {type(data).__name__} does not fit the model. {error}') from error
    needed = each.requires(experiment.objective, given.outputs)
    problems = [] if needed is None else given.problems(needed)
    if needed is not None and problems:
        advice = f'use {needed.provided_by}, or leave' if needed.provided_by else 'leave'
        raise config.InputError(
            f'{where}: {type(each).__name__} needs {"; and ".join(problems)}. {given} Instead: {advice} the evaluation '
            'out.'
        )


def _check_pipeline(of: model.Model, fields: Fields) -> None:
    """Raises InputError if layers of a stack have state: a pipeline hands on the carry of its layers, and no state."""
    module, batch = of.build(), _abstract(fields, model.ROWS)
    key = jax.eval_shape(lambda: jax.random.key(0))
    _, state = jax.eval_shape(functools.partial(model.initialize, module), key, batch)
    for path, _ in jax.tree_util.tree_leaves_with_path(state):
        names = [each.key for each in path]
        if 'layers' in names[1:]:
            raise config.InputError(
                f'mesh.pipeline splits layers that have state: {".".join(names[1:])} of {names[0]!r}, such as the '
                'running statistics of batch norm, which would have to be those of all microbatches. Use '
                'mesh.pipeline=1, or a norm without state such as GroupNorm.'
            )


def _shown(field: batches.Field) -> str:
    """'[128 length] int32 below 50,257'."""
    below = '' if field.upper_bound is None else f' below {field.upper_bound:,}'
    return f'{model.sizes(field.shape, field.axes)} {field.dtype}{below}'


def _check_by_tracing(chosen: objective.Objective, of: model.Model, fields: Fields) -> None:
    """Raises InputError if an objective that does not declare what it needs asks for what is not there."""
    module = of.build()
    batch = _abstract(fields, model.ROWS)

    def loss(key: jax.Array, batch: dict[str, jax.Array]) -> Any:
        apply = objective.Apply(module, *model.initialize(module, key, batch))
        return chosen(apply, batch, train=True, rngs=rngs.Rngs(key, chosen.streams))

    try:
        jax.eval_shape(loss, jax.eval_shape(lambda: jax.random.key(0)), batch)
    except (KeyError, AttributeError) as error:
        name = error.args[0]
        if isinstance(error, KeyError) and name in fields:
            raise
        asked = repr(name) if isinstance(error, KeyError) else name
        raise config.InputError(
            f'objective={type(chosen).__name__} needs what is not there: {asked}. '
            f'{Given(of, fields, of.outputs(fields))} Correct the name, or use other data or another model.'
        ) from error
