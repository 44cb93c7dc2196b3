"""One way to run a trained model on new inputs: from records to artifacts.

predict = open_run('runs/digits').predictor()
predict([{'image': image}])  # A table of labels with their probabilities.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.evaluate.text import decoding, decoding_model, generation, likelihood
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding

PyTree = Any
Record = Mapping[str, Any]

TOKENS = 200  # New tokens at most, where nobody says how many and the model has positions for them.
TARGETS = ('labels', 'values', 'targets', 'loss_weights', 'example_weights')  # Fields that a prediction does not need.
SHOWN = 5  # Labels of a prediction.


@dataclasses.dataclass(frozen=True)
class PredictorWeights:
    """A model with its weights.

    Attributes:
      place: where `params` lie; None: on one device.
    """

    model: models.Model
    params: PyTree
    model_state: PyTree | None = None
    place: sharding.ShardingContext | None = None


class Predictor:
    """Interface: a trained model on new inputs, batched and padded inside and compiled once for each shape."""

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        """The artifact of each record, in their order.

        Raises:
          InputError: a record lacks what the model reads, or does not fit it.
        """
        raise NotImplementedError


class TextPredictor(Predictor):
    """Generates text: the continuation of each record's 'prompt', or its translation by a model with an encoder.

    Args:
      tokens: new tokens at most; of a translation, how many more than its source has. None: TOKENS, or as many as the
        model has positions for.
      rows: sentences that are translated at a time.
      encode: what the model reads of a prompt that it continues; by default it is the beginning of a document.
    """

    def __init__(
        self,
        weights: PredictorWeights,
        tokenizer: tokenizers.Tokenizer,
        *,
        decoding: decoding.Decoding,
        tokens: int | None = None,
        seed: int = 0,
        rows: int = 128,
        encode: generation.EncodePrompt | None = None,
    ):
        self._weights, self._tokenizer, self._decoding = weights, tokenizer, decoding
        self._tokens, self._seed, self._rows, self._encode = tokens, seed, rows, encode

    def __call__(self, records: Sequence[Record]) -> list[artifacts.Text]:
        prompts = [text_of(record) for record in records]
        return [artifacts.Text(prompt=prompt, text=text) for prompt, text in zip(prompts, self._texts(prompts))]

    def _texts(self, prompts: Sequence[str]) -> list[str]:
        decoding.check_texts(prompts)
        weights, own = self._weights, self._tokenizer
        how: dict[str, Any] = {'how': self._decoding, 'seed': self._seed}
        how |= {'model_state': weights.model_state, 'place': weights.place}
        model: Any = weights.model
        if isinstance(model, decoding_model.Generative) and decoding_model.reads_source(model):
            more = self._tokens
            if more is None:
                lengths = (generation.padded_length(generation.source_ids(own, each)) for each in prompts)
                more = _room(model, max(lengths, default=0) + 1)  # The first position is that of the begin token.
            return generation.translate(
                weights.model, weights.params, own, prompts, longer_by=more, rows=self._rows, **how
            )
        tokens = self._tokens
        if tokens is None:
            tokens = _room(model, max(map(len, generation.prompt_ids(own, prompts, self._encode)), default=0))
        how |= {'tokens': tokens, 'encode': self._encode}
        return generation.generate(weights.model, weights.params, own, prompts, **how)


def _room(model: Any, used: int) -> int:
    """TOKENS, or as many as the model has positions for after `used`; the last new token is never read."""
    learned = likelihood.longest(model)
    return TOKENS if learned is None else max(min(TOKENS, learned - used + 1), 1)


def text_of(record: Record) -> str:
    """The 'prompt' of a record.

    Raises:
      InputError: there is none, or it is no text.
    """
    prompt = record.get('prompt')
    if not isinstance(prompt, str):
        raise config.InputError(f"A record for text needs a 'prompt'; this one has {', '.join(record) or 'nothing'}.")
    return prompt


@runtime_checkable
class EncodesText(Protocol):
    """What a prediction from text needs of a data config: the fields that its model reads, from the text."""

    def encode(self, texts: Sequence[Sequence[str]], tokenizer: tokenizers.Tokenizer) -> dict[str, np.ndarray]:
        """The fields of rows, of which `texts` holds the first sentence of each, and the second where there is one."""


@runtime_checkable
class EncodesPrompt(Protocol):
    """What the data config of conversations has: how a model of it is asked."""

    def encode_prompt(self, text: str, tokenizer: tokenizers.Tokenizer) -> np.ndarray:
        """[n] int32: what the model reads to answer `text`."""


class RowPredictor(Predictor):
    """Predicts labels with probabilities, or numbers, from rows: one table for each record.

    A record has the fields of the model's data but for targets, such as {'image': array}; or, where the data is
    sentences, 'prompt' and for pairs 'second'.

    Args:
      data: the data config that the model was trained on.
      names: of the labels, in the order of their numbers; may be empty.
      rows: computed at a time.
    """

    def __init__(
        self,
        weights: PredictorWeights,
        data: batches.Data,
        *,
        tokenizer: tokenizers.Tokenizer | None = None,
        names: Sequence[str] = (),
        rows: int = 64,
    ):
        self._weights, self._data, self._tokenizer, self._names, self._rows = weights, data, tokenizer, names, rows
        self._place = sharding.MeshShape(data=1).build() if weights.place is None else weights.place
        self._step = jax.jit(self._outputs, out_shardings=self._place.replicated)

    def __call__(self, records: Sequence[Record]) -> list[artifacts.Table]:
        arrays = self._arrays(records)
        parts = self._place.shards('batch')
        found: list[artifacts.Table] = []
        for start in range(0, len(records), self._rows):
            count = min(self._rows, len(records) - start)
            # A power of two, so that few shapes are compiled; the rows of padding repeat the last one.
            rows = -(-(1 << (count - 1).bit_length()) // parts) * parts
            chosen = np.minimum(np.arange(rows), count - 1) + start
            mine = self._place.local_rows(rows)
            batch = self._place.put_batch({name: each[chosen][mine] for name, each in arrays.items()}, rows)
            outputs = jax.device_get(self._step((self._weights.params, self._weights.model_state or {}), batch))
            found += [self._table(outputs[row]) for row in range(count)]
        return found

    def _outputs(self, weights: tuple[PyTree, PyTree], batch: dict[str, jax.Array]) -> jax.Array:
        """Probabilities [B, V] of the labels, or the numbers [B]; float32."""
        with sharding.use(self._place):
            outputs, _ = Apply(self._weights.model.build(), *weights)(batch)
        if 'values' in outputs:
            return outputs['values'].astype(jnp.float32)
        return jax.nn.softmax(outputs['logits'].astype(jnp.float32), axis=-1)

    def _table(self, output: np.ndarray) -> artifacts.Table:
        if not output.ndim:
            return artifacts.Table(columns=('value',), rows=((float(output),),))
        best = np.argsort(-output, kind='stable')[:SHOWN]
        names = [self._names[i] if i < len(self._names) else str(i) for i in best.tolist()]
        rows = tuple((name, round(float(output[i]), 6)) for name, i in zip(names, best))
        return artifacts.Table(columns=('label', 'probability'), rows=rows)

    def _arrays(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The fields of all records; those that are no inputs are zeros."""
        if not records:
            raise config.InputError('There is nothing to predict: no records.')
        fields = self._data.fields
        given: Mapping[str, Any]
        if all('prompt' in record for record in records) and 'prompt' not in fields:
            given = self._encoded(records)
        else:
            given = {
                name: [record[name] for record in records] for name in fields if all(name in each for each in records)
            }
        missing = [name for name in fields if name not in given and name not in TARGETS]
        if missing:
            raise config.InputError(
                f'A record lacks {", ".join(map(repr, missing))}: the model reads {", ".join(_inputs(fields))}. In '
                "Python: open_run(DIRECTORY).predictor()([{'" + missing[0] + "': array}])."
            )
        return {name: self._array(name, field, given.get(name), len(records)) for name, field in fields.items()}

    def _encoded(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        if not isinstance(self._data, EncodesText) or self._tokenizer is None:
            inputs = _inputs(self._data.fields)
            raise config.InputError(
                f'{type(self._weights.model).__name__} does not read text, but {", ".join(inputs)}. In Python: '
                f'open_run(DIRECTORY).predictor()([{{{inputs[0]!r}: array}}]) predicts from arrays.'
            )
        second = [each for each in records if 'second' in each]
        if second and len(second) < len(records):
            raise config.InputError("Some records have a 'second' sentence and some have none; give it for all.")
        columns = [[text_of(record) for record in records]]
        columns += [[str(record['second']) for record in records]] if second else []
        decoding.check_texts([text for column in columns for text in column])
        return self._data.encode(columns, self._tokenizer)

    @staticmethod
    def _array(name: str, field: batches.Field, values: Any, count: int) -> np.ndarray:
        if values is None:
            return np.zeros((count, *field.shape), field.dtype)
        try:
            array = np.asarray(values, field.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise config.InputError(f'{name!r} of the records is not an array of {field.dtype}: {error}.') from error
        if array.shape[1:] != field.shape:
            raise config.InputError(f'{name!r} of a record has the shape {array.shape[1:]}, not {field.shape}.')
        bound = field.upper_bound
        if bound is not None and (array.min() < 0 or array.max() >= bound):
            raise config.InputError(f'{name!r} of a record holds numbers outside 0 to {bound - 1}.')
        return array


def _inputs(fields: Mapping[str, batches.Field]) -> list[str]:
    return [name for name in fields if name not in TARGETS]


def check_template(data: batches.Data, *, template: bool) -> None:
    """Raises InputError if a template is to be left out that the data has not."""
    if not template and not isinstance(data, EncodesPrompt):
        raise config.InputError(f'{type(data).__name__} has no template: prompts are read as they are. Leave it out.')


def prompt_encoder(
    data: batches.Data, tokenizer: tokenizers.Tokenizer, *, template: bool
) -> generation.EncodePrompt | None:
    """How a model of `data` reads a prompt: as a message written with the template of conversations, or (None) as is.

    Raises:
      InputError: without a template, of data that has none.
    """
    check_template(data, template=template)
    if template and isinstance(data, EncodesPrompt):
        return functools.partial(data.encode_prompt, tokenizer=tokenizer)
    return None


def predictor(
    weights: PredictorWeights,
    data: batches.Data,
    *,
    tokenizer: tokenizers.Tokenizer | None,
    how: decoding.Decoding | None = None,
    tokens: int | None = None,
    seed: int = 0,
    template: bool = True,
) -> Predictor:
    """The predictor that fits a model: of text where it generates text, else of labels or numbers.

    Args:
      data: the data config that the model was trained on.
      how, tokens, seed: of generated text; by default it is sampled.
      template: whether a prompt to a model of conversations is a message, written as its data writes them; else it is
        read as it is.

    Raises:
      InputError: none fits; or the data has no template that could be left out.
    """
    if isinstance(weights.model, decoding_model.Generative):
        if tokenizer is None:
            raise config.InputError('The model was trained on data without a tokenizer; it cannot generate text.')
        how = decoding.Sampling() if how is None else how
        encode = prompt_encoder(data, tokenizer, template=template)
        return TextPredictor(weights, tokenizer, decoding=how, tokens=tokens, seed=seed, encode=encode)
    check_template(data, template=template)
    fields = {name: jax.ShapeDtypeStruct((1, *field.shape), field.dtype) for name, field in data.fields.items()}
    apply = Apply(weights.model.build(), weights.params, weights.model_state or {})
    with sharding.use(sharding.MeshShape(data=1).build() if weights.place is None else weights.place):
        outputs, _ = jax.eval_shape(apply, fields)
    ranks = {name: len(each.shape) for name, each in outputs.items() if hasattr(each, 'shape')}
    if ranks.get('values') != 1 and ranks.get('logits') != 2:
        shapes = ', '.join(f'{name} {each.shape}' for name, each in outputs.items() if hasattr(each, 'shape'))
        raise config.InputError(
            f'{type(weights.model).__name__} gives {shapes or "nothing"}: neither text, nor labels of rows (logits '
            '[B, V]), nor numbers (values [B]), which can be predicted.'
        )
    names = getattr(data, 'labels', ())
    names = names if isinstance(names, tuple) else ()
    return RowPredictor(weights, data, tokenizer=tokenizer, names=names)
