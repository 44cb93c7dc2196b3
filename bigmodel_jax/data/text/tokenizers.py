"""Tokenizers, which turn text into token ids. Bytes and characters are ours; the rest uses maintained libraries.

A `Vocabulary` config builds a `Tokenizer`. One that must be trained is trained once on a source and kept in the cache
by the content of that source; a run stores its own copy as plain JSON and .model files.
"""

import dataclasses
import functools
import importlib.metadata
import io
import json
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import annotated_types
import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import cache, preparation_progress, records
from bigmodel_jax.data.text import tokenizer as base
from bigmodel_jax.data.text.pretrained import pretrained_sentencepiece, pretrained_tokenizer
from bigmodel_jax.data.text.streams import word_tokenizer
from bigmodel_jax.data.text.tokenizer import DESCRIPTION, Tokenizer, Vocabulary, import_library

# 256 bytes, the end of a document, and at least one piece to learn.
VocabularySize = Annotated[config.Positive, annotated_types.Ge(258)]


FOLDER = 'tokenizer'  # Of a work directory.
LONGEST_SENTENCE = 2**16  # Characters; with ten times as many and no space among them, a unigram model overflows.


def load(directory: epath.PathLike) -> Tokenizer:
    """The tokenizer that save() wrote.

    Raises:
      InputError: there is none, it is damaged, or its library is missing.
    """
    folder = epath.Path(directory)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        # Only names, so that a crafted description cannot read other folders.
        names = [pathlib.PurePath(name).name for name in description['files']]
        files = {name: (folder / name).read_bytes() for name in names}
    except FileNotFoundError as error:
        raise config.InputError(f'{folder} holds no tokenizer: {error.filename} is missing.') from error
    ours = (ByteTokenizer, CharacterTokenizer, word_tokenizer.WordTokenizer, HuggingFaceTokenizer, SentencePieces)
    pretrained = (pretrained_tokenizer.PretrainedTokenizer, pretrained_sentencepiece.PretrainedSentencePiece)
    kinds = {kind.__name__: kind for kind in (*ours, *pretrained)}
    if description['class'] not in kinds:
        raise config.InputError(f'{folder}: unknown tokenizer {description["class"]!r}; there are {", ".join(kinds)}.')
    return kinds[description['class']].restore(files)


# ---- bytes --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(Vocabulary):
    """UTF-8 bytes: 256 ids, and 256 for the end of a document. Nothing to train; any text."""

    @property
    def upper_bound(self) -> int:
        return ByteTokenizer.size

    def build(self) -> Tokenizer:
        return ByteTokenizer()


class ByteTokenizer(Tokenizer):
    """Each id is the value of a byte."""

    size, end = 257, 256
    parts = staticmethod(base.cut_anywhere)
    token_bytes = np.array([1] * 256 + [0], np.int32)

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in _integers(ids) if i < 256).decode(errors='replace')


# ---- characters ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Characters(Vocabulary):
    """One id for each character that occurs in a source, in the order of their code points; the end comes last.

    Encoding any other character is an error: an 'unknown' token would make the loss look better than it is.
    """

    trained_on: records.Source

    def build(self) -> Tokenizer:
        def train(texts: records.TextView) -> Tokenizer:
            seen: set[str] = set()
            for text in read_texts(texts, 'Collecting characters'):
                seen.update(text)
            return CharacterTokenizer(sorted(seen))

        return trained(self, train)


class CharacterTokenizer(Tokenizer):
    """Each id is the index of a character in a list."""

    FILE = 'characters.json'
    parts = staticmethod(base.cut_anywhere)

    def __init__(self, characters: Sequence[str]):
        self._characters, self.end, self.size = list(characters), len(characters), len(characters) + 1
        self._codes = _codes(''.join(characters))
        self.token_bytes = np.array([len(character.encode()) for character in characters] + [0], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Raises InputError if a character is not in the vocabulary."""
        codes = _codes(text)
        ids = np.searchsorted(self._codes, codes)
        known = self._codes[np.minimum(ids, self.end - 1)] == codes
        if not known.all():
            character = text[int(np.argmin(known))]
            raise config.InputError(
                f'The character {character!r} (U+{ord(character):04X}) is not among the {self.end} that the tokenizer '
                'knows. Train it on text that holds it (trained_on), or use Bytes(). A run keeps the tokenizer that it '
                'began with, so that other text may need another --workdir.'
            )
        return ids.astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return ''.join(self._characters[i] for i in _integers(ids) if i < self.end)

    def files(self) -> dict[str, bytes]:
        return {self.FILE: json.dumps(self._characters).encode()}

    @classmethod
    def restore(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(json.loads(files[cls.FILE]))


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode('utf-32-le'), np.uint32)


# ---- Hugging Face tokenizers --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bpe(Vocabulary):
    """Byte-pair encoding of UTF-8 bytes, split into words as GPT-2 does. Any text.

    Source: Sennrich et al. (2016), arXiv:1508.07909; Radford et al. (2019), section 2.2.
    """

    vocab: VocabularySize  # With the end of a document, which comes last. Little text may yield fewer.
    trained_on: records.Source

    @property
    def upper_bound(self) -> int:
        return self.vocab

    def build(self) -> Tokenizer:
        def train(texts: records.TextView) -> Tokenizer:
            library = import_library('tokenizers')
            model = library.Tokenizer(library.models.BPE())
            model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
            model.decoder = library.decoders.ByteLevel()
            alphabet = library.pre_tokenizers.ByteLevel.alphabet()
            trainer = library.trainers.BpeTrainer(
                vocab_size=self.vocab - 1, initial_alphabet=alphabet, show_progress=False
            )
            model.train_from_iterator(read_texts(texts, 'Training a BPE tokenizer'), trainer)
            return HuggingFaceTokenizer(model)

        return trained(self, train, library='tokenizers')


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPiece(Vocabulary):
    """BERT's words and pieces of words. Lossy: whitespace, and with `lowercase` case and accents, are not kept.

    Source: Wu et al. (2016), arXiv:1609.08144; Devlin et al. (2019), arXiv:1810.04805. [SEP] ends a document.
    """

    vocab: VocabularySize  # With [PAD], [UNK], [CLS], [SEP] and [MASK], which come first.
    trained_on: records.Source
    lowercase: bool = True

    @property
    def upper_bound(self) -> int:
        return self.vocab

    def build(self) -> Tokenizer:
        def train(texts: records.TextView) -> Tokenizer:
            library = import_library('tokenizers')
            model = self._model(library, {'[UNK]': 0})
            normalized = map(model.normalizer.normalize_str, read_texts(texts, 'Reading for WordPiece'))
            letters = set().union(*normalized)
            # Ties are broken by id, and the trainer numbers letters within words in the random order of a hash table
            # unless they have numbers already. The model is created again because the trainer takes them for specials.
            inner = sorted(f'##{letter}' for letter in letters if not letter.isspace())
            trainer = library.trainers.WordPieceTrainer(
                vocab_size=self.vocab, special_tokens=[*BERT_SPECIALS, *inner], show_progress=False
            )
            model.train_from_iterator(read_texts(texts, 'Training a WordPiece tokenizer'), trainer)
            if model.get_vocab_size() > self.vocab:
                raise config.InputError(
                    f'WordPiece(vocab={self.vocab}) is too small: the letters of {texts.name} alone take '
                    f'{model.get_vocab_size()} tokens.'
                )
            final = self._model(library, model.get_vocab())
            final.add_special_tokens(list(BERT_SPECIALS))
            return HuggingFaceTokenizer(final)

        return trained(self, train, library='tokenizers')

    def _model(self, library: types.ModuleType, vocabulary: Mapping[str, int]) -> Any:
        model = library.Tokenizer(library.models.WordPiece(vocab=vocabulary, unk_token='[UNK]'))
        model.normalizer = library.normalizers.BertNormalizer(lowercase=self.lowercase)
        model.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        model.decoder = library.decoders.WordPiece()
        return model


BERT_SPECIALS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


class HuggingFaceTokenizer(Tokenizer):
    """A model of the `tokenizers` library: BPE of bytes, with an end of our own after its ids, or WordPiece.

    The bytes of a WordPiece token are those of its letters, and one more for the space before a word.
    """

    parts = staticmethod(base.cut_between_words)
    FILE = 'tokenizer.json'  # As the library writes it, so that its own Tokenizer.from_file reads it.

    def __init__(self, model: Any):
        self._model = model
        model.encode_special_tokens = True  # '[SEP]' in a text is five letters, not the end of a document.
        count, separator = model.get_vocab_size(), model.token_to_id('[SEP]')
        # Not a token of the model: the same letters in a text would become it.
        self.end, self.size = (count, count + 1) if separator is None else (separator, count)
        self.token_bytes = np.zeros(self.size, np.int32)
        for token, i in model.get_vocab().items():
            self.token_bytes[i] = len(token) if separator is None else _word_piece_bytes(token)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, np.int32) for encoding in self._model.encode_batch_fast(texts)]

    def id_of(self, token: str) -> int | None:
        return self._model.token_to_id(token)

    def spans(self, text: str) -> np.ndarray:
        return np.array(self._model.encode(text, add_special_tokens=False).offsets, np.int64).reshape(-1, 2)

    def decode(self, ids: Iterable[int]) -> str:
        inside = [i for i in _integers(ids) if i < self._model.get_vocab_size()]
        return self._model.decode(inside, skip_special_tokens=True)

    def files(self) -> dict[str, bytes]:
        return {self.FILE: self._model.to_str().encode()}

    @classmethod
    def restore(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(import_library('tokenizers').Tokenizer.from_buffer(files[cls.FILE]))


def _word_piece_bytes(token: str) -> int:
    if token in BERT_SPECIALS:
        return 0
    if token.startswith('##'):
        return len(token.encode()) - 2
    return len(token.encode()) + token[0].isalnum()


# ---- SentencePiece ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePiece(Vocabulary):
    """Pieces learnt from raw text in any language; bytes where no piece fits. Any text.

    Source: Kudo and Richardson (2018), arXiv:1808.06226; unigram: Kudo (2018), arXiv:1804.10959.
    """

    vocab: VocabularySize  # With <unk>, the end of a document and 256 bytes, which come first.
    trained_on: records.Source
    kind: Literal['unigram', 'bpe'] = 'unigram'

    @property
    def upper_bound(self) -> int:
        return self.vocab

    def build(self) -> Tokenizer:
        def train(texts: records.TextView) -> Tokenizer:
            model = io.BytesIO()
            lines = (line for text in read_texts(texts, 'Training SentencePiece') for line in sentences(text))
            try:
                import_library('sentencepiece').SentencePieceTrainer.train(
                    sentence_iterator=lines, model_writer=model, model_type=self.kind, vocab_size=self.vocab,
                    unk_id=0, eos_id=1, bos_id=-1, pad_id=-1, byte_fallback=True, hard_vocab_limit=False,
                    # The text as it is: no normalisation, no space added in front or taken away.
                    normalization_rule_name='identity', remove_extra_whitespaces=False, add_dummy_prefix=False,
                    allow_whitespace_only_pieces=True,  # Indentation.
                    max_sentence_length=2**20, minloglevel=1,
                )  # fmt: skip
            except RuntimeError as error:
                raise config.InputError(
                    f'SentencePiece cannot learn {self.vocab} {self.kind} pieces from {texts.name}: {error}'
                ) from error
            return SentencePieces(model.getvalue())

        return trained(self, train, library='sentencepiece')


def sentences(text: str) -> Iterator[str]:
    """The lines of a text, in parts that SentencePiece trains on: it leaves out others without an error.

    A line that is too long is cut before a space, where pieces end in any case, or without one anywhere.
    """
    # The library takes this character for its own mark.
    for line in text.replace(SentencePieces.UNKNOWN, '\n').splitlines(True):
        at = 0
        while len(line) - at > LONGEST_SENTENCE:
            space = line.rfind(' ', at + 1, at + LONGEST_SENTENCE)
            end = space if space > 0 else at + LONGEST_SENTENCE
            yield line[at:end]
            at = end
        yield line[at:]


class SentencePieces(Tokenizer):
    """A model of the `sentencepiece` library."""

    FILE = 'sentencepiece.model'
    SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # What the library writes for a space inside a piece,
    UNKNOWN = '\N{LOWER FIVE EIGHTHS BLOCK}'  # and for a character that it does not learn.

    def __init__(self, model: bytes):
        self._content = model
        self._model = import_library('sentencepiece').SentencePieceProcessor(model_proto=model)
        self.size, self.end = self._model.get_piece_size(), self._model.eos_id()
        self.token_bytes = np.array([self._bytes(i) for i in range(self.size)], np.int32)
        self._space_ids = [self._model.piece_to_id(f'<0x{byte:02X}>') for byte in self.SPACE.encode()]

    def _bytes(self, i: int) -> int:
        if self._model.is_control(i) or self._model.is_unknown(i):
            return 0
        return 1 if self._model.is_byte(i) else len(self._model.id_to_piece(i).replace(self.SPACE, ' ').encode())

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        # The character that the library uses for a space would come back as one, so it goes in as bytes.
        parts = [text.split(self.SPACE) for text in texts]
        encoded = iter(self._model.encode([part for split in parts for part in split]))
        joint = self._space_ids
        ids = [
            functools.reduce(lambda head, tail: head + joint + tail, [next(encoded) for _ in split]) for split in parts
        ]
        return [np.array(each, np.int32) for each in ids]

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode([i for i in _integers(ids) if i != self.end])

    def files(self) -> dict[str, bytes]:
        return {self.FILE: self._content}

    @classmethod
    def restore(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(files[cls.FILE])


# ---- training -----------------------------------------------------------------------------------------------------


def trained(vocabulary: Any, train: Callable[[records.TextView], Tokenizer], library: str | None = None) -> Tokenizer:
    """What `train` makes of the documents; from the cache if it was made before."""
    texts = records.texts(vocabulary.trained_on)
    key = config.to_json(vocabulary) | {'trained_on': dict(texts.fingerprint)}
    if library:
        import_library(library)  # An error that says what to install, if it is missing.
        key['version'] = importlib.metadata.version(library)

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        train(texts).save(directory)

    return load(cache.prepared('tokenizers', key, make))


def read_texts(texts: records.TextView, what: str) -> Iterator[str]:
    return preparation_progress.track(texts, total=len(texts), what=f'{what} on {texts.name}')


def _integers(ids: Iterable[int]) -> list[int]:
    return np.asarray(ids).astype(np.int64).tolist()
