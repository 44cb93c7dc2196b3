"""The model of a run as it stood at one checkpoint, ready to be evaluated and to predict."""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from etils import epath

from bigmodel_jax import config, differences
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import artifacts, evaluation
from bigmodel_jax.evaluate import predictor as predictors
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import parameter_groups
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import identity
from bigmodel_jax.runs import generated_images
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import metrics, preparation, state
from bigmodel_jax.train.recovery import continuing

PyTree = Any
# The weights that are trained, or their moving average.
Which = Literal['trained', 'ema']


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with its weights at `step`, laid out on the experiment's mesh. The data is opened only to evaluate."""

    path: epath.Path
    experiment: Experiment
    place: sharding.ShardingContext
    step: int
    params: PyTree
    model_state: PyTree
    damage: tuple[str, ...] = ()  # A sentence for each newer checkpoint that was damaged, and so not used.
    weights: Which = 'trained'
    averaged: tuple[int, ...] = ()  # The steps of the checkpoints whose mean the parameters are, if they are one.

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that is stored with the run.

        Where its files are damaged, the copy is used that the checkpoint holds.

        Raises:
          InputError: there is none: the run was not trained on text; or it is damaged, or not the one of the run.
        """
        found = identity.tokenizer_of(self.path, self.path / durable_files.CHECKPOINTS / str(self.step))
        if found is None:
            raise config.InputError(f'{self.path} was trained on data without a tokenizer; it cannot write text.')
        return found

    def evaluate(self) -> dict[str, evaluation.EvaluationResult]:
        """Runs every evaluation of the experiment and records the results with the run.

        Returns:
          what each evaluation found, by its name. Of the mean of 5 checkpoints, the evaluation 'test' is
          'test_average5', here and in the records, beside that of the checkpoint of the same step. Of other weights
          than evaluations use in training, it is 'test_trained' or 'test_ema'.
        """
        suffix = '' if self.weights == evaluated_weights(self.experiment) else f'_{self.weights}'
        suffix += f'_average{len(self.averaged)}' if self.averaged else ''
        found, evaluators = {}, preparation.evaluators_of(self.experiment, self.place, self.path)
        with sharding.use(self.place), metrics.open_recorder(self.path) as writer:
            for each, evaluator in zip(self.experiment.evaluations, evaluators):
                name = f'{each.name}{suffix}'
                found[name] = evaluator.run(self.params, self.model_state)
                writer.evaluation(self.step, name, found[name])
        return found

    def predictor(
        self,
        *,
        how: decoding.Decoding | None = None,
        tokens: int | None = None,
        seed: int = 0,
        template: bool = True,
    ) -> predictors.Predictor:
        """The model as a function from new records to artifacts; see predictor.predictor().

        Args:
          how, tokens, seed, template: of generated text.

        Raises:
          InputError: it predicts nothing, or its tokenizer is damaged.
        """
        tokenizer = identity.tokenizer_of(self.path, self.path / durable_files.CHECKPOINTS / str(self.step))
        how_to: dict[str, Any] = {'how': how, 'tokens': tokens, 'seed': seed, 'template': template}
        return predictors.predictor(self._weights, self.experiment.data, tokenizer=tokenizer, **how_to)

    def sample(
        self,
        prompts: Sequence[str],
        *,
        how: decoding.Decoding | None = None,
        tokens: int | None = None,
        seed: int = 0,
        template: bool = True,
    ) -> list[Any]:
        """What predictor() makes of each prompt: a Text that continues or translates it, or a Table of labels.

        A model of conversations answers the prompt, which is written with the template of its data, unless that is
        left out.
        """
        return self.predictor(how=how, tokens=tokens, seed=seed, template=template)(
            [{'prompt': prompt} for prompt in prompts]
        )

    def images(self, request: generated_images.ImageRequest) -> Iterator[artifacts.Image]:
        """Images that the model of a diffusion run generates, in the order of their indices; see generated_images.

        Raises:
          InputError: the model makes no images, or not these.
        """
        return generated_images.generate(self.experiment, self._weights, request)

    @property
    def _weights(self) -> predictors.PredictorWeights:
        return predictors.PredictorWeights(self.experiment.model, self.params, self.model_state, self.place)


def check(path: epath.Path, experiment: Experiment) -> None:
    """Whether `experiment` is that of the run in `path`, but for circumstances and evaluations of other names.

    Raises:
      InputError: it is another.
    """
    stored = config.normalized(durable_files.read_json(path / durable_files.EXPERIMENT))
    known = {each.get('name'): each for each in stored['evaluations']}
    other = [
        each
        for each in differences.between(stored, config.to_json(experiment))
        if each.path.partition('.')[0] not in (*differences.CIRCUMSTANCES, *continuing.FREE)
    ]
    for each in config.to_json(experiment)['evaluations']:
        other += differences.between(known.get(each['name'], each), each, f'evaluation {each["name"]}')
    if other:
        lines = '\n'.join(f'  {each}' for each in other)
        raise config.InputError(
            f'{path} holds another experiment; nothing was changed. There -> here:\n{lines}\n'
            'A run is evaluated with its own model. Its evaluations may be others, under other names.'
        )


def evaluated_weights(experiment: Experiment) -> Which:
    """The weights that evaluations of a run use."""
    return 'ema' if experiment.ema is not None and experiment.ema.evaluate else 'trained'


def restore(
    path: epath.Path,
    experiment: Experiment,
    steps: Sequence[int],
    step: int | None = None,
    *,
    cast: bool = False,
    weights: Which | None = None,
) -> Trained:
    """The model of the run in `path` at one of its checkpoints.

    Args:
      experiment: that of the run; another mesh is fine.
      steps: of the checkpoints, oldest first.
      step: which; None: the newest that is not damaged.
      cast: convert weights that are stored with another dtype.
      weights: which; None: those that evaluations use.

    Raises:
      InputError: there is no such checkpoint, or it is damaged, or of another experiment; or it has no moving average.
    """
    check(path, experiment)
    weights = evaluated_weights(experiment) if weights is None else weights
    if weights not in typing.get_args(Which):
        raise config.InputError(f"weights={weights!r}: use 'trained' or 'ema'.")
    if weights == 'ema' and experiment.ema is None:
        raise config.InputError(
            f"weights='ema': the run in {path} keeps no moving average (its experiment says ema=None); use 'trained'."
        )
    if not steps:
        raise config.InputError(f'{path} holds no checkpoint yet; train it first.')
    if step is not None and step not in steps:
        raise config.InputError(f'{path} holds no checkpoint of step {step}; there are {", ".join(map(str, steps))}.')
    place = experiment.mesh.build()
    with sharding.use(place), Checkpointer(path, None) as checkpoints:
        spec = state.specify(experiment, place)
        found = checkpoints.restore_model(spec.abstract, spec.shardings, step, cast=cast)
    if found is None:
        raise config.InputError(f'{path} holds no checkpoint: none of {", ".join(map(str, steps))} is there any more.')
    params = parameter_groups.merged(found.params, found.ema) if weights == 'ema' else found.params
    with sharding.use(place):
        params = spec.storage.read(params)
    how: dict[str, Any] = {'damage': tuple(checkpoints.damage), 'weights': weights}
    return Trained(path, experiment, place, found.step, params, found.model_state, **how)
