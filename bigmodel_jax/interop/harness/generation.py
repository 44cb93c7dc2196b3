"""gen_kwargs of the evaluation harness, as it and transformers understand them: what to generate, and until when.

Source: normalize_gen_kwargs() and handle_stop_sequences() of lm_eval/models/utils.py 0.4.13.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.evaluate.text import decoding

# The names of the largest number of new tokens; the first that is given counts.
LENGTHS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')
KNOWN = (*LENGTHS, 'until', 'do_sample', 'temperature', 'top_p', 'top_k')
# What asks for nothing, at these values alone.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    'num_beams': (1,),
    'num_beam_groups': (1,),
    'num_return_sequences': (1,),
    'repetition_penalty': (1,),
    'encoder_repetition_penalty': (1,),
    'diversity_penalty': (0,),
    'no_repeat_ngram_size': (0,),
    'encoder_no_repeat_ngram_size': (0,),
    'typical_p': (1,),
    'epsilon_cutoff': (0,),
    'eta_cutoff': (0,),
    'min_length': (0,),
    'min_new_tokens': (0, None),
    'length_penalty': (1,),  # Which beams alone have.
    'early_stopping': (True, False),
    'use_cache': (True, False),
}
TOP_K = 50  # What transformers draws from where nothing is said.


class GenerationOptions(NamedTuple):
    """What a request asks for."""

    tokens: int
    until: tuple[str, ...]
    how: decoding.Decoding


def wish(given: Mapping[str, Any], *, new_tokens: int) -> GenerationOptions:
    """What gen_kwargs ask for.

    Args:
      new_tokens: the largest number of new tokens where they do not say.

    Raises:
      InputError: one is unknown, not implemented, or out of its range.
    """
    for name, value in given.items():
        if name in NEUTRAL:
            if not any(value == each for each in NEUTRAL[name]):
                raise config.InputError(
                    f'gen_kwargs: {name}={value!r} is not supported; only {" or ".join(map(repr, NEUTRAL[name]))} is.'
                )
        elif name not in KNOWN:
            raise config.InputError(f'gen_kwargs: {name!r} is not supported.{config.nearest(name, KNOWN)}')
    tokens = next((given[name] for name in LENGTHS if given.get(name) is not None), new_tokens)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise config.InputError(f'gen_kwargs: max_gen_toks={tokens!r} should be a positive integer.')
    return GenerationOptions(tokens, _until(given.get('until')), _how(given))


def _until(until: Any) -> tuple[str, ...]:
    stops = () if until is None else (until,) if isinstance(until, str) else until
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise config.InputError(f'gen_kwargs: until={until!r} should be a text or a list of texts.')
    return tuple(stops)


def _how(given: Mapping[str, Any]) -> decoding.Decoding:
    """Greedily, unless do_sample is true, or is not said and there is a temperature."""
    temperature, samples = given.get('temperature', 0.0), given.get('do_sample')
    if not isinstance(temperature, (int, float)) or isinstance(temperature, bool) or not 0 <= temperature < 1e9:
        raise config.InputError(f'gen_kwargs: temperature={temperature!r} should be a number, at least 0.')
    if samples not in (None, True, False) or not isinstance(samples, (bool, type(None))):
        raise config.InputError(f'gen_kwargs: do_sample={samples!r} should be true or false.')
    top_k, top_p = given.get('top_k', TOP_K), given.get('top_p')
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 0):
        raise config.InputError(f'gen_kwargs: top_k={top_k!r} should be a positive integer, or 0 for no limit.')
    if top_p is not None and (not isinstance(top_p, (int, float)) or isinstance(top_p, bool) or not 0 < top_p <= 1):
        raise config.InputError(f'gen_kwargs: top_p={top_p!r} should be a number above 0 and at most 1.')
    if samples is None:
        samples = temperature > 0
    if not samples:
        return decoding.Greedy()
    if 'temperature' in given and temperature == 0:
        raise config.InputError(
            'gen_kwargs: temperature=0 with do_sample=True asks for two things; use do_sample=False to be greedy.'
        )
    return config.check(
        decoding.Sampling(
            temperature=float(temperature) if 'temperature' in given else 1.0,
            top_k=top_k or None,
            top_p=None if top_p is None else float(top_p),
        )
    )
