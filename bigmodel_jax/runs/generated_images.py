"""Images that the model of a run generates because somebody asks for them; evaluations make their own."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import artifacts, predictor
from bigmodel_jax.evaluate.diffusion import image_generator, image_samples, samplers
from bigmodel_jax.evaluate.vision.generation import quality
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives.diffusion import denoising

COUNT = 8  # Where nobody says how many.
# Images made at a time. It is the same whatever is asked for, so that an image has the same bits.
ROWS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Which images: those of the indices 0 .. count - 1 of a seed, the classes being taken in turn.

    An image follows from the seed, its index and its class, whatever else is asked for.
    """

    count: config.Positive | None = None  # None: one of each of `classes`; without these COUNT.
    classes: tuple[config.NonNegative, ...] = ()  # None given: all that the model knows.
    seed: config.Seed = 0
    sampler: samplers.Sampler | None = None  # None: that of the run; see sampler_of().

    def labels(self, experiment: Experiment) -> np.ndarray:
        """[N] int64, the class of each image; NO_CLASS of a model without classes.

        Raises:
          InputError: there are more classes than images.
        """
        count = self.count or len(self.classes) or COUNT
        if len(self.classes) > count:
            raise config.InputError(
                f'{len(self.classes)} classes are given for {count} images; ask for as many images, or for fewer '
                'classes.'
            )
        known = getattr(experiment.model, 'classes', None)
        chosen = self.classes or (range(known) if known else (denoising.NO_CLASS,))
        return np.resize(np.asarray(chosen, np.int64), count)


def makes_images(experiment: Experiment) -> bool:
    """Whether its model removes noise, so that images can be generated."""
    return isinstance(experiment.objective, denoising.Denoising)


def sampler_of(experiment: Experiment, *, steps: int | None = None, guidance: float | None = None) -> samplers.Sampler:
    """The sampler of the experiment's first evaluation that generates images, or else Heun(), with these changes.

    Args:
      steps: of the sampler. None: as it is.
      guidance: its scale; 1 is without. None: as it is.

    Raises:
      InputError: the model was not trained for it.
    """
    found = _generating(experiment)
    sampler = found.sampler if found else samplers.Heun()
    changes: dict[str, object] = {} if steps is None else {'steps': steps}
    if guidance is not None:
        channels = sampler.guidance.channels if sampler.guidance else None
        guided = config.check(samplers.Guidance(scale=guidance, channels=channels))
        changes['guidance'] = None if guidance == 1 else guided
    sampler = config.vary(sampler, changes)
    sampler.check(experiment.objective, experiment.model)
    return sampler


def generate(
    experiment: Experiment, weights: predictor.PredictorWeights, request: ImageRequest
) -> Iterator[artifacts.Image]:
    """The images that are asked for, ROWS or so being made at a time, when the first of them is needed.

    Raises:
      InputError: the model makes no images, or not these; said before the first is made.
    """
    labels, place = config.check(request).labels(experiment), weights.place or experiment.mesh.build()
    sampler = request.sampler or sampler_of(experiment)
    shape = experiment.data.fields['image'].shape if makes_images(experiment) else ()
    of = image_generator.TrainedDenoiser(experiment.model, experiment.objective, shape)
    generator = image_generator.ImageGenerator(of, sampler, place=place, seed=request.seed, rows=ROWS)
    indices = np.arange(len(labels))
    generator.check(indices, labels)
    evaluation = _generating(experiment)
    decode = (evaluation.decoder if evaluation else image_samples.Denormalize()).build(experiment.data)

    def batch(start: int) -> Iterator[artifacts.Image]:
        some = slice(start, start + generator.rows)
        made = decode(generator(weights.params, weights.model_state, indices[some], labels[some]))
        for image, index, label in zip(made, indices[some], labels[some]):
            of_class = '' if label == denoising.NO_CLASS else f', class {label}'
            yield artifacts.Image.of(image, f'seed {request.seed}, image {index}{of_class}')

    return (image for start in range(0, len(labels), generator.rows) for image in batch(start))


def file_name(seed: int, index: int, label: int) -> str:
    """Of one image, the same whatever others are made."""
    of_class = '' if label == denoising.NO_CLASS else f'_class{label}'
    return f'seed{seed}_image{index:05}{of_class}.png'


def _generating(experiment: Experiment) -> image_samples.ImageSamples | quality.GenerationQuality | None:
    kinds = (image_samples.ImageSamples, quality.GenerationQuality)
    return next((each for each in experiment.evaluations if isinstance(each, kinds)), None)
