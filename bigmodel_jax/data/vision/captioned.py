"""Images with captions as batches: records with an image and one or more texts, after transforms and a tokenizer."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, cache, counter_rng, preparation_progress, records
from bigmodel_jax.data.text import tokenizer as tokenizing
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.transforms import Transform
from bigmodel_jax.data.vision import images
from bigmodel_jax.data.vision.transforms import Normalize

DRAWN = 0x63617074  # 'capt' in ASCII: of the random numbers that choose a caption.
IMAGE = 'captioned.image'  # The field that numbers the images.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned(batches.Data):
    """Images and their captions.

    A batch holds, where n is `batch`, [Y, X, Z] is `shape` and T is `length`:
      image: [n, Y, X, Z] float32, as the `transforms` leave it.
      caption: [n, T] int32: the tokenizer's `begin` where it has one of its own, the tokens, `end`, and `end` again as
        padding. For CLIP's own tokenizer that is what its released code makes of a caption.
      caption_end: [n] int32: the position of the first `end`.
    and with each_caption=True, where an example is a caption and not an image:
      image_number: [n] int32: captions of one image have one number.
    """

    source: records.Source  # Of records with an image and text, such as ImageFiles, or Tfds(name='coco_captions').
    shape: tuple[config.Positive, config.Positive, config.Positive]  # After the transforms: rows, columns, channels.
    tokenizer: tokenizers.Vocabulary
    length: config.Positive  # T, with `begin` and `end`; CLIP's is 77.
    batch: config.Positive
    transforms: tuple[Transform, ...] = (Normalize(),)
    image: str = 'image'  # The field of the source's records that holds the image,
    # and those that hold its captions: each a text or a list of texts. In each epoch one is drawn for each image.
    captions: tuple[records.Field, ...] = ('caption',)
    # A caption with more tokens than `length` is refused before training starts; or cut, and how many are is said.
    too_long: Literal['refuse', 'cut'] = 'refuse'
    each_caption: bool = False  # Every caption is an example, with its image; for evaluation.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self, self.tokenizer.upper_bound)

    @property
    def units(self) -> batches.Units:
        return batches.Units('images', 1)

    def build(self, seed: int) -> batches.Batches:
        if self.length < 3:
            raise config.InputError(f'data.length={self.length} leaves no room for a caption between begin and end.')
        return batches.Batches(CaptionedExamples(self), rows=self.batch, seed=seed)


def _fields(data: Captioned, upper_bound: int | None) -> dict[str, batches.Field]:
    integers = np.dtype(np.int32)
    number = {'image_number': batches.Field((), integers, ())}
    return {
        'image': batches.Field(data.shape, np.dtype(np.float32), ('height', 'width', 'channels')),
        'caption': batches.Field((data.length,), integers, ('length',), upper_bound),
        'caption_end': batches.Field((), integers, (), data.length),
        **(number if data.each_caption else {}),
    }


def rows_of(encoded: Sequence[np.ndarray], tokenizer: tokenizing.Tokenizer, *, length: int) -> batches.Batch:
    """The fields `caption` and `caption_end` of captions; those that are too long are cut before their end."""
    found = np.full((len(encoded), length), tokenizer.end, np.int32)
    before = outer_tokens(tokenizer) - 1
    found[:, :before] = tokenizer.begin
    ends = before + np.minimum([len(ids) for ids in encoded], length - before - 1)
    for row, ids, end in zip(found, encoded, ends.tolist()):
        row[before:end] = ids[: end - before]
    return {'caption': found, 'caption_end': ends.astype(np.int32)}


def outer_tokens(tokenizer: tokenizing.Tokenizer) -> int:
    """How many tokens stand around a caption: `end`, and `begin` where the tokenizer has one of its own for it."""
    return 1 + (tokenizer.begin != tokenizer.end)


class EncodedCaptions(NamedTuple):
    """The captions of all records as tokens, one after the other."""

    tokens: np.ndarray  # [tokens] int32
    starts: np.ndarray  # [captions + 1] int64
    firsts: np.ndarray  # [records + 1] int64: the first caption of each record.

    def caption(self, number: int) -> np.ndarray:
        """[n] int32."""
        return self.tokens[self.starts[number] : self.starts[number + 1]]


def encoded(
    found: records.Records, fields: Sequence[records.Field], tokenizer: tokenizing.Tokenizer
) -> EncodedCaptions:
    """The captions of records; encoded once, and kept in the cache.

    Raises:
      InputError: a caption is missing, empty or no text.
    """
    key = {'records': dict(found.fingerprint), 'fields': list(fields), 'tokenizer': tokenizer.fingerprint,
           'format': 'captions 1'}  # fmt: skip

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        tokens, lengths, counts = [np.zeros(0, np.int32)], [0], [0]
        chunks = preparation_progress.track(
            found.without_images.chunks(), total=-(-len(found) // 1_024), what=f'Encoding the captions of {found.name}'
        )
        for first, chunk in chunks:
            texts = [list(_texts(found, record, number, fields)) for number, record in enumerate(chunk, first)]
            ids = tokenizer.encode_many([text for each in texts for text in each])
            tokens += ids
            lengths += [len(each) for each in ids]
            counts += [len(each) for each in texts]
        arrays = EncodedCaptions(np.concatenate(tokens), np.cumsum(lengths), np.cumsum(counts))
        np.savez(directory / 'captions.npz', **arrays._asdict())

    with np.load(cache.prepared('captions', key, make) / 'captions.npz') as stored:
        return EncodedCaptions(**stored)


def _texts(
    found: records.Records, record: records.Record, number: int, fields: Sequence[records.Field]
) -> Iterator[str]:
    """The captions of a record, in the order of the fields."""
    where = functools.partial(found.where, number)
    for field in fields:
        value = records.value(record, field, where)
        is_list = isinstance(value, list | tuple | np.ndarray)
        if is_list and not len(value):
            raise config.InputError(f'{where()}: {field!r} is an empty list; give at least one caption, or remove it.')
        for text in value if is_list else [value]:
            caption = records.text({field: text}, field, where)
            if not caption.strip():
                raise config.InputError(
                    f'{where()}: the caption in {field!r} is empty, and would be paired with an image all the same; '
                    'write one or remove the record.'
                )
            yield caption


class Numbered(records.Records):
    """Records of which each has its number too, for images.ImageExamples, which looks for the number of a class."""

    def __init__(self, found: records.Records):
        self._found, self.name, self.fingerprint = found, found.name, found.fingerprint
        self.shapes, self.where = found.shapes, found.where  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self._found)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [{**record, IMAGE: number} for number, record in enumerate(self._found.read(start, stop), start)]

    def gather(self, indices: Sequence[int]) -> list[records.Record]:
        return [{**record, IMAGE: number} for number, record in zip(indices, self._found.gather(indices))]

    def open(self) -> records.Records:
        return self


class CaptionedExamples(batches.Examples):
    """Images that are read and transformed one by one, each with one of its captions.

    A pure function of (seed, epoch, example).
    """

    def __init__(self, data: Captioned):
        found, self.tokenizer = data.source.open(), data.tokenizer.build()
        self._data, self.fields = data, _fields(data, self.tokenizer.size)
        self.captions = encoded(found, data.captions, self.tokenizer)
        self._too_long(found)
        pictures = images.Images(
            source=Numbered(found),  # type: ignore[arg-type]  # It opens as itself.
            shape=data.shape,
            classes=2**31 - 1,
            batch=1,
            transforms=data.transforms,
            image=data.image,
            label=IMAGE,
        )
        self._images = images.ImageExamples(pictures)
        self._image_of = np.repeat(np.arange(len(found)), np.diff(self.captions.firsts))
        self.fingerprint: Mapping[str, Any] = {
            **found.fingerprint,
            'fields': [data.image, *data.captions],
            'transforms': config.to_json(data.transforms),
            'tokenizer': self.tokenizer.fingerprint,
            'length': data.length,
            **({'each_caption': True} if data.each_caption else {}),
        }

    def _too_long(self, found: records.Records) -> None:
        """Refuses captions that are longer than the context, or says how many are cut."""
        data, most = self._data, self._data.length - outer_tokens(self.tokenizer)
        lengths = np.diff(self.captions.starts)
        (longer,) = np.nonzero(lengths > most)
        if not len(longer):
            return
        said = (
            f'{len(longer):,} of {len(lengths):,} captions have more than the {most} tokens that fit into data.length='
            f'{data.length}; the longest has {int(lengths.max()):,}'
        )
        if data.too_long == 'cut':
            preparation_progress.say(f'{found.name}: {said}. They are cut.')
            return
        record = int(np.searchsorted(self.captions.firsts, longer[0], side='right')) - 1
        raise config.InputError(
            f"{found.where(record)}: {said}. Use a larger length, or data.too_long='cut' to leave out what does not "
            'fit.'
        )

    def __len__(self) -> int:
        return len(self._image_of) if self._data.each_caption else len(self._images)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """[Y, X, Z] float32 in [0, 1]: an image of a batch as it is to be looked at."""
        return self._images.pixels(image)

    def text(self, caption: np.ndarray) -> str:
        """The text of a caption of a batch."""
        inside = caption[outer_tokens(self.tokenizer) - 1 :]
        return self.tokenizer.decode(inside[inside != self.tokenizer.end])

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        data, firsts = self._data, self.captions.firsts
        numbers = self._image_of[indices] if data.each_caption else indices
        counts = firsts[numbers + 1] - firsts[numbers]
        drawn = firsts[numbers] + counter_rng.integers(counts, seed, epochs, indices, DRAWN)
        chosen = indices if data.each_caption else drawn
        read = self._images.gather(numbers, epochs, seed)
        ids = [self.captions.caption(number) for number in chosen.tolist()]
        batch = {'image': read['image'], **rows_of(ids, self.tokenizer, length=data.length)}
        return batch | ({'image_number': numbers.astype(np.int32)} if data.each_caption else {})
