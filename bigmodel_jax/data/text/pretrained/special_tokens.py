"""The special tokens of an existing tokenizer, and its chat template, as the files of a Hugging Face directory say."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import config

CONFIG = 'tokenizer_config.json'
# In the order in which they are believed; the last two hold ids.
WITH_TOKENS, WITH_IDS = (CONFIG, 'special_tokens_map.json'), ('generation_config.json', 'config.json')
GENERAL = (
    'PreTrainedTokenizerFast'  # Adds what tokenizer.json says, whatever the flags; other classes follow the flags.
)
ROLES = ('bos', 'eos', 'pad', 'unk', 'cls', 'sep', 'mask')


class SpecialTokens(NamedTuple):
    """The special tokens that the files name; None where they name none."""

    tokens: Mapping[str, str]  # Role -> token: {'bos': '<s>', 'eos': '</s>'}.
    ids: Mapping[str, int] = {}  # Role -> id, of those of which only an id is given.
    add_bos: bool | None = None  # Whether encoding a text puts BOS in front;
    add_eos: bool | None = None  # and EOS after it.
    chat_template: str | None = None  # Jinja.
    added: Mapping[str, int] = {}  # Tokens with ids that are not in the model's own file.
    tokenizer_class: str | None = None  # Of the `transformers` library.

    def to_json(self) -> dict[str, Any]:
        """In the form of a tokenizer_config.json; parse() reads it back."""
        data: dict[str, Any] = {f'{role}_token': token for role, token in self.tokens.items()}
        data |= {f'{role}_token_id': i for role, i in self.ids.items()}
        data |= {'add_bos_token': self.add_bos, 'add_eos_token': self.add_eos, 'chat_template': self.chat_template}
        data['added_tokens_decoder'] = {str(i): {'content': token} for token, i in self.added.items()}
        return data | {'tokenizer_class': self.tokenizer_class}


def read(folder: epath.Path) -> SpecialTokens:
    """Reads the files in a tokenizer's folder; each of them may be missing.

    Raises:
      InputError: a file is not what its name says.
    """
    found = parse(_json(folder / CONFIG), str(folder / CONFIG))
    tokens, ids = dict(found.tokens), dict(found.ids)
    for role, token in parse(_json(folder / WITH_TOKENS[1]), str(folder / WITH_TOKENS[1])).tokens.items():
        tokens.setdefault(role, token)
    for name in WITH_IDS:
        for role, i in _ids(_json(folder / name)).items():
            ids.setdefault(role, i)
    added = dict(found.added)
    for token, i in _json(folder / 'added_tokens.json').items():
        if isinstance(i, int):
            added.setdefault(token, i)
    if found.tokenizer_class == GENERAL:
        found = found._replace(add_bos=None, add_eos=None)
    return found._replace(tokens=tokens, ids=ids, added=added, chat_template=_template(folder) or found.chat_template)


def parse(data: Mapping[str, Any], where: str) -> SpecialTokens:
    """Reads the content of a tokenizer_config.json or special_tokens_map.json."""
    tokens = {role: _text(data.get(f'{role}_token'), f'{where}: {role}_token') for role in ROLES}
    decoder = data.get('added_tokens_decoder') or {}
    if not isinstance(decoder, dict) or not all(key.isdecimal() for key in decoder):
        raise config.InputError(f'{where}: added_tokens_decoder should map ids to tokens.')
    added = {_text(entry, f'{where}: added_tokens_decoder'): int(key) for key, entry in decoder.items()}
    return SpecialTokens(
        tokens={role: token for role, token in tokens.items() if token is not None},
        ids=_ids(data),
        add_bos=_flag(data, 'add_bos_token', where),
        add_eos=_flag(data, 'add_eos_token', where),
        chat_template=_chat_template(data.get('chat_template'), where),
        added={token: i for token, i in added.items() if token is not None},
        tokenizer_class=_text(data.get('tokenizer_class'), f'{where}: tokenizer_class'),
    )


def _text(value: Any, where: str) -> str | None:
    content = value.get('content') if isinstance(value, dict) else value
    if content is not None and not isinstance(content, str):
        raise config.InputError(f'{where} is {content!r}; it should be text.')
    return content


def _flag(data: Mapping[str, Any], name: str, where: str) -> bool | None:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise config.InputError(f'{where}: {name} is {value!r}; it should be true or false.')
    return value


def _ids(data: Mapping[str, Any]) -> dict[str, int]:
    found = {}
    for role in ROLES:
        value = data.get(f'{role}_token_id')
        first = value[0] if isinstance(value, list) and value else value  # Several tokens may end a text.
        if isinstance(first, int) and not isinstance(first, bool) and first >= 0:
            found[role] = first
    return found


def _chat_template(value: Any, where: str) -> str | None:
    """A template, or of a list of named ones the default."""
    if isinstance(value, list):
        named = {each.get('name'): each.get('template') for each in value if isinstance(each, dict)}
        value = named.get('default')
    return _text(value, f'{where}: chat_template')


def _template(folder: epath.Path) -> str | None:
    """The template that stands in a file of its own, which newer versions of the library write."""
    path = folder / 'chat_template.jinja'
    if path.exists():
        return path.read_text()
    return _chat_template(_json(folder / 'chat_template.json').get('chat_template'), str(folder / 'chat_template.json'))


def _json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise config.InputError(f'{path} is not JSON: {error}.') from error
    if not isinstance(data, dict):
        raise config.InputError(f'{path} holds a JSON {type(data).__name__}, not an object.')
    return data
