"""How good generated images are: Frechet distance to real ones, precision and recall, beside simple references."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.vision import images
from bigmodel_jax.evaluate import artifacts, evaluation, metric
from bigmodel_jax.evaluate.diffusion import image_generator, image_samples, samplers
from bigmodel_jax.evaluate.vision.generation import extractor as extractors
from bigmodel_jax.evaluate.vision.generation import frechet, precision_recall, real_images
from bigmodel_jax.objectives import objective, requirements

PyTree = Any
OF_MODEL: metric.Definitions = {
    'frechet': metric.Definition('lower'),
    'frechet_low': metric.Definition('lower'),
    'frechet_high': metric.Definition('lower'),
    'frechet_bias': metric.Definition(),
    'precision': metric.Definition('higher'),
    'recall': metric.Definition('higher'),
}
OF_REFERENCES: metric.Definitions = {'gaussian_frechet': metric.Definition(), 'training_frechet': metric.Definition()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationQuality(evaluation.Evaluation):
    """Makes images and compares their features with those of real ones.

    Metrics: 'frechet', the distance of `count` generated images to all of `real`, with its 95% interval ('frechet_low',
    'frechet_high') and by how much it is too large because `count` is finite ('frechet_bias'; see frechet.py);
    'precision' and 'recall', of as many images of both kinds. The same distance of two references, on as many images:
    'gaussian_frechet' of samples of a normal distribution of the pixels of each class, and 'training_frechet' of
    training images, which is about what a perfect generator would have.

    Each metric's signature names the extractor with a hash, the numbers of images, the seed, and a hash of the real
    ones. Values with different signatures say nothing of one another, such as those of Inception's features.

    Images with classes are made of those of the real ones, in the same proportions. Image i follows from `seed` and i.
    """

    sampler: samplers.Sampler
    extractor: extractors.Extractor
    real: images.Images
    every_steps: config.Positive
    training: images.Images | None = None  # Of the two references; None: the data of the run.
    count: config.Positive = 10_000
    seed: config.Seed = 0
    name: str = 'generation'
    batch: config.Positive = 64  # Images that are made at a time; changes no number but for rounding.
    decoder: image_samples.ImageDecoder = image_samples.Denormalize()
    neighbours: config.Positive = 3  # See precision_recall.py.
    blocks: config.Positive = 20  # Of the jackknife; see frechet.py.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return of.requires

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {**OF_MODEL, **OF_REFERENCES}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        own = setting.data if self.training is None else self.training
        training = real_images.need_images(own, f'Evaluation {self.name!r}: the training data')
        made = image_generator.TrainedDenoiser(setting.model, setting.objective, setting.data.fields['image'].shape)
        generator = image_generator.ImageGenerator(
            made, self.sampler, place=setting.place, seed=self.seed, rows=min(self.batch, self.count)
        )
        real = real_images.PlainImages(self.real, f'Evaluation {self.name!r}: real')
        extractor = self.extractor.build(self.real.shape, setting.place)
        if self.blocks < 2:
            raise config.InputError(f'Evaluation {self.name!r}: blocks={self.blocks}; the jackknife needs at least 2.')
        for count, what in (
            (self.count - -(-self.count // self.blocks), f'generated images (count less one of {self.blocks} blocks)'),
            (len(real), 'real images'),
        ):
            frechet.check_count(count, extractor.width, what=f'{what} of the evaluation {self.name!r}')
        if training.shape != self.real.shape:
            raise config.InputError(
                f'Evaluation {self.name!r}: the training images are {training.shape} and the real ones '
                f'{self.real.shape}; both should be as they are compared. Of latents, give the images as `training`.'
            )
        compared = ComparedImages(self, real_images.PlainImages(training, f'Evaluation {self.name!r}: training'), real)
        return QualityEvaluator(compared, extractor, generator, self.decoder.build(setting.data))


class ComparedImages(NamedTuple):
    """What is compared, and how."""

    how: GenerationQuality
    training: real_images.PlainImages
    real: real_images.PlainImages


class References(NamedTuple):
    """What does not depend on the model: of the real images, and the rows of the two references."""

    real: frechet.FeatureGaussian
    features_ND: np.ndarray  # Of some real images, for precision and recall.
    labels_N: np.ndarray  # Of the images that are made.
    digest: str
    rows: dict[str, tuple[frechet.FrechetEstimate, precision_recall.PrecisionRecall]]


class QualityEvaluator(evaluation.Evaluator):
    """Makes images, and compares features on the host."""

    def __init__(
        self,
        compared: ComparedImages,
        extractor: extractors.FeatureExtractor,
        generator: image_generator.ImageGenerator,
        decode: image_samples.PixelDecoder,
    ):
        self.fingerprint = {
            'extractor': extractor.identity,
            'real': dict(compared.real.fingerprint),
            'training': dict(compared.training.fingerprint),
        }
        self._compared, self._how = compared, compared.how
        self._features, self._generator, self._decode = extractor, generator, decode

    @functools.cached_property
    def _references(self) -> References:
        how, (_, of_training, of_real) = self._how, self._compared
        real, training = (each.read() for each in (of_real, of_training))
        features_ND = self._features(real.pixels_NYXZ)
        labels_N = real.labels_N[real_images.spread(how.count, len(real.labels_N))]
        shown_ND = features_ND[real_images.spread(min(how.count, len(features_ND)), len(features_ND))]
        found = References(frechet.fitted(features_ND), shown_ND, labels_N, real.digest, {})
        chosen = real_images.spread(how.count, len(training.labels_N))
        drawn = real_images.of_normal_distributions(training, labels_N, seed=how.seed)
        for name, pixels in (('gaussian', drawn), ('training', training.pixels_NYXZ[chosen])):
            found.rows[name] = self._compare(self._features(pixels), found)
        return found

    def _compare(
        self, features_ND: np.ndarray, to: References
    ) -> tuple[frechet.FrechetEstimate, precision_recall.PrecisionRecall]:
        some_ND = features_ND[real_images.spread(len(to.features_ND), len(features_ND))]
        both = precision_recall.precision_recall(some_ND, to.features_ND, neighbours=self._how.neighbours)
        return frechet.estimate(features_ND, to.real, blocks=self._how.blocks), both

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        how, references = self._how, self._references
        labels_N = references.labels_N if self._generator.classes is not None else None
        made = self._decode(self._generator(params, model_state, np.arange(how.count), labels_N))
        if made.shape[1:] != how.real.shape:
            raise config.InputError(
                f'Evaluation {how.name!r}: the model makes images of {made.shape[1:]}, the real ones are '
                f'{how.real.shape}; give those that are compared the same shape.'
            )
        if not np.isfinite(made).all():
            values = dict.fromkeys((*OF_MODEL, *OF_REFERENCES), float('nan'))
            return evaluation.EvaluationResult(self._measured(values, references))
        distance, both = self._compare(self._features(real_images.as_bytes(made)), references)
        values = {
            'frechet': distance.value,
            'frechet_low': distance.low,
            'frechet_high': distance.high,
            'frechet_bias': distance.bias,
            **both._asdict(),
            **{f'{name}_frechet': each.value for name, (each, _) in references.rows.items()},
        }
        shown = self._table({'the model': (distance, both), **references.rows})
        return evaluation.EvaluationResult(self._measured(values, references), (shown,))

    def _measured(self, values: dict[str, float], to: References) -> dict[str, metric.Metric]:
        how, known = self._how, {**OF_MODEL, **OF_REFERENCES}
        common = f'{self._features.identity} real:{to.digest}'
        of_distance = f'frechet {common},{len(self._compared.real)} n:{how.count} seed:{how.seed} blocks:{how.blocks}'
        of_shares = f'precision-recall {common},{len(to.features_ND)} seed:{how.seed} neighbours:{how.neighbours}'
        return {
            name: metric.Metric(
                value, known[name].direction, signature=of_shares if name in ('precision', 'recall') else of_distance
            )
            for name, value in values.items()
        }

    def _table(
        self, rows: dict[str, tuple[frechet.FrechetEstimate, precision_recall.PrecisionRecall]]
    ) -> artifacts.Table:
        names = {'gaussian': 'a normal distribution of each class', 'training': 'training images'}
        cells = tuple(
            (
                names.get(name, name),
                f'{distance.value:.4g} ({distance.low:.4g} to {distance.high:.4g})',
                round(distance.value - distance.bias, 6),
                round(both.precision, 4),
                round(both.recall, 4),
            )
            for name, (distance, both) in rows.items()
        )
        return artifacts.Table(
            title=f'{self._how.count:,} images against {len(self._compared.real):,} real ones',
            columns=('images', 'Frechet distance (95%)', 'without its bias', 'precision', 'recall'),
            rows=cells,
        )
