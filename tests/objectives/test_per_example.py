"""The loss of each example is that of the batch in which the others have no weight."""

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import answer_spans, classification, language, masked, objective, regression
from bigmodel_jax.objectives.rngs import Rngs

B, N, V = 3, 4, 7
RANDOM = np.random.default_rng(0)
GPT = decoder.gpt(vocab=V, width=8, layers=1, heads=1, length=N, **{'embedding.dropout': 0.5})
OUTPUTS = {
    'logits': RANDOM.normal(size=(B, V)).astype(np.float32),
    'values': RANDOM.normal(size=B).astype(np.float32),
    'start_logits': RANDOM.normal(size=(B, N)).astype(np.float32),
    'end_logits': RANDOM.normal(size=(B, N)).astype(np.float32),
    'mlm_logits': RANDOM.normal(size=(B, N, V)).astype(np.float32),
    'nsp_logits': RANDOM.normal(size=(B, 2)).astype(np.float32),
}
ROWS = {
    'labels': RANDOM.integers(0, V, B), 'values': RANDOM.normal(size=B).astype(np.float32),
    'starts': RANDOM.integers(0, N, B), 'ends': RANDOM.integers(0, N, B),
    'example_weights': np.array([1, 2, 0.5], np.float32),
}  # fmt: skip
TOKENS = {
    'inputs': RANDOM.integers(0, V, (B, N)), 'targets': RANDOM.integers(0, V, (B, N)),
    'is_random_next': RANDOM.integers(0, 2, B), 'example_weights': np.ones(B, np.float32),
    'loss_weights': np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], np.float32),
}  # fmt: skip
CASES = {
    'classification': (classification.Classification(label_smoothing=0.1), ROWS),
    'regression': (regression.Regression(), ROWS),
    'spans': (answer_spans.AnswerSpans(), ROWS),
    'masked': (masked.MaskedLanguageModel(next_sentence=0.5), TOKENS),
    'masked alone': (masked.MaskedLanguageModel(next_sentence=0.0), TOKENS),
    'language': (language.LanguageModel(label_smoothing=0.1, z_loss=0.1), TOKENS),
}


def applying(chosen):
    """A model with its weights; but for the language model, whose dropout is tested, outputs that are given."""
    if not isinstance(chosen, language.LanguageModel):
        return lambda batch, **how: (OUTPUTS, objective.Auxiliary({}, {}))
    return objective.Apply(GPT.build(), drawing.variables(GPT.build(), {'inputs': TOKENS['inputs']})['params'], {})


@pytest.mark.parametrize('name', CASES)
def test_an_example_has_the_loss_that_it_has_alone(name):
    chosen, batch = CASES[name]
    apply, rngs = applying(chosen), Rngs(jax.random.key(1))
    each = chosen.per_example(apply, batch, train=True, rngs=rngs)
    for row in range(B):
        alone = np.where(np.arange(B) == row, batch['example_weights'], 0).astype(np.float32)
        loss = chosen(apply, batch | {'example_weights': alone}, train=True, rngs=rngs).loss
        np.testing.assert_allclose(each[row], loss.total / loss.count, rtol=1e-5)


def test_an_example_of_which_nothing_counts_has_none():
    silent = TOKENS | {'loss_weights': TOKENS['loss_weights'] * (np.arange(B) != 1)[:, None]}
    chosen, _ = CASES['language']
    each = chosen.per_example(applying(chosen), silent, train=False, rngs={})
    np.testing.assert_array_equal(np.isnan(each), [False, True, False])
