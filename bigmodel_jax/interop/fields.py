"""Reading config.json so that no field is overlooked: each is used, checked, known to change nothing, or reported."""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from bigmodel_jax import config

T = TypeVar('T')

# Fields of any config.json that do not enter the forward pass of a trained model: where it came from, how it is
# trained, how text is generated, and which of its numbers are returned.
WITHOUT_EFFECT = frozenset(
    {
        '_name_or_path', '_commit_hash', '_attn_implementation', '_attn_implementation_autoset',
        'transformers_version', 'model_type', 'architectures', 'torch_dtype', 'dtype', 'name_or_path',
        'finetuning_task', 'task_specific_params', 'tokenizer_class', 'prefix', 'problem_type', 'id2label',
        'label2id', 'num_labels', 'return_dict', 'return_dict_in_generate', 'output_attentions',
        'output_hidden_states', 'output_scores', 'output_past', 'use_cache', 'torchscript', 'use_bfloat16',
        'gradient_checkpointing', 'initializer_range', 'initializer_factor', 'bos_token_id', 'eos_token_id',
        'pad_token_id', 'sep_token_id', 'cls_token_id', 'bad_words_ids', 'begin_suppress_tokens', 'suppress_tokens',
        'decoder_start_token_id', 'forced_bos_token_id', 'forced_eos_token_id', 'max_length', 'min_length',
        'max_new_tokens', 'do_sample', 'early_stopping', 'num_beams', 'num_beam_groups', 'diversity_penalty',
        'temperature', 'top_k', 'top_p', 'typical_p', 'repetition_penalty', 'length_penalty',
        'no_repeat_ngram_size', 'encoder_no_repeat_ngram_size', 'num_return_sequences', 'remove_invalid_values',
        'exponential_decay_length_penalty', 'tf_legacy_loss', 'classifier_dropout', 'summary_type',
        'summary_use_proj', 'summary_activation', 'summary_proj_to_labels', 'summary_first_dropout',
        'tie_encoder_decoder',
    }
)  # fmt: skip
# Fields that mean another computation wherever they are set.
REFUSED = ('quantization_config', 'pruned_heads', 'chunk_size_feed_forward')


class Fields:
    """The fields of a config.json; notes which were looked at.

    Args:
      values: the JSON object.
      where: the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self._values, self._where, self._seen = values, where, set(REFUSED)
        for name in REFUSED:
            if values.get(name):
                raise config.InputError(f'{where}: {name}={values[name]!r} changes the computation; not supported.')

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise config.InputError(f'{self._where}: {name}={value!r} should be a positive integer.')
        return value

    def optional(self, name: str) -> int | None:
        """A positive integer, or None where the field is null or missing."""
        return None if self._value(name, None, needed=False) is None else self.whole(name)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number, at least 0."""
        value = self._value(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise config.InputError(f'{self._where}: {name}={value!r} should be a number, at least 0.')
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise config.InputError(f'{self._where}: {name}={value!r} should be true or false.')
        return value

    def choice(self, name: str, meanings: Mapping[str, T], default: str | None = None) -> T:
        """What the text of a field stands for."""
        value = self._value(name, default)
        if not isinstance(value, str) or value not in meanings:
            raise config.InputError(
                f'{self._where}: {name}={value!r} is not implemented; there is {", ".join(map(repr, meanings))}.'
            )
        return meanings[value]

    def only(self, **implemented: Any) -> None:
        """Raises InputError where a field that is there has another value than the one that is implemented."""
        for name, wanted in implemented.items():
            value = self._value(name, wanted, needed=False)
            if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
                raise config.InputError(
                    f'{self._where}: {name}={value!r} changes the computation and is not implemented; '
                    f'only {wanted!r} is.'
                )

    def within(self, name: str) -> 'Fields':
        """The fields of an object in a field; none where it is null or missing."""
        value = self._value(name, None, needed=False)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise config.InputError(f'{self._where}: {name}={value!r} should be an object.')
        return Fields(value, f'{self._where}: {name}')

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value(name, None, needed=False) is not None

    def unknown(self, without_effect: Collection[str] = ()) -> list[str]:
        """The fields that nobody looked at and that are not known to have no effect; each as name=value."""
        left = self._values.keys() - self._seen - WITHOUT_EFFECT - set(without_effect)
        return [f'{name}={self._values[name]!r}' for name in sorted(left)]

    def refuse_unknown(self, without_effect: Collection[str] = ()) -> None:
        """Raises InputError if there are unknown() fields: for objects in which each one matters."""
        left = self.unknown(without_effect)
        if left:
            raise config.InputError(f'{self._where}: {", ".join(left)} is not implemented.')

    def _value(self, name: str, default: Any, needed: bool = True) -> Any:
        self._seen.add(name)
        value = self._values.get(name, default)
        if value is None and default is not None:
            value = default
        if value is None and needed:
            raise config.InputError(f'{self._where} lacks {name}.')
        return value
