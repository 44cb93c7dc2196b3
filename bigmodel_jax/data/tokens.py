"""A tokenized text: one flat file of tokens in the cache, made in shards so that a killed preparation goes on."""

import io
import pathlib
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import cache, documents, progress, sources, tokenizers

FORMAT = 1  # Raise it whenever the files change.
TOKENS, STARTS = 'tokens.bin', 'starts.npy'
SMALLEST_SHARD, MOST_SHARDS = 256, 1_000  # In documents; so that little is lost, and no file system chokes.


class Corpus(NamedTuple):
    """The stream `end, document, end, document, end ...`."""

    tokens: np.ndarray  # [N] uint16 or uint32, mapped from the disk.
    starts: np.ndarray  # [documents + 1] int64: position of the `end` before each document, and of the last `end`.
    tokenizer: tokenizers.Tokenizer
    fingerprint: Mapping[str, Any]

    @property
    def pairs(self) -> int:
        """Pairs of a token and the one after it."""
        return len(self.tokens) - 1


def tokenized(source: sources.Source, vocabulary: tokenizers.Vocabulary, *, keep_empty: bool = False) -> Corpus:
    """The tokens of a source, prepared on first use.

    Args:
      keep_empty: also keep documents without a token, where their numbers matter; otherwise they are left out.

    Raises:
      InputError: the source or the tokenizer cannot be used.
    """
    texts, tokenizer = source.open(), vocabulary.build()
    key = {'source': dict(texts.fingerprint), 'tokenizer': tokenizer.fingerprint, 'format': FORMAT}
    key |= {'empty': 'kept'} if keep_empty else {}
    dtype = np.uint16 if tokenizer.size <= 2**16 else np.uint32

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        _make_shards(texts, tokenizer, parts, keep_empty)
        _join(sorted(parts.glob('*.npz')), directory, end=tokenizer.end, dtype=dtype)

    directory = cache.prepared('tokens', key, make)
    tokens = np.memmap(directory / TOKENS, dtype, 'r')
    starts = np.load(directory / STARTS)
    if len(starts) < 2:
        raise config.InputError(f'{texts.name} holds no text: its {len(texts)} documents give no token.')
    digest = cache.contents(directory)['files'][TOKENS]['sha256']
    fingerprint = {
        'source': dict(texts.fingerprint), 'tokenizer': tokenizer.fingerprint,
        'documents': len(starts) - 1, 'tokens': len(tokens), 'sha256': digest,
    }  # fmt: skip
    return Corpus(tokens, starts, tokenizer, fingerprint)


def _make_shards(
    texts: documents.Documents, tokenizer: tokenizers.Tokenizer, parts: pathlib.Path, keep_empty: bool
) -> None:
    size = max(SMALLEST_SHARD, -(-len(texts) // MOST_SHARDS))
    shards = -(-len(texts) // size)
    # Everybody begins elsewhere, so that processes that prepare the same text at once share the work.
    begin = random.randrange(shards)
    order = [(begin + i) % shards for i in range(shards)]
    for shard in progress.track(order, total=shards, what=f'Tokenizing {texts.name}'):
        path = parts / f'{shard:06d}.npz'
        if not path.exists():
            encoded = tokenizer.encode_many(texts.read(shard * size, min((shard + 1) * size, len(texts))))
            kept = encoded if keep_empty else [ids for ids in encoded if len(ids)]
            _write_shard(path, [np.append(ids, tokenizer.end) for ids in kept])


def _write_shard(path: pathlib.Path, kept: list[np.ndarray]) -> None:
    content = io.BytesIO()
    joined = np.concatenate(kept).astype(np.uint32) if kept else np.zeros(0, np.uint32)
    np.savez(content, tokens=joined, lengths=np.array([len(ids) for ids in kept], np.int64))
    cache.write_atomically(path, content.getvalue())


def _join(shards: list[pathlib.Path], directory: pathlib.Path, *, end: int, dtype: type) -> None:
    lengths = [np.zeros(1, np.int64)]
    with (directory / TOKENS).open('wb') as file:
        file.write(np.array([end], dtype).tobytes())
        for path in shards:
            with np.load(path) as shard:
                file.write(shard['tokens'].astype(dtype).tobytes())
                lengths.append(shard['lengths'])
    np.save(directory / STARTS, np.cumsum(np.concatenate(lengths)))
