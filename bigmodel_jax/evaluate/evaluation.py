"""Evaluations: configs with a name and an interval, each of which builds an evaluator of the model."""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text.tokenizer import Tokenizer
from bigmodel_jax.evaluate import metric
from bigmodel_jax.evaluate.artifacts import Artifact
from bigmodel_jax.models import model
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.parallel import sharding

PyTree = Any
MeasuredNames = Callable[[batches.Data], Collection[str]]


@dataclasses.dataclass(frozen=True)
class EvaluationContext:
    """The parts of a run that its evaluations may use."""

    model: model.Model
    module: Any  # The Flax module of `model`.
    objective: objective.Objective
    data: batches.Data  # The config of the training data.
    open_training: Callable[[], batches.Batches]
    tokenizer: Tokenizer | None  # That of the run; None if its data has none.
    place: sharding.ShardingContext
    seed: int

    @functools.cached_property
    def training(self) -> batches.Batches:
        """The training data. A finished run is evaluated without it, unless an evaluation asks for it here.

        Raises:
          InputError: it is not there, or not that of the run.
        """
        return self.open_training()

    def need_tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer of the run, for the evaluation `name`, which reads or generates text.

        Raises:
          InputError: there is none.
        """
        if self.tokenizer is None:
            raise config.InputError(
                f'Evaluation {name!r} needs text, but the training data has no tokenizer; leave it out.'
            )
        return self.tokenizer

    def open(self, data: batches.Data, name: str) -> Any:
        """The data of the evaluation `name`, built and checked.

        Raises:
          InputError: it does not fit the mesh or the model, or its tokenizer is not that of the training data.
        """
        self.place.local_rows(data.batch)
        built = data.open(self.seed)
        model.check_opened(self.model, built.fields)
        own, wanted = built.examples.tokenizer, self.tokenizer
        if own is not None and wanted is not None and own.fingerprint != wanted.fingerprint:
            raise config.InputError(
                f'Evaluation {name!r}: the tokenizer of its data ({describe(own)}) is not the tokenizer of the '
                f'training data ({describe(wanted)}), so equal token ids stand for different text. Give both '
                'the same `tokenizer`; one that is trained needs the same `trained_on`.'
            )
        return built


def describe(tokenizer: Tokenizer) -> str:
    """A tokenizer in a few words: its class, its size, and the beginning of the hash of its files."""
    hashes = [value[:8] for value in tokenizer.fingerprint.values() if isinstance(value, str) and len(value) == 64]
    return ', '.join([type(tokenizer).__name__, f'{tokenizer.size:,} tokens', *hashes])


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
      metrics: by name; recorded, charted and compared.
      artifacts: what it shows besides numbers, such as generated texts.
    """

    metrics: Mapping[str, metric.Metric] = dataclasses.field(default_factory=dict)
    artifacts: Sequence[Artifact] = ()

    @property
    def values(self) -> dict[str, float]:
        """The values of the metrics alone."""
        return {name: float(measured.value) for name, measured in self.metrics.items()}


class Evaluator:
    """An evaluation that is ready to run."""

    fingerprint: Mapping[str, Any] = {}  # JSON-ready: what the data is that it reads, if it has any of its own.
    data: batches.Batches | None = None  # On which it runs the objective, if it does.

    def run(self, params: PyTree, model_state: PyTree) -> EvaluationResult:
        """Evaluates the model with these weights."""
        raise NotImplementedError


class Evaluation:
    """Interface of the evaluation configs."""

    name: str
    every_steps: int

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        """What it needs of the model and of the batches of its field `data`; None: nothing that it can say.

        Args:
          of: the run's objective.
          outputs: those of the model for these batches.
        """
        return None

    def metrics(self, of: objective.Objective, measured: MeasuredNames) -> metric.Definitions | None:
        """The metrics that its evaluator gives, each with its direction and unit; computes nothing, reads no data.

        None: they are not known before it has run. Such an evaluation can be asked only for metrics whose names are in
        evaluate/metric.py.

        Args:
          of: the run's objective.
          measured: gives the names of the metrics of that objective on the batches of some data.
        """
        return None

    def build(self, setting: EvaluationContext) -> Evaluator:
        """The evaluation, with its data opened and checked, before the first compile.

        Raises:
          InputError: its data is missing or does not fit the model.
        """
        raise NotImplementedError


def plain_name(name: str) -> str:
    """`name` in the characters that TensorBoard keeps; the others become '_'."""
    return re.sub(r'[^-/\w.]', '_', name).lstrip('/')


def check_names(names: Sequence[str]) -> None:
    """Whether evaluations can be told apart by their names, wherever metrics are stored or shown.

    Raises:
      InputError: two have one name, or a name is none.
    """
    seen: dict[str, str] = {}
    for name in names:
        if '/' in name or not name.strip() or not name.isprintable():
            raise config.InputError(
                f"evaluations: the name {name!r} is empty or holds '/' or what cannot be printed; metrics are called "
                "name/metric. Use letters, digits and '_'."
            )
        if name in seen.values():
            raise config.InputError(f'evaluations: the name {name!r} is used twice; metrics are stored under it.')
        other = seen.setdefault(plain_name(name), name)
        if other != name:
            raise config.InputError(f'evaluations: {other!r} and {name!r} are one name on TensorBoard; change one.')


def named(name: str, evaluations: Sequence[Evaluation], *, field: str) -> Evaluation:
    """The evaluation whose metric is `name`, such as 'validation/loss', which a field of the experiment asks for.

    Raises:
      InputError: there is none of this name.
    """
    by_name = {each.name: each for each in evaluations}
    where, _, own = name.partition('/')
    if where not in by_name or not own:
        listed = config.nearest(where, by_name) if evaluations else ' The experiment has no evaluations.'
        raise config.InputError(f'{field}={name!r} is not of the form evaluation/metric.{listed}')
    return by_name[where]


def definition(
    name: str, evaluations: Sequence[Evaluation], *, of: objective.Objective, measured: MeasuredNames, field: str
) -> metric.Definition:
    """What the metric `name` is, such as 'validation/loss'.

    Args:
      of, measured: as of Evaluation.metrics().
      field: the field of the experiment that asks for the metric, for the message.

    Raises:
      InputError: no evaluation measures it.
    """
    where, _, own = name.partition('/')
    definitions = named(name, evaluations, field=field).metrics(of, measured)
    if definitions is None:
        return metric.known(own)
    if own not in definitions:
        near = config.nearest(own, definitions) if definitions else ' It measures nothing that is a number.'
        raise config.InputError(f'{field}={name!r}: the evaluation {where!r} has no metric {own!r}.{near}')
    return definitions[own]


def direction(
    name: str, evaluations: Sequence[Evaluation], *, of: objective.Objective, measured: MeasuredNames, field: str
) -> metric.Direction:
    """The direction in which the metric `name` is better; see definition().

    Raises:
      InputError: no evaluation measures it, or none says in which direction it is better.
    """
    found = definition(name, evaluations, of=of, measured=measured, field=field).direction
    if found is None:
        own = name.partition('/')[2]
        raise config.InputError(
            f'{field}={name!r}: nothing says whether a high or a low {own!r} is better. Declare it: in an objective as '
            f"directions = {{{own!r}: 'higher'}} or 'lower', in an evaluation as a metric.Definition in metrics()."
        )
    return found
