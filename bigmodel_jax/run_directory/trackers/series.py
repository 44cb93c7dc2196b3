"""The names of curves on TensorBoard and Weights & Biases: one for each metric, and no two metrics share one."""

from bigmodel_jax.evaluate import evaluation

# What a run logs beside its evaluations, and the name under which evaluations called so are shown.
EVALUATION = 'evaluation'
RESERVED = ('train', 'speed', EVALUATION)


def name(kind: str, where: str | None, metric: str) -> str:
    """The curve of a metric: 'train/loss'; of an evaluation 'validation/loss'.

    An evaluation that is called like one of the other kinds is shown as 'evaluation/train/loss'.

    Args:
      kind: of the record, such as 'train' or 'evaluation'.
      where: the name of the evaluation; None for what is not of one.
    """
    if where is None:
        return f'{kind}/{metric}'
    return f'{EVALUATION}/{where}/{metric}' if where in RESERVED else f'{where}/{metric}'


class Tags:
    """The names that TensorBoard gives to curves, which hold few characters: equal only for equal curves."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def tag(self, curve: str) -> str:
        """The tag of a curve; with '_' at its end where another was there first."""
        tag = evaluation.plain_name(curve)
        while self._taken.setdefault(tag, curve) != curve:
            tag += '_'
        return tag
