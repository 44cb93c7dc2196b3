"""Expressions mean what they say, and what they cannot say is one message."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmodel_jax import config
from bigmodel_jax.catalogue import catalogue, catalogued_run, columns, expressions

NUMBERS = {'seed': 's', 'model.layers': 'm', 'validation/loss': 'v'}  # Column -> a name for Python.


def run(loss=1.0, **changed):
    fields = {'model.layers': 2, 'model.block.ffn.class': 'm:Gated', 'model.block.ffn.hidden': 8, 'model.tied': True}
    facts = {'path': 'runs/a', 'name': 'norms', 'state': 'finished', 'seed': 0, 'started': '2026-03-01T00:00:00Z'}
    metrics = {
        'validation/loss': catalogued_run.MetricSummary(loss, loss, 1, 'lower', ''),
        'validation set/loss': catalogued_run.MetricSummary(loss, loss, 1, 'lower', ''),
    }
    fields |= {name: value for name, value in changed.items() if name not in facts}
    facts |= {name: value for name, value in changed.items() if name in facts}
    return catalogued_run.CataloguedRun({'damage': [], **facts}, fields, metrics)


def chosen(text, *runs):
    return [each in expressions.parse(text).select(runs, columns.Names(runs)) for each in runs]


values = st.integers(-3, 3)
comparisons = st.builds(
    lambda name, sign, value: (f'{name} {sign} {value}', f'{NUMBERS[name]} {sign} {value}'),
    st.sampled_from(sorted(NUMBERS)), st.sampled_from(['<', '<=', '>', '>=', '==', '!=']), values,
)  # fmt: skip
chains = st.builds(
    lambda name, low, high: (f'{low} <= {name} < {high}', f'{low} <= {NUMBERS[name]} < {high}'),
    st.sampled_from(sorted(NUMBERS)), values, values,
)  # fmt: skip
members = st.builds(
    lambda name, few: (f'{name} not in ({few[0]}, {few[1]})', f'{NUMBERS[name]} not in ({few[0]}, {few[1]})'),
    st.sampled_from(sorted(NUMBERS)), st.lists(values, min_size=2, max_size=2),
)  # fmt: skip


@given(
    st.recursive(
        comparisons | chains | members,
        lambda inner: (
            st.builds(lambda one: (f'not ({one[0]})', f'not ({one[1]})'), inner)
            | st.builds(
                lambda one, word, other: (f'({one[0]}) {word} {other[0]}', f'({one[1]}) {word} {other[1]}'),
                inner, st.sampled_from(['and', 'or']), inner,
            )
        ),
        max_leaves=6,
    ),
    st.lists(st.tuples(values, values, values), min_size=1, max_size=4),
)  # fmt: skip
def test_expressions_agree_with_python(texts, rows):
    runs = [run(loss=float(v), seed=s, **{'model.layers': m}) for s, m, v in rows]
    expected = [eval(texts[1], {}, {'s': s, 'm': m, 'v': float(v)}) for s, m, v in rows]
    assert chosen(texts[0], *runs) == expected


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('name == "norms"', True),
        ("'norm' in name", True),
        ('"Gated" in model.block.ffn', True),
        ('model.block.ffn == "Gated(hidden=8)"', True),
        ('model.block.ffn.class != "Gated"', False),
        ('started >= "2026-02" and started < "2026-03-02"', True),
        ('model.tied', True),
        ('not model.tied', False),
        ('model.tied == True', True),
        ('best(validation/loss) < 2', True),
        ('best( "validation set/loss" ) < 2', True),
        ('column("validation set/loss") < 2', True),
        ('last(validation/loss) == best(validation/loss)', True),
        ('best_step(validation/loss) == 1', True),
        ('seed is None', False),
        ('validation/loss > -inf', True),
        ('validation/loss == nan', False),
        ('model.layers in [1, 2]', True),
        ('.5<validation/loss<=1e0', True),
    ],
)
def test_what_can_be_said(text, expected):
    assert chosen(text, run()) == [expected]


def test_what_a_run_lacks_and_what_is_not_a_number():
    whole, other, lost = run(extra=3), run(), run(loss=math.nan)
    assert chosen('extra > 1', whole, other) == [True, False]
    assert chosen('extra < 1', whole, other) == [False, False]
    assert chosen('extra != 3', whole, other) == [False, True]
    assert chosen('extra == None', whole, other) == [False, True]
    assert chosen('validation/loss == nan', whole, lost) == [False, True]
    assert chosen('validation/loss < 9', whole, lost) == [True, False]
    assert chosen('not validation/loss < 9', whole, lost) == [False, True]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model.layer > 3', "'model.layer'. Did you mean 'model.layers'?"),
        ('layers > 3', "Did you mean 'model.layers'?"),
        ('validaton/loss < 3', "Did you mean 'validation/loss'?"),
        ('state == finished', 'Text is written in quotes: "finished".'),
        ('seed = 0', "'=' has no meaning here. Write ==."),
        ('seed == 0 && seed == 1', 'Write and.'),
        ('seed == 0 | seed == 1', 'Write or.'),
        ('seed == "0"', 'seed holds numbers, and is compared with text'),
        ('3 < name', 'name holds text, and is compared with numbers'),
        ('model.tied == 1', 'model.tied holds True or False, and is compared with numbers'),
        ('seed in ("a", "b")', 'seed holds numbers, and is compared with text'),
        ('seed + 1 == 2', 'arithmetic cannot be used here'),
        ('__import__("os").system("x") == 0', "'.' has no meaning here"),
        ('().__class__', 'has no meaning here'),
        ('print(seed)', 'a function cannot be used here'),
        ('seed == [seed]', 'a list of anything but values'),
        ('[each for each in seed]', 'is not an expression'),
        ('lambda: 0', "':' has no meaning here"),
        ('-name', 'a sign before something that is not a number'),
        ('seed ==', 'is not an expression'),
        ('', 'is not an expression'),
        ('seed == 0 seed', 'is not an expression'),
        ('"open', 'has no meaning here'),
        ('column("\\x") == 1', 'is not text that can be read'),
        ('(' * 300 + 'seed' + ')' * 300, 'is not an expression'),
        ('not ' * 100 + 'model.tied', 'more than 50 parentheses'),
        ('seed == ' + '9' * 5_000, 'is not an expression'),
        ('x' * 10_001, 'at most 10,000 are read'),
        ('seed\x00 == 0', 'has no meaning here'),
    ],
)
def test_what_cannot_be_said(text, message):
    with pytest.raises(config.InputError, match=re.escape(message)):
        chosen(text, run())


def test_of_no_runs_every_name_may_be_asked():
    assert catalogue.Catalogue([]).where('anything > 3').runs == ()
