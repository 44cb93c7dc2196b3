"""The tokenizer that a run has stored, in place of one that a config would train."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.tokenizer import DESCRIPTION, Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved(tokenizers.Vocabulary):
    """The tokenizer of a run: `Saved(directory='runs/a/tokenizer')` gives another run the same token ids."""

    directory: str

    @property
    def upper_bound(self) -> int | None:
        return self.build().size if is_saved(self.directory) else None

    def build(self) -> Tokenizer:
        return tokenizers.load(epath.Path(self.directory).expanduser())


def is_saved(directory: epath.PathLike) -> bool:
    """Whether a tokenizer was wholly written there."""
    return (epath.Path(directory).expanduser() / DESCRIPTION).exists()


def substitute(node: Any, saved: Saved, kinds: Sequence[Mapping[str, Any]]) -> Any:
    """A config with every vocabulary of one of `kinds`, which kinds_in() gives, replaced by `saved`."""
    if isinstance(node, tokenizers.Vocabulary):
        return saved if _kind(node) in kinds else node
    return config.with_children(node, lambda each: substitute(each, saved, kinds))


def kinds_in(stored: Any) -> list[dict[str, Any]]:
    """The kinds of vocabularies in a config in JSON: their settings, without the text that they are trained on."""
    if isinstance(stored, list):
        return [kind for each in stored for kind in kinds_in(each)]
    if not isinstance(stored, dict):
        return []
    if config.CLASS_KEY in stored and _is_vocabulary(stored[config.CLASS_KEY]):
        return [_without_text(stored)]
    return [kind for each in stored.values() for kind in kinds_in(each)]


def _kind(vocabulary: tokenizers.Vocabulary) -> dict[str, Any]:
    return _without_text(config.to_json(vocabulary))


def _without_text(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name != 'trained_on'}


def _is_vocabulary(name: str) -> bool:
    try:
        return issubclass(config.find_class(name), tokenizers.Vocabulary)
    except config.InputError:  # Of a file that is not loaded.
        return False
