"""The model file of SentencePiece, as Llama 2, Gemma and T5 have it."""

import re
from collections.abc import Iterable

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text.pretrained.pretrained_base import LARGEST_ID, PretrainedBase, piece_bytes
from bigmodel_jax.data.text.tokenizer import import_library

# Classes of `transformers` whose ids are those of the SentencePiece file; others renumber its pieces.
SAME_IDS = (None, 'LlamaTokenizer', 'LlamaTokenizerFast', 'GemmaTokenizer', 'GemmaTokenizerFast', 'T5Tokenizer')
# Their tokenizers put BOS in front unless the files say otherwise.
WITH_BOS = ('LlamaTokenizer', 'LlamaTokenizerFast', 'GemmaTokenizer', 'GemmaTokenizerFast')


class PretrainedSentencePiece(PretrainedBase):
    """A SentencePiece model, and the tokens that were added to it.

    As the library does, a space is put in front of a text where the model was trained so; decoding takes it away.
    """

    FILE = 'tokenizer.model'

    def _open(self) -> None:
        if self._special.tokenizer_class not in SAME_IDS:
            raise config.InputError(
                f'{self._special.tokenizer_class} numbers the pieces of {self._where} in a way of its own. Write its '
                'tokenizer.json with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR).'
            )
        try:
            self._model = import_library('sentencepiece').SentencePieceProcessor(model_proto=self._content)
        except RuntimeError as error:
            raise config.InputError(f'{self._where} is not a SentencePiece model: {error}') from error
        count = self._model.get_piece_size()
        self._added = {token: i for token, i in self._special.added.items() if i >= count}
        self._names = {i: token for token, i in self._added.items()}
        self.size = max([count, *(i + 1 for i in self._names)])
        if self.size > LARGEST_ID:
            return
        self.token_bytes = np.zeros(self.size, np.int32)
        self.token_bytes[:count] = [self._bytes(i) for i in range(count)]
        self._controls = {self._model.id_to_piece(i): i for i in range(count) if self._model.is_control(i)}

    def _bytes(self, i: int) -> int:
        if self._model.is_control(i) or self._model.is_unknown(i):
            return 0
        return piece_bytes(self._model.id_to_piece(i))

    def _id(self, role: str) -> int | None:
        own = {'bos': self._model.bos_id, 'eos': self._model.eos_id, 'pad': self._model.pad_id}
        own |= {'unk': self._model.unk_id}
        found = super()._id(role)
        return own[role]() if found is None and role in own and own[role]() >= 0 else found

    def _added_by_default(self) -> tuple[bool, bool]:
        name, special = self._special.tokenizer_class, self._special
        add_bos = name in WITH_BOS if special.add_bos is None else special.add_bos
        add_eos = name == 'T5Tokenizer' if special.add_eos is None else special.add_eos
        return add_bos, add_eos

    def _token(self, i: int) -> str | None:
        if i in self._names:
            return self._names[i]
        return self._model.id_to_piece(i) if i < self._model.get_piece_size() else None

    def _lookup(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        i = self._model.piece_to_id(token)
        return i if self._model.id_to_piece(i) == token else None

    def _specials(self) -> list[str]:
        return [*self._controls, *self._added]

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(ids, np.int32) for ids in self._model.encode(texts)]

    def encode_rendered(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        tokens = self._controls | self._added
        pattern = '|'.join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        at = 0
        for part in re.split(f'({pattern})', text) if pattern else [text]:
            if part in tokens:
                ids.append(tokens[part])
                spans.append((at, at + len(part)))
            elif part:
                pieces = self._model.encode(part, out_type='immutable_proto').pieces
                ids += [piece.id for piece in pieces]
                spans += [(at + piece.begin, at + piece.end) for piece in pieces]
            at += len(part)
        return np.array(ids, np.int32), np.array(spans, np.int64).reshape(-1, 2)

    def decode(self, ids: Iterable[int]) -> str:
        count = self._model.get_piece_size()
        return self._model.decode([i for i in np.asarray(ids).astype(np.int64).tolist() if 0 <= i < count])
