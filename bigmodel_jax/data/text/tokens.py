"""A tokenized text: one flat file of tokens in the cache, written in shards, so that preparation can resume."""

import io
import os
import pathlib
import random
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import cache, preparation_progress, records
from bigmodel_jax.data.text import tokenizer as interface
from bigmodel_jax.data.text import tokenizers

FORMAT = 1  # Raise it whenever the files change.
TOKENS, STARTS = 'tokens.bin', 'starts.npy'
IDS, LENGTHS = '.ids', '.npy'  # Of a shard.
SMALLEST_SHARD, MOST_SHARDS = 256, 1_000  # In documents; so that little is lost, and no file system chokes.


class Corpus(NamedTuple):
    """The stream `end, document, end, document, end ...`."""

    tokens: np.ndarray  # [N] uint16 or uint32, mapped from the disk.
    starts: np.ndarray  # [documents + 1] int64: position of the `end` before each document, and of the last `end`.
    tokenizer: interface.Tokenizer
    fingerprint: Mapping[str, Any]

    @property
    def pairs(self) -> int:
        """Pairs of a token and the one after it."""
        return len(self.tokens) - 1


def tokenized(source: records.Source, vocabulary: tokenizers.Vocabulary, *, keep_empty: bool = False) -> Corpus:
    """The tokens of a source, prepared on first use.

    Args:
      keep_empty: also keep documents without a token, where their numbers matter; otherwise they are left out.

    Raises:
      InputError: the source or the tokenizer cannot be used.
    """
    texts, built = records.texts(source), vocabulary.build()
    key = {'source': dict(texts.fingerprint), 'tokenizer': built.fingerprint, 'format': FORMAT}
    key |= {'empty': 'kept'} if keep_empty else {}
    dtype = np.uint16 if built.size <= 2**16 else np.uint32

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        _make_shards(texts, _Writer(built, dtype, keep_empty), parts)
        _join(sorted(parts.glob(f'*{LENGTHS}')), directory, end=np.array([built.end], dtype))

    directory = cache.prepared('tokens', key, make)
    tokens = np.memmap(directory / TOKENS, dtype, 'r')
    starts = np.load(directory / STARTS)
    if len(starts) < 2:
        raise config.InputError(f'{texts.name} holds no text: its {len(texts)} documents give no token.')
    digest = cache.contents(directory)['files'][TOKENS]['sha256']
    fingerprint = {
        'source': dict(texts.fingerprint), 'tokenizer': built.fingerprint,
        'documents': len(starts) - 1, 'tokens': len(tokens), 'sha256': digest,
    }  # fmt: skip
    return Corpus(tokens, starts, built, fingerprint)


def _make_shards(texts: records.TextView, writer: '_Writer', parts: pathlib.Path) -> None:
    size = max(SMALLEST_SHARD, -(-len(texts) // MOST_SHARDS))
    shards = -(-len(texts) // size)
    # Each process starts with another shard, so that processes that prepare the same text at once share the work.
    begin = random.randrange(shards)
    order = [(begin + i) % shards for i in range(shards)]
    for shard in preparation_progress.track(order, total=shards, what=f'Tokenizing {texts.name}'):
        path = parts / f'{shard:06d}{LENGTHS}'
        if not path.exists():
            writer.write(path, texts.read(shard * size, min((shard + 1) * size, len(texts))))


class _Writer:
    """Writes shards: the ids of some documents, each followed by `end`, in one file, and their lengths in another.

    Ids are written as they come, so that a long document takes little more memory than its text.
    """

    def __init__(self, own: interface.Tokenizer, dtype: type, keep_empty: bool):
        self._tokenizer, self._dtype, self._keep_empty = own, dtype, keep_empty

    def write(self, path: pathlib.Path, texts: list[str]) -> None:
        """Writes the shard whose lengths go to `path`; these come last, so that where they are the ids are whole."""
        temporary = path.with_name(f'{path.stem}.{uuid.uuid4().hex}')
        with temporary.open('wb') as file:
            lengths = [self._write_document(file, parts) for parts in self._encoded(texts)]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path.with_suffix(IDS))
        content = io.BytesIO()
        np.save(content, np.array([length for length in lengths if length], np.int64))
        cache.write_atomically(path, content.getvalue())

    def _encoded(self, texts: list[str]) -> Iterator[Iterable[np.ndarray]]:
        """The ids of each document, in parts."""
        if all(len(text) <= interface.LONG_TEXT for text in texts):
            yield from ([ids] for ids in self._tokenizer.encode_many(texts))
        else:
            yield from (map(self._tokenizer.encode, self._tokenizer.parts(text)) for text in texts)

    def _write_document(self, file: IO[bytes], parts: Iterable[np.ndarray]) -> int:
        """Returns how many ids were written; 0 if the document has none and is left out."""
        length = 0
        for ids in parts:
            self._put(file, ids)
            length += len(ids)
        if length or self._keep_empty:
            self._put(file, np.array([self._tokenizer.end]))
            length += 1
        return length

    def _put(self, file: IO[bytes], ids: np.ndarray) -> None:
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._tokenizer.size:
            raise config.InputError(
                f'The tokenizer says that its ids stay below {self._tokenizer.size}, but gives {ids.min()} to '
                f'{ids.max()}; its files do not belong together.'
            )
        file.write(ids.astype(self._dtype).tobytes())


def _join(shards: list[pathlib.Path], directory: pathlib.Path, *, end: np.ndarray) -> None:
    lengths = [np.zeros(1, np.int64)]
    with (directory / TOKENS).open('wb') as file:
        file.write(end.tobytes())
        for path in shards:
            with path.with_suffix(IDS).open('rb') as ids:
                shutil.copyfileobj(ids, file, 2**20)
            lengths.append(np.load(path))
    np.save(directory / STARTS, np.cumsum(np.concatenate(lengths)))
