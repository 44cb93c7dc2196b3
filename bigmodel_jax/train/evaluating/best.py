"""The metric by which the best checkpoint is kept."""

from bigmodel_jax import config
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import BEST


def missing(keep_best: str | None, name: str, found: evaluation.EvaluationResult) -> str | None:
    """A sentence if the evaluation `name` did not give the metric that was asked of it.

    This can happen only to an evaluation of one's own that does not declare its metrics.
    """
    where, _, own = (keep_best or '').partition('/')
    if where != name or own in found.metrics:
        return None
    near = config.nearest(own, list(found.metrics))
    return (
        f'{BEST}={keep_best!r}: the evaluation {name!r} gave no metric {own!r}, so no checkpoint is '
        f'kept as the best.{near}'
    )
