"""The metrics by which the best checkpoint is kept and a run stops early: in which direction they are better."""

from collections.abc import Sequence

from bigmodel_jax import config
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.train.state import TrainState


def direction(
    name: str | None,
    experiment: Experiment,
    evaluators: Sequence[evaluation.Evaluator],
    abstract: TrainState,
    *,
    field: str,
) -> metric.Direction:
    """The direction in which the metric `name` is better; 'lower' if it is None.

    Args:
      field: the field of the experiment that asks for the metric, for the message.

    Raises:
      InputError: no evaluation has that metric, or nothing says in which direction it is better.
    """
    if name is None:
        return 'lower'
    by_name = {each.name: evaluator for each, evaluator in zip(experiment.evaluations, evaluators)}
    return evaluation.direction(name, by_name, params=abstract.params, model_state=abstract.model_state, field=field)


def missing(keep_best: str | None, name: str, found: evaluation.EvaluationResult) -> str | None:
    """A sentence if the evaluation `name` did not give the metric that was asked of it.

    This can happen only to an evaluation of one's own that does not declare its metrics.
    """
    where, _, own = (keep_best or '').partition('/')
    if where != name or own in found.metrics:
        return None
    near = config.nearest(own, list(found.metrics))
    return (
        f'checkpoints.keep_best={keep_best!r}: the evaluation {name!r} gave no metric {own!r}, so no checkpoint is '
        f'kept as the best.{near}'
    )
