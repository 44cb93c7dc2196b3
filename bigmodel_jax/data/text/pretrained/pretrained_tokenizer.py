"""Existing tokenizers: the tokenizer.json of a Hugging Face directory, or the model file of SentencePiece."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data.text.pretrained import pretrained_base, pretrained_sentencepiece, special_tokens
from bigmodel_jax.data.text.tokenizer import Tokenizer, Vocabulary, import_library

JSON, MODELS = 'tokenizer.json', ('tokenizer.model', 'spiece.model', 'sentencepiece.model', 'sentencepiece.bpe.model')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained(Vocabulary):
    """The tokenizer of an existing model: nothing is trained, and ids are those that the model knows.

    The special tokens are those that tokenizer_config.json, special_tokens_map.json, generation_config.json or
    config.json beside it name, in this order; a field that is given here goes before all of them. The letters of a
    special token within a document are text, and do not become the token.
    """

    path: str  # A directory with tokenizer.json or tokenizer.model; or one of these files, or any '*.model'.
    bos: str | None = None  # Stands before a document.
    eos: str | None = None  # Ends a document, and generation.
    pad: str | None = None
    unk: str | None = None
    add_bos: bool | None = None  # Whether a prompt begins with BOS; None: as the tokenizer's own files say.
    add_eos: bool | None = None  # Whether encode_with_special_tokens() appends EOS.

    def build(self) -> Tokenizer:
        path = _find(epath.Path(self.path).expanduser())
        special = special_tokens.read(path.parent)
        given = {role: getattr(self, role) for role in ('bos', 'eos', 'pad', 'unk')}
        special = special._replace(
            tokens={**special.tokens, **{role: token for role, token in given.items() if token is not None}},
            add_bos=special.add_bos if self.add_bos is None else self.add_bos,
            add_eos=special.add_eos if self.add_eos is None else self.add_eos,
        )
        kind = PretrainedTokenizer if path.suffix == '.json' else pretrained_sentencepiece.PretrainedSentencePiece
        return kind(path.read_bytes(), special, where=str(path))


def _find(path: epath.Path) -> epath.Path:
    """The file that defines the tokenizer.

    Raises:
      InputError: there is none.
    """
    if path.is_dir():
        candidates = [path / name for name in (JSON, *MODELS) if (path / name).is_file()]
        if candidates:
            return candidates[0]
        names = sorted(each.name for each in path.iterdir())
        raise config.InputError(
            f'{path} holds no tokenizer: neither {JSON} nor {", ".join(MODELS)}. It holds: '
            f'{", ".join(names[:12]) or "nothing"}. For a tokenizer in another form, write {JSON} with '
            f"transformers: AutoTokenizer.from_pretrained('{path}').save_pretrained('{path}')."
        )
    if not path.is_file():
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise config.InputError(f'There is no tokenizer at {path}.{config.nearest(path.name, siblings[:200])}')
    if path.suffix not in ('.json', '.model'):
        raise config.InputError(f'{path} is neither a {JSON} nor a SentencePiece *.model; the name decides which.')
    return path


class PretrainedTokenizer(pretrained_base.PretrainedBase):
    """A tokenizer.json of the `tokenizers` library, as it is.

    The bytes of a token are those of its own letters: exact for byte-level BPE, and but for the space in front of a
    text for SentencePiece.
    """

    FILE = JSON

    def _open(self) -> None:
        self._model = self._load()
        self._model.encode_special_tokens = True  # '</s>' in a document is four letters, not its end.
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self.size = 1 + max(vocabulary.values(), default=-1)
        if self.size > pretrained_base.LARGEST_ID:
            return
        added = self._model.get_added_tokens_decoder()
        of_token = _byte_counter(json.loads(self._content).get('decoder'))
        self.token_bytes = np.zeros(self.size, np.int32)
        for token, i in vocabulary.items():
            self.token_bytes[i] = of_token(token)
        for i, token in added.items():
            self.token_bytes[i] = 0 if token.special else len(token.content.encode())

    def _load(self) -> Any:
        with _LibraryErrors(self._where):
            model = import_library('tokenizers').Tokenizer.from_buffer(self._content)
        model.no_padding()
        model.no_truncation()
        return model

    @functools.cached_property
    def _rendering(self) -> Any:
        """The model that takes the letters of special tokens for the tokens."""
        model = self._load()
        model.encode_special_tokens = False
        return model

    def _added_by_default(self) -> tuple[bool, bool]:
        with _LibraryErrors(self._where):
            alone, whole = (self._model.encode('a', add_special_tokens=added).ids for added in (False, True))
        before = next((i for i in range(len(whole)) if whole[i : i + len(alone)] == alone), 0)
        if before and self._bos is None:
            self._bos = whole[0]
        add_bos, add_eos = self._special.add_bos, self._special.add_eos
        return (
            before > 0 if add_bos is None else add_bos,
            len(whole) > before + len(alone) if add_eos is None else add_eos,
        )

    def _token(self, i: int) -> str | None:
        return self._model.id_to_token(i)

    def _lookup(self, token: str) -> int | None:
        return self._model.token_to_id(token)

    def _specials(self) -> list[str]:
        return [token.content for token in self._model.get_added_tokens_decoder().values() if token.special]

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        with _LibraryErrors(self._where):
            found = self._model.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in found]

    def encode_rendered(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        with _LibraryErrors(self._where):
            found = self._rendering.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.int32), np.array(found.offsets, np.int64).reshape(-1, 2)

    def spans(self, text: str) -> np.ndarray:
        with _LibraryErrors(self._where):
            found = self._model.encode(text, add_special_tokens=False)
        return np.array(found.offsets, np.int64).reshape(-1, 2)

    def decode(self, ids: Iterable[int]) -> str:
        inside = [i for i in np.asarray(ids).astype(np.int64).tolist() if 0 <= i < self.size]
        with _LibraryErrors(self._where):
            return self._model.decode(inside, skip_special_tokens=True)


class _LibraryErrors:
    """Turns what the library raises into an InputError; its panics are not of the class Exception."""

    def __init__(self, where: str):
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        name = type(error).__name__
        if error is not None and (kind in (ValueError, Exception) or name == 'PanicException'):
            raise config.InputError(f'{self._where} cannot be used by the tokenizers library: {error}') from error


def _byte_counter(decoder: Any) -> Any:
    """token -> bytes of text, by the decoder that a tokenizer.json names."""
    kinds = set(_kinds(decoder))
    if 'ByteLevel' in kinds:
        return len  # A character stands for a byte.
    if 'WordPiece' in kinds:
        return lambda token: len(token[2:].encode()) if token.startswith('##') else len(token.encode()) + 1
    return pretrained_base.piece_bytes


def _kinds(decoder: Any) -> Iterator[str]:
    if isinstance(decoder, dict):
        yield str(decoder.get('type'))
        for inner in decoder.get('decoders') or ():
            yield from _kinds(inner)
