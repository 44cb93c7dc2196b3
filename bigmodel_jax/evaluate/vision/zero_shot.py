"""Zero-shot classification: an image is of the class whose name, written into a sentence, is nearest to it."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import records
from bigmodel_jax.data.vision import captioned, images
from bigmodel_jax.evaluate import all_rows, artifacts, class_scores, evaluation, metric
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding

PyTree = Any
NAME = '{}'  # Where the name of a class stands in a template.
TEMPLATES = ('a photo of a {}.',)
# A subset of the 80 templates of ImageNet that does as well as all of them, from the released code of CLIP.
IMAGENET_TEMPLATES = (
    'itap of a {}.',
    'a bad photo of the {}.',
    'a origami {}.',
    'a photo of the large {}.',
    'a {} in a video game.',
    'art of the {}.',
    'a photo of the small {}.',
)
SHOWN = 20  # Classes that the table lists: those that are recognised least.
DEFINITIONS: metric.Definitions = {
    f'{name}{end}': metric.Definition('higher', '%')
    for name in ('accuracy', 'top5_accuracy')
    for end in ('', '_low', '_high')
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot(evaluation.Evaluation):
    """The classes of labelled images, told by their names alone, by a model of images and captions.

    The vector of a class is the mean of those of its templates, each of length 1, scaled to length 1 (Radford et al.,
    2021, section 3.1.4). Metrics, in %: 'accuracy' and 'top5_accuracy', each with Wilson's 95% interval ('_low',
    '_high'); the signature is a hash of the prompts. Artifacts: the classes that are recognised least, with what they
    are taken for most often.
    """

    data: images.Images
    every_steps: config.Positive
    names: tuple[str, ...] | records.Source  # Of the classes, by their numbers; or a source whose `text` is a name.
    templates: tuple[str, ...] = TEMPLATES
    name: str = 'zero_shot'

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.NAMED_IMAGES

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return DEFINITIONS

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        wrong = [each for each in self.templates if each.count(NAME) != 1]
        if wrong or not self.templates:
            raise config.InputError(
                f'Evaluation {self.name!r}: the template {wrong[0] if wrong else ""!r} should have {NAME} once, where '
                "the name of a class stands, as 'a photo of a {}.'."
            )
        if not isinstance(setting.data, captioned.Captioned):
            raise config.InputError(
                f'Evaluation {self.name!r} reads names as the captions of training are read, but the training data is '
                f'{type(setting.data).__name__}, not Captioned; leave it out.'
            )
        if self.data.views is not None:
            raise config.InputError(f'Evaluation {self.name!r}: data.views is not implemented here; leave it out.')
        return ZeroShotEvaluator(self, setting)


class ZeroShotEvaluator(evaluation.Evaluator):
    """Embeds the prompts, then all images in order, and scores them on the host."""

    def __init__(self, of: ZeroShot, setting: evaluation.EvaluationContext):
        self._of, self._setting = of, setting
        self._data = setting.open(of.data, of.name)
        self._names = _names(of)
        prompts = [each.replace(NAME, name) for name in self._names for each in of.templates]
        tokenizer, length = setting.need_tokenizer(of.name), setting.data.length  # type: ignore[attr-defined]
        encoded = tokenizer.encode_many(prompts)
        most = length - captioned.outer_tokens(tokenizer)
        longer = [prompt for prompt, ids in zip(prompts, encoded) if len(ids) > most]
        if longer:
            raise config.InputError(
                f'Evaluation {of.name!r}: {len(longer)} of {len(prompts)} prompts have more than the {most} tokens '
                f'that fit into data.length={length}, such as {longer[0]!r}; shorten the names or the templates.'
            )
        self._prompts = captioned.rows_of(encoded, tokenizer, length=length)
        self.signature = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:12]
        self.fingerprint = {**self._data.examples.fingerprint, 'prompts': self.signature}
        self._embed = all_rows.AllRows(setting, _chosen)
        self._embed_prompts = jax.jit(self._embeddings)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        classes_VD = self._classes(params, model_state)
        found = self._embed(self._data, params, model_state)
        image_ND, labels_N = (each[: len(self._data.examples)] for each in found)
        cosines_NV = image_ND.astype(np.float64) @ classes_VD.T
        if not np.isfinite(cosines_NV).all():
            return evaluation.EvaluationResult({name: each.measured(np.nan) for name, each in DEFINITIONS.items()})
        values = {}
        for name, top in (('accuracy', 1), ('top5_accuracy', 5)):
            wrong = class_scores.error(cosines_NV, labels_N, top=top)
            share = class_scores.rate(round(len(labels_N) * (1 - wrong / 100)), len(labels_N))
            values |= {f'{name}{end}': 100 * value for end, value in zip(('', '_low', '_high'), share)}
        measured = {
            name: dataclasses.replace(DEFINITIONS[name].measured(value), signature=f'prompts:{self.signature}')
            for name, value in values.items()
        }
        return evaluation.EvaluationResult(measured, (self._table(cosines_NV.argmax(axis=1), labels_N),))

    def _classes(self, params: PyTree, model_state: PyTree) -> np.ndarray:
        """[V, D]: the vectors of the classes, of length 1."""
        rows = self._data.rows
        count, found = len(self._prompts['caption']), []
        for start in range(0, count, rows):  # Each time as many, so that one program does for all.
            chosen = np.minimum(np.arange(start, start + rows), count - 1)
            batch = {name: array[chosen] for name, array in self._prompts.items()}
            found.append(np.asarray(jax.device_get(self._embed_prompts(params, model_state, batch))))
        prompts_ND = np.concatenate(found)[:count].astype(np.float64)
        means_VD = prompts_ND.reshape(len(self._names), len(self._of.templates), -1).mean(axis=1)
        return means_VD / np.linalg.norm(means_VD, axis=1, keepdims=True)

    def _embeddings(self, params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        with sharding.use(self._setting.place):
            outputs, _ = Apply(self._setting.module, params, model_state)(batch)
        return jnp.asarray(outputs['text_embedding'])

    def _table(self, predicted_N: np.ndarray, labels_N: np.ndarray) -> artifacts.Table:
        matrix_VV = class_scores.confusion(labels_N, predicted_N, classes=len(self._names))
        counts = class_scores.by_class(matrix_VV)
        seen = [number for number, each in enumerate(counts) if each.actual]
        worst = sorted(seen, key=lambda number: counts[number].recall.value)[:SHOWN]
        rows = []
        for number in worst:
            others = matrix_VV[number] * (np.arange(len(counts)) != number)
            taken = self._names[int(others.argmax())] if others.any() else '-'
            share = counts[number].recall
            shown = f'{100 * share.value:.1f}% ({100 * share.low:.1f} to {100 * share.high:.1f})'
            rows.append((self._names[number], counts[number].actual, shown, taken))
        columns = ('class', 'images', 'recognised (95%)', 'mostly taken for')
        return artifacts.Table(title='Classes recognised least', columns=columns, rows=tuple(rows))


def _names(of: ZeroShot) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
      InputError: there are not as many as classes, one is empty, or two are alike.
    """
    found = tuple(records.texts(of.names)) if isinstance(of.names, records.Source) else of.names
    found = tuple(each.strip() for each in found)
    if len(found) != of.data.classes:
        raise config.InputError(
            f'Evaluation {of.name!r} has {len(found)} names of classes, but its data has {of.data.classes} classes.'
        )
    twice = sorted({each for each in found if found.count(each) > 1})
    if twice or not all(found):
        problem = f'two classes have the name {twice[0]!r}' if twice and twice[0] else 'a class has an empty name'
        raise config.InputError(f'Evaluation {of.name!r}: {problem}, so that a name does not tell the class.')
    return found


def _chosen(outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    return outputs['image_embedding'], batch['labels']
