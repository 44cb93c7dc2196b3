"""What existing tokenizers of both kinds share: which of their tokens begin and end a text."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text.pretrained import special_tokens
from bigmodel_jax.data.text.tokenizer import Tokenizer

LARGEST_ID = 2**24  # No vocabulary comes near; a crafted id would ask for a table of gigabytes.
SPACE = '\N{LOWER ONE EIGHTH BLOCK}'  # What SentencePiece writes for a space inside a piece.


class PretrainedBase(Tokenizer):
    """What tokenizers of both kinds share.

    Args:
      content: of the file that defines the tokenizer.
      special: what the files beside it say.
      where: its path, for messages.
    """

    FILE: str

    def __init__(self, content: bytes, special: special_tokens.SpecialTokens, *, where: str):
        self._content, self._special, self._where = content, special, where
        self._open()
        if not 0 < self.size <= LARGEST_ID:
            raise config.InputError(f'{where} has ids up to {self.size - 1}; the largest allowed is {LARGEST_ID - 1}.')
        self._ids = {role: self._id(role) for role in special_tokens.ROLES}
        self.chat_template = special.chat_template
        self.end = self._end()
        self._bos = self._first('bos', 'cls')
        self._add_bos, self._add_eos = self._added_by_default()
        if self._add_bos and self._bos is None:
            raise config.InputError(
                f'{where}: add_bos is true, but there is no BOS token; name it: Pretrained(bos=...).'
            )
        self._check_end()

    def _open(self) -> None:
        """Loads the model, and sets `size` and `token_bytes`."""
        raise NotImplementedError

    def _token(self, i: int) -> str | None:
        """The token with the id `i`."""
        raise NotImplementedError

    def _added_by_default(self) -> tuple[bool, bool]:
        """Whether BOS and EOS are added to a text; finds BOS where only the tokenizer's file shows it."""
        raise NotImplementedError

    def _id(self, role: str) -> int | None:
        token = self._special.tokens.get(role)
        if token is None:
            i = self._special.ids.get(role)
            return i if i is not None and i < self.size else None
        i = self._lookup(token)
        if i is None:
            raise config.InputError(f'{self._where} has no token {token!r}, which is said to be its {role} token.')
        return i

    def _lookup(self, token: str) -> int | None:
        raise NotImplementedError

    def _first(self, *roles: str) -> int | None:
        return next((self._ids[role] for role in roles if self._ids[role] is not None), None)

    def _end(self) -> int:
        end = self._first('eos', 'sep')
        if end is None:
            known = ', '.join(map(repr, self._specials()[:8])) or 'none'
            raise config.InputError(
                f'Neither {self._where} nor the files beside it ({", ".join(special_tokens.WITH_TOKENS)}, '
                f'{", ".join(special_tokens.WITH_IDS)}) say which token ends a text. '
                f'Name it: Pretrained(..., eos=...). Its special tokens: {known}.'
            )
        return end

    def _check_end(self) -> None:
        token = self._token(self.end)
        if token and self.end in self.encode(token):
            raise config.InputError(
                f'{self._where}: {token!r} is said to end a text, but the same letters in a text become it too; '
                'it must be a special token. Choose another: Pretrained(..., eos=...).'
            )

    def _specials(self) -> list[str]:
        raise NotImplementedError

    @property
    def begin(self) -> int:
        return self.end if self._bos is None else self._bos

    def encode_prompt(self, text: str) -> np.ndarray:
        """As encode_with_special_tokens() without EOS; `begin` alone for an empty text."""
        ids = self.encode(text)
        return np.array([self.begin, *ids] if self._add_bos or not len(ids) else ids, np.int32)

    def encode_with_special_tokens(self, text: str) -> np.ndarray:
        """[n] int32: BOS, the tokens of `text` and EOS, the outer ones as add_bos and add_eos say."""
        before, after = [self._bos] if self._add_bos else [], [self.end] if self._add_eos else []
        return np.array([*before, *self.encode(text), *after], np.int32)

    def piece(self, i: int) -> str:
        token, text = self._token(i), self.decode([i])
        if token is None:
            return f'<{i}>'
        if token.startswith(SPACE):  # Decoding takes the space in front of a text away.
            return token.replace(SPACE, ' ')
        return token if not text or '\N{REPLACEMENT CHARACTER}' in text else text

    def id_of(self, token: str) -> int | None:
        """The id of a special token; BERT's names mean the tokens of their roles: '[MASK]' may be '<mask>' here."""
        role = {'[PAD]': 'pad', '[UNK]': 'unk', '[CLS]': 'cls', '[SEP]': 'sep', '[MASK]': 'mask'}.get(token)
        found = self._lookup(token)
        return self._ids[role] if found is None and role else found

    @property
    def special_texts(self) -> dict[str, str]:
        """Role -> token, as chat templates call them: {'bos_token': '<s>'}."""
        named = {role: self._token(i) for role, i in self._ids.items() if i is not None}
        return {f'{role}_token': token for role, token in named.items() if token is not None}

    def files(self) -> dict[str, bytes]:
        resolved = self._special._replace(add_bos=self._add_bos, add_eos=self._add_eos)
        return {self.FILE: self._content, special_tokens.CONFIG: json.dumps(resolved.to_json(), indent=1).encode()}

    @property
    def fingerprint(self) -> dict[str, Any]:
        # Not the chat template: it changes no id of a text. What is rendered by it has it in its own fingerprint.
        roles = {role: i for role, i in self._ids.items() if i is not None}
        return {
            'class': type(self).__name__, 'size': self.size, self.FILE: hashlib.sha256(self._content).hexdigest(),
            'special': roles, 'add_bos': self._add_bos, 'add_eos': self._add_eos,
            'added': dict(self._special.added),
        }  # fmt: skip

    @classmethod
    def restore(cls, files: Mapping[str, bytes]) -> Tokenizer:
        for name in (cls.FILE, special_tokens.CONFIG):
            if name not in files:
                raise config.InputError(f'The saved tokenizer lacks {name}; restore it from a checkpoint or a copy.')
        try:
            data = json.loads(files[special_tokens.CONFIG])
        except (ValueError, RecursionError) as error:
            raise config.InputError(f'{special_tokens.CONFIG} of the saved tokenizer is not JSON: {error}.') from error
        special = special_tokens.parse(data if isinstance(data, dict) else {}, special_tokens.CONFIG)
        return cls(files[cls.FILE], special, where=cls.FILE)


def piece_bytes(piece: str) -> int:
    """The bytes of text that a piece of SentencePiece stands for."""
    return 1 if re.fullmatch('<0x[0-9A-F]{2}>', piece) else len(piece.replace(SPACE, ' ').encode())
