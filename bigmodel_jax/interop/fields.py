"""Reading config.json so that no field is overlooked: each is used, has no effect on outputs, or is refused.

A family has one table of every field that its files may hold. A field that is in no table is refused by name, since it
may change what the model computes; a field that is missing has the default of the reference implementation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from bigmodel_jax import config

T = TypeVar('T')
LARGEST = 2**31 - 1  # Of a size; what is larger fits no array and would be a float's infinity somewhere.


class Kind:
    """What a field of config.json is to us."""


@dataclasses.dataclass(frozen=True)
class Used(Kind):
    """It enters the model, or what is made of its inputs. Missing, it has the reference's default."""

    default: Any


@dataclasses.dataclass(frozen=True, init=False)
class Only(Kind):
    """It changes the computation; any value but these is refused. The first is the reference's default."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, 'values', values)


@dataclasses.dataclass(frozen=True)
class Without(Kind):
    """It has no effect on outputs: it says where the model came from, how it is trained, or how text is generated."""


WITHOUT = Without()
Table = dict[str, Kind]


def without(*names: str) -> dict[str, Kind]:
    """A table of fields without effect."""
    return dict.fromkeys(names, WITHOUT)


# What the configurations of all families have, of transformers 5 and of earlier versions.
COMMON: dict[str, Kind] = {
    **without(
        '_name_or_path', 'name_or_path', '_commit_hash', 'transformers_version', 'model_type', 'finetuning_task',
        'task_specific_params', 'tokenizer_class', 'problem_type', 'id2label', 'label2id', 'num_labels',
        'initializer_range', 'initializer_factor', 'gradient_checkpointing', 'torchscript', 'use_bfloat16',
        'tf_legacy_loss', 'classifier_dropout', 'transformers.js_config',
        # How the same numbers are computed, and which of them are returned.
        '_attn_implementation', '_attn_implementation_autoset', '_attn_implementation_internal',
        'attn_implementation', '_experts_implementation', '_experts_implementation_internal',
        'experts_implementation', 'return_dict', 'output_attentions', '_output_attentions', 'output_hidden_states',
        'output_past', 'use_cache',
        # Generation, for which there is generation_config.json.
        'bos_token_id', 'eos_token_id', 'pad_token_id', 'sep_token_id', 'cls_token_id', 'decoder_start_token_id',
        'prefix', 'max_length', 'max_new_tokens', 'min_length', 'min_new_tokens', 'max_time', 'do_sample',
        'early_stopping', 'num_beams', 'num_beam_groups', 'diversity_penalty', 'temperature', 'top_k', 'top_p',
        'typical_p', 'epsilon_cutoff', 'eta_cutoff', 'repetition_penalty', 'encoder_repetition_penalty',
        'length_penalty', 'no_repeat_ngram_size', 'encoder_no_repeat_ngram_size', 'num_return_sequences',
        'bad_words_ids', 'begin_suppress_tokens', 'suppress_tokens', 'forced_bos_token_id', 'forced_eos_token_id',
        'forced_decoder_ids', 'remove_invalid_values', 'exponential_decay_length_penalty', 'output_scores',
        'return_dict_in_generate', 'penalty_alpha', 'renormalize_logits', 'num_assistant_tokens',
        'num_assistant_tokens_schedule', 'assistant_confidence_threshold', 'assistant_lookbehind',
        'target_lookbehind',
    ),
    'architectures': Used(None),
    'dtype': Used(None),
    'torch_dtype': Used(None),  # Its name before transformers 5.
    'is_causal': Only(True),
    'is_decoder': Only(False),
    'is_encoder_decoder': Only(False),
    'add_cross_attention': Only(False),
    'cross_attention_hidden_size': Only(None),
    'tie_encoder_decoder': Only(False),
    'tie_last_hidden_states': Only(None, True),
    'chunk_size_feed_forward': Only(0),
    'pruned_heads': Only({}, None),
    'per_layer_config': Only(None, {}),
    'quantization_config': Only(None),
    'attention_chunk_size': Only(None),
    'layer_types': Only(None),
    'auto_map': Only(None, {}),
}  # fmt: skip
CLASS_NAME = '_class_name'  # What a config.json of diffusers has in place of a model_type.
DIFFUSERS: dict[str, Kind] = {
    **without(CLASS_NAME, '_diffusers_version', '_name_or_path'),
    **dict.fromkeys(('architectures', 'dtype', 'torch_dtype'), Used(None)),
}
# Weights are computed with in the dtype that is asked for here, whatever they are stored in.
DTYPES = (None, 'auto', 'float64', 'float32', 'float16', 'bfloat16')


class Fields:
    """The fields of a config.json, checked against a table; notes which were looked at.

    Args:
      values: the JSON object.
      where: the file, for messages.
      table: every field that it may have.
      aliases: other name -> name in the table, as the reference reads it.

    Raises:
      InputError: a field is unknown, has a value that is not implemented, or contradicts another of the same meaning.
    """

    def __init__(self, values: Mapping[str, Any], where: str, table: Table, aliases: Mapping[str, str] | None = None):
        self._where, self._table = where, table
        self.seen: set[str] = set()
        self._values = self._named(values, aliases or {})
        unknown = sorted(self._values.keys() - table.keys())
        if unknown:
            some = ', '.join(f'{name}={self._values[name]!r}' for name in unknown[:4])
            more = f' and {len(unknown) - 4} more fields' if len(unknown) > 4 else ''
            raise config.InputError(
                f'{where}: {some}{more} is not known here and may change what the model computes, so the model is '
                f'refused. If it has no effect on outputs, delete it from the file.'
            )
        for name, kind in table.items():
            if isinstance(kind, Only) and name in self._values:
                self._check_only(name, kind)

    def _named(self, values: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
        named = {name: value for name, value in values.items() if name not in aliases}
        for alias, name in aliases.items():
            if alias in values:
                self.agree({name: named.get(name, values[alias]), alias: values[alias]})
                named[name] = values[alias]
        return named

    def _check_only(self, name: str, kind: Only) -> None:
        value = self._values[name]
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in kind.values):
            wanted = ' or '.join(map(repr, kind.values))
            raise config.InputError(
                f'{self._where}: {name}={value!r} changes the computation and is not implemented; only {wanted} is.'
            )

    def whole(self, name: str) -> int:
        """A positive integer."""
        value = self.value(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
            raise config.InputError(
                f'{self._where}: {name}={value!r} should be a positive integer, at most {LARGEST:,}.'
            )
        return value

    def optional(self, name: str) -> int | None:
        """A positive integer, or None where the field is null, or missing with that default."""
        return None if self.value(name) is None else self.whole(name)

    def token(self, name: str) -> int | None:
        """A token id, or None."""
        value = self.value(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST):
            raise config.InputError(f'{self._where}: {name}={value!r} should be a token id or null.')
        return value

    def number(self, name: str, *, above: float | None = None) -> float:
        """A finite number, at least 0; more than `above`, if it is given."""
        value = self.value(name)
        if (
            not isinstance(value, (int, float)) or isinstance(value, bool)
            or not abs(value) <= LARGEST**2 or value < 0 or (above is not None and value <= above)
        ):  # fmt: skip
            wanted = 'at least 0' if above is None else f'above {above:g}'
            raise config.InputError(f'{self._where}: {name}={value!r} should be a number, {wanted}.')
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise config.InputError(f'{self._where}: {name}={value!r} should be true or false.')
        return value

    def choice(self, name: str, meanings: Mapping[str, T]) -> T:
        """What the text of a field stands for."""
        value = self.value(name)
        if not isinstance(value, str) or value not in meanings:
            raise config.InputError(
                f'{self._where}: {name}={value!r} is not implemented; there is {", ".join(map(repr, meanings))}.'
            )
        return meanings[value]

    def within(self, name: str, table: Table) -> 'Fields':
        """The fields of an object in a field; none where it is null or missing."""
        value = self.value(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise config.InputError(f'{self._where}: {name}={value!r} should be an object.')
        return Fields(value, f'{self._where}: {name}', table)

    def has(self, name: str) -> bool:
        """Whether config.json has the field, be it null."""
        self.seen.add(name)
        return name in self._values

    def value(self, name: str) -> Any:
        """The value of a field, or the reference's default."""
        kind = self._table[name]
        assert isinstance(kind, Used), name
        self.seen.add(name)
        return self._values.get(name, kind.default)

    def agree(self, values: Mapping[str, Any]) -> None:
        """Raises InputError if fields that say the same thing have several values."""
        first = next(iter(values.values()))
        if any(each != first or isinstance(each, bool) != isinstance(first, bool) for each in values.values()):
            some = ' and '.join(f'{name}={value!r}' for name, value in values.items())
            raise config.InputError(
                f'{self._where}: {some} contradict each other; correct the one that is wrong, or delete it.'
            )


def check_common(fields: Fields, architectures: tuple[str, ...], old: tuple[str, ...] = ()) -> None:
    """Raises InputError if the fields that all families have in common ask for what a family has not.

    Args:
      architectures: the classes of the reference that the family implements.
      old: names that they had in its first versions.
    """
    named = fields.value('architectures')
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise config.InputError(f'config.json: architectures={named!r} should be a list of class names, or null.')
    other = [each for each in named or () if each not in (*architectures, *old)]
    if other:
        raise config.InputError(
            f'config.json: {other[0]} (architectures) is not supported; there is {", ".join(architectures)}.'
        )
    stored = {name: fields.value(name) for name in ('dtype', 'torch_dtype')}
    for name, value in stored.items():
        if value not in DTYPES:
            raise config.InputError(f'config.json: {name}={value!r} is not supported; there is {DTYPES[1:]}.')
    fields.agree({name: value for name, value in stored.items() if value is not None} or {'dtype': None})
