"""Generated text: continuations of prompts by a decoder, and translations by a model with an encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate.engine import engine_shape, text_engine, text_request
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.models import model as models
from bigmodel_jax.parallel import sharding

PyTree = Any
EncodePrompt = Callable[[str], np.ndarray]  # A prompt -> what the model reads, [n] int32.


def generate(
    model: models.Model,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    prompts: Sequence[str],
    *,
    tokens: int,
    how: decoding.Decoding,
    seed: int = 0,
    encode: EncodePrompt | None = None,
    model_state: PyTree | None = None,
    place: sharding.ShardingContext | None = None,
) -> list[str]:
    """The continuation of each prompt, without the prompt; the best one where there are several.

    Args:
      model: the config that `params` belong to, a decoder.
      prompts: texts.
      tokens: new tokens at most.
      encode: what the model reads of a prompt; by default it is the beginning of a document.
      place: where `params` lie; by default on one device.

    Raises:
      InputError: a prompt is too long, or holds what the tokenizer cannot encode.
    """
    ids = prompt_ids(tokenizer, prompts, encode)
    draws = [how.draw(seed, row) for row in range(len(ids))]
    if None not in draws and engine_shape.unsupported_reason(model) is None:
        decoding.check(model, ids, tokens=tokens, end=tokenizer.end)
        end = tokenizer.end
        requests = [text_request.TextRequest(prompt=each, tokens=tokens, end=end, draw=draw)
                    for each, draw in zip(ids, draws) if draw is not None]  # fmt: skip
        weights = text_engine.EngineWeights(model, params, model_state, place)
        new = [np.array(each.tokens, np.int32) for each in text_engine.complete(weights, requests)]
    else:
        where: dict[str, Any] = {'seed': seed, 'model_state': model_state, 'place': place}
        found = decoding.decode(model, params, ids, tokens=tokens, decoding=how, end=tokenizer.end, **where)
        new = [texts[0].tokens for texts in found]
    return [continuation(tokenizer, prompt, each) for prompt, each in zip(ids, new)]


def prompt_ids(
    tokenizer: tokenizers.Tokenizer, prompts: Sequence[str], encode: EncodePrompt | None = None
) -> list[np.ndarray]:
    """Token ids of each prompt; by default after the token that begins every document."""
    decoding.check_texts(prompts)
    encode = tokenizer.encode_prompt if encode is None else encode
    return [encode(prompt) for prompt in prompts]


def continuation(tokenizer: tokenizers.Tokenizer, prompt: np.ndarray, new: np.ndarray) -> str:
    """The text of the new tokens as it reads after the prompt, whose last character they may complete."""
    new = new[new < tokenizer.size]  # A vocabulary that was rounded up has ids that stand for nothing.
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *new])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)


def translate(
    model: models.Model,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    sentences: Sequence[str],
    *,
    how: decoding.Decoding,
    longer_by: int = 50,
    rows: int = 128,
    seed: int = 0,
    model_state: PyTree | None = None,
    place: sharding.ShardingContext | None = None,
) -> list[str]:
    """The best translation of each sentence, in their order.

    Args:
      model: the config that `params` belong to, a Seq2Seq.
      longer_by: how many tokens longer than its source a translation may be.
      rows: sentences translated at a time, those of similar lengths together.
      place: where `params` lie; by default on one device.
    """
    ids = [source_ids(tokenizer, sentence) for sentence in sentences]
    texts: dict[int, str] = {}
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        # The last, short group repeats a sentence, so that it needs no program of its own.
        padded = [*chosen, *(chosen[-1:] * (rows - len(chosen)))] if len(order) > rows else chosen
        longest = padded_length(ids[chosen[0]])
        found = decoding.decode(
            model,
            params,
            [np.array([tokenizer.begin], np.int32)] * len(padded),
            tokens=longest + longer_by,
            decoding=how,
            end=tokenizer.end,
            source=[ids[i] for i in padded],
            seed=seed,
            model_state=model_state,
            place=place,
        )
        # A vocabulary that was rounded up has ids that stand for nothing.
        best = [hypotheses[0].tokens for hypotheses in found[: len(chosen)]]
        texts |= {i: tokenizer.decode(new[new < tokenizer.size]) for i, new in zip(chosen, best)}
    return [texts[i] for i in range(len(ids))]


def padded_length(ids: np.ndarray) -> int:
    """To how many tokens a source is padded, so that those of similar lengths share a program."""
    return -(-len(ids) // decoding.PADDED_TO) * decoding.PADDED_TO


def source_ids(tokenizer: tokenizers.Tokenizer, sentence: str) -> np.ndarray:
    """Token ids of a sentence and its end, as data/text/pairs.py gives them to the encoder."""
    return np.append(tokenizer.encode(sentence), tokenizer.end).astype(np.int32)
