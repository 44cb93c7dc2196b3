"""Retrieval: how often the own caption of an image is among the nearest, and the own image of a caption."""

import dataclasses
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.vision import captioned
from bigmodel_jax.evaluate import all_rows, artifacts, class_scores, evaluation, metric
from bigmodel_jax.objectives import objective, requirements

PyTree = Any
WAYS = ('image_to_text', 'text_to_image')
ROWS = 1_024
FRAME, OWN, OTHER = 3, (0.0, 0.6, 0.2), (1.0, 1.0, 1.0)  # Around a picture: pixels, and colours.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(evaluation.Evaluation):
    """Recall at k both ways, where the candidates are all images, or all captions, of `data`.

    Metrics, in %: 'image_to_text_r1' is the share of images whose nearest caption is one of their own,
    'text_to_image_r1' that of captions whose nearest image is their own, and so on for every k of `recalls`, each with
    Wilson's 95% interval ('_low', '_high'), which takes the queries as independent; and the median rank of the own
    ('image_to_text_median_rank'). A candidate as near as the own one counts as nearer. Of k among n candidates a guess
    finds k / n, which the table shows beside them. With Captioned(each_caption=True) an image has all its captions.

    Artifacts: that table; and for some captions, the images that are found for each, the own one in a green frame.

    Source: Karpathy and Fei-Fei (2015), arXiv:1412.2306, section 4.1.
    """

    data: captioned.Captioned
    every_steps: config.Positive
    recalls: tuple[config.Positive, ...] = (1, 5, 10)
    name: str = 'retrieval'
    shown: config.NonNegative = 8  # Captions whose images are shown,
    pictures: config.Positive = 5  # so many for each.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.PAIRS

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        names = [f'{way}_r{k}{end}' for way in WAYS for k in self.recalls for end in ('', '_low', '_high')]
        ranks = {f'{way}_median_rank': metric.Definition('lower') for way in WAYS}
        return {name: metric.Definition('higher', '%') for name in names} | ranks

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        return RetrievalEvaluator(self, setting, setting.open(self.data, self.name))


def ranks_of(queries_ND: np.ndarray, candidates_QD: np.ndarray, own_NQ: Any, *, rows: int = ROWS) -> np.ndarray:
    """[N] int64: how many candidates that are not a query's own are at least as near as the nearest that is.

    Args:
      own_NQ: slice of the queries -> [rows, Q] bool: which candidates are their own ones.
      rows: of the matrix of cosines that are held at a time.
    """
    found = []
    for start in range(0, len(queries_ND), rows):
        some = slice(start, start + rows)
        cosines_NQ, is_own_NQ = queries_ND[some] @ candidates_QD.T, own_NQ(some)
        best_N = np.where(is_own_NQ, cosines_NQ, -np.inf).max(axis=1, keepdims=True)
        found.append(((cosines_NQ >= best_N) & ~is_own_NQ).sum(axis=1))
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The images and captions of a data set as vectors.

    Attributes:
      images_ND: of each image, in the order of `rows_N`, the first example that shows it.
      captions_ND: of each example.
      image_of_N: the image of each example's caption.
    """

    images_ND: np.ndarray
    captions_ND: np.ndarray
    rows_N: np.ndarray
    image_of_N: np.ndarray

    @classmethod
    def of(cls, images_ND: np.ndarray, captions_ND: np.ndarray, numbers_N: np.ndarray) -> 'Embedded':
        """Of the examples, whose images have these numbers."""
        _, rows_N, image_of_N = np.unique(numbers_N, return_index=True, return_inverse=True)
        return cls(images_ND[rows_N].astype(np.float64), captions_ND.astype(np.float64), rows_N, image_of_N)

    def ranks(self) -> dict[str, np.ndarray]:
        """The rank of the own, from 0 on: for each image, and for each caption."""
        images_N = np.arange(len(self.rows_N))
        return {
            'image_to_text': ranks_of(
                self.images_ND, self.captions_ND, lambda rows: images_N[rows, None] == self.image_of_N[None]
            ),
            'text_to_image': ranks_of(
                self.captions_ND, self.images_ND, lambda rows: self.image_of_N[rows, None] == images_N[None]
            ),
        }


class RetrievalEvaluator(evaluation.Evaluator):
    """Embeds all examples in order, and ranks them on the host."""

    def __init__(self, of: Retrieval, setting: evaluation.EvaluationContext, data: batches.Batches):
        self.fingerprint = data.examples.fingerprint
        self._of, self._data = of, data
        if max(of.recalls) >= len(data.examples):
            raise config.InputError(
                f'Evaluation {of.name!r}: recalls={of.recalls} of {len(data.examples)} examples; a recall at k says '
                'nothing where there are no more than k candidates.'
            )
        self._embed = all_rows.AllRows(setting, _embeddings)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        examples = self._data.examples
        found = [each[: len(examples)] for each in self._embed(self._data, params, model_state)]
        numbers_N = found[2] if len(found) > 2 else np.arange(len(examples))
        embedded = Embedded.of(found[0], found[1], numbers_N)
        ranks = embedded.ranks()
        if not all(np.isfinite(each).all() for each in found[:2]):
            ranks = {way: np.full(len(each), len(examples)) for way, each in ranks.items()}
        values, rows = {}, []
        for way, ranks_N in ranks.items():
            values[f'{way}_median_rank'] = float(np.median(ranks_N)) + 1
            candidates = len(embedded.captions_ND if way == 'image_to_text' else embedded.images_ND)
            for k in self._of.recalls:
                share = class_scores.rate(int((ranks_N < k).sum()), len(ranks_N))
                for end, value in zip(('', '_low', '_high'), share):
                    values[f'{way}_r{k}{end}'] = 100 * value
                rows.append((way.replace('_', ' '), k, len(ranks_N), candidates, *_cells(share, k / candidates)))
        columns = ('way', 'k', 'queries', 'candidates', 'recall at k (95%)', 'of a guess', 'times a guess')
        table = artifacts.Table(title='Recall at k', columns=columns, rows=tuple(rows))
        definitions = self._of.metrics(None, None)  # type: ignore[arg-type]  # They depend on neither.
        measured = {name: definitions[name].measured(value) for name, value in values.items()}
        return evaluation.EvaluationResult(measured, (table, *self._pictures(embedded, ranks['text_to_image'])))

    def _pictures(self, embedded: Embedded, ranks_N: np.ndarray) -> list[artifacts.Image]:
        """What is found for captions that are spaced evenly over the data."""
        count = len(ranks_N)
        chosen = np.unique(np.linspace(0, count - 1, min(self._of.shown, count)).round().astype(np.int64))
        made = []
        for number in chosen.tolist():
            cosines_N = embedded.images_ND @ embedded.captions_ND[number]
            nearest = np.argsort(-cosines_N, kind='stable')[: self._of.pictures]
            own = int(embedded.image_of_N[number])
            tiles = [self._framed(int(embedded.rows_N[image]), is_own=image == own) for image in nearest.tolist()]
            title = f'{self._caption(number)} (its own image is number {int(ranks_N[number]) + 1})'
            made.append(artifacts.Image.of(np.concatenate(tiles, axis=1), title))
        return made

    def _read(self, number: int) -> batches.Batch:
        return self._data.examples.gather(np.array([number]), np.zeros(1, np.int64), self._data.seed)

    def _caption(self, number: int) -> str:
        examples: Any = self._data.examples
        text: str = examples.text(self._read(number)['caption'][0])
        return text

    def _framed(self, number: int, *, is_own: bool) -> np.ndarray:
        examples: Any = self._data.examples
        pixels = examples.pixels(self._read(number)['image'][0])
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        Y, X, _ = pixels.shape
        found = np.broadcast_to(np.array(OWN if is_own else OTHER), (Y + 2 * FRAME, X + 2 * FRAME, 3)).copy()
        found[FRAME : FRAME + Y, FRAME : FRAME + X] = pixels
        return found


def _embeddings(outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    numbers = (batch['image_number'],) if 'image_number' in batch else ()
    return outputs['image_embedding'], outputs['text_embedding'], *numbers


def _cells(share: class_scores.Bounded, chance: float) -> tuple[str, str, float]:
    low, high = 100 * share.low, 100 * share.high
    return f'{100 * share.value:.2f}% ({low:.2f} to {high:.2f})', f'{100 * chance:.3f}%', round(share.value / chance, 1)
