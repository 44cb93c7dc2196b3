"""SQuAD's scores, on cases worked out by hand, and the best span against trying all."""

import itertools

import numpy as np
import pytest

from bigmodel_jax.evaluate.text import answers


@pytest.mark.parametrize(
    ('answer', 'truths', 'match', 'f1'),
    [
        ('The Norman Duke!', ['norman duke'], 1, 1),
        ('an  apple', ['apple', 'pear'], 1, 1),
        ('Duke', ['the Norman Duke', 'king'], 0, 2 * 1 * 0.5 / 1.5),
        ('the duke of the duke', ['duke duke king'], 0, 2 / 3),
        ('nothing', ['something'], 0, 0),
        ('U.S.', ['us'], 1, 1),
    ],
)
def test_scores(answer, truths, match, f1):
    assert answers.exact_match(answer, truths) == match
    assert answers.f1(answer, truths) == pytest.approx(f1)


@pytest.mark.parametrize('longest', [1, 3, 20])
def test_the_best_span_is_the_best_of_all(longest):
    random = np.random.default_rng(longest)
    starts, ends = random.normal(size=(2, 12))
    spans = [(i, j) for i, j in itertools.product(range(12), repeat=2) if 0 <= j - i < longest]
    best = max(spans, key=lambda span: starts[span[0]] + ends[span[1]])
    assert answers.best_span(starts, ends, longest=longest) == (starts[best[0]] + ends[best[1]], *best)
