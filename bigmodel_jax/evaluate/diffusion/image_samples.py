"""An evaluation that makes images and shows them, and the ways from what a network makes to pixels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.transforms import Transform
from bigmodel_jax.data.vision import images, transforms
from bigmodel_jax.evaluate import artifacts, evaluation, metric
from bigmodel_jax.evaluate.diffusion import image_generator, samplers
from bigmodel_jax.objectives import objective, requirements

PyTree = Any


class ImageDecoder:
    """Interface: how what a network makes becomes pixels."""

    def build(self, data: batches.Data) -> 'PixelDecoder':
        """The decoder for a network that was trained on `data`.

        Raises:
          InputError: there is none.
        """
        raise NotImplementedError


class PixelDecoder:
    """A decoder that is ready."""

    def __call__(self, made_NYXZ: np.ndarray) -> np.ndarray:
        """[N, Y, X, Z] float32 in [0, 1], Z being 1 or 3."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denormalize(ImageDecoder):
    """Undoes the last transform of the data, if it is Normalize, and cuts what lies outside of [0, 1].

    Of images with neither 1 nor 3 channels, such as latents, it shows the channels side by side in grey, from -3 to 3.
    """

    def build(self, data: batches.Data) -> PixelDecoder:
        return _Denormalized(data.transforms if isinstance(data, images.Images) else ())


class _Denormalized(PixelDecoder):
    def __init__(self, made_by: Sequence[Transform]):
        self._made_by = made_by

    def __call__(self, made_NYXZ: np.ndarray) -> np.ndarray:
        if made_NYXZ.shape[-1] not in (1, 3):
            beside = np.concatenate(np.split(made_NYXZ, made_NYXZ.shape[-1], axis=-1), axis=2)
            return np.clip(beside / 6 + 0.5, 0, 1).astype(np.float32)
        return np.clip(transforms.shares(self._made_by, made_NYXZ), 0, 1).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSamples(evaluation.Evaluation):
    """Images that the model makes, as one picture: a row for each class, or rows of images without a class.

    Image i of the picture is that of index i and the experiment's seed, hence the same noise at every step of training.
    The moving average of the weights makes them, where evaluations use it (Experiment.ema).
    """

    sampler: samplers.Sampler
    every_steps: config.Positive
    name: str = 'samples'
    columns: config.Positive = 8  # Images in each row of the picture.
    rows: config.Positive = 10  # At most; of a model of more classes, these are spaced evenly over them.
    batch: config.Positive = 64  # Images that are made at a time.
    decoder: ImageDecoder = Denormalize()

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return of.requires

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        shape = setting.data.fields['image'].shape
        of = image_generator.TrainedDenoiser(setting.model, setting.objective, shape)
        generator = image_generator.ImageGenerator(
            of, self.sampler, place=setting.place, seed=setting.seed, rows=min(self.batch, self.rows * self.columns)
        )
        return ImageSamplesEvaluator(self, generator, self.decoder.build(setting.data))


class ImageSamplesEvaluator(evaluation.Evaluator):
    """Makes the images and joins them."""

    def __init__(self, of: ImageSamples, generator: image_generator.ImageGenerator, decode: PixelDecoder):
        self._of, self._generator, self._decode = of, generator, decode

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        columns, classes = self._of.columns, self._generator.classes
        shown = None if classes is None else evenly(classes, self._of.rows)
        rows = self._of.rows if shown is None else len(shown)
        labels = None if shown is None else shown.repeat(columns)
        made = self._decode(self._generator(params, model_state, np.arange(rows * columns), labels))
        title = f'{rows * columns} samples' if shown is None else f'{columns} samples of each class {_listed(shown)}'
        return evaluation.EvaluationResult({}, [artifacts.Image.of(grid(made, columns), title)])


def evenly(count: int, most: int) -> np.ndarray:
    """[n] int64: numbers below `count`, spaced evenly, at most `most`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _listed(numbers: np.ndarray) -> str:
    whole = len(numbers) > 1 and (np.diff(numbers) == 1).all()
    return f'{numbers[0]} to {numbers[-1]}' if whole else ', '.join(map(str, numbers.tolist()))


def grid(images_NYXZ: np.ndarray, columns: int) -> np.ndarray:
    """[rows, columns, Z]: images side by side, with a white line between them; those that are small are enlarged."""
    enlarged = max(1, 56 // max(images_NYXZ.shape[1:3]))
    tiles = images_NYXZ.repeat(enlarged, axis=1).repeat(enlarged, axis=2)
    tiles = np.pad(tiles, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    missing = -len(tiles) % columns
    _, Y, X, Z = tiles.shape
    filled = np.concatenate([tiles, np.ones((missing, Y, X, Z), tiles.dtype)])
    rows = filled.reshape(-1, columns, Y, X, Z).swapaxes(1, 2)
    return rows.reshape(-1, columns * X, Z)
