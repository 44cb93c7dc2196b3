"""experiments/recurrent_lm.py: batches that continue one another, and a state that passes from each to the next."""

import pathlib

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax import config, experiment_file
from bigmodel_jax.data import sources
from bigmodel_jax.objectives import objective

FILE = pathlib.Path(__file__).parents[1] / 'experiments' / 'recurrent_lm.py'
ROWS, LENGTH = 2, 4
TEXT = sources.Texts(texts=('the quick brown fox jumps', 'over the lazy dog'))


@pytest.fixture(scope='module')
def experiment():
    small = {
        'data.source': TEXT,
        'data.batch': ROWS,
        'data.length': LENGTH,
        'model.layers': 2,
        'model.width': 8,
        'model.block.ffn.hidden': 12,
    }
    return config.vary(experiment_file.load(str(FILE)), small)


def passages(data, steps):
    """The batches of some steps, one after the other along the rows."""
    found = [data.training(step) for step in range(steps)]
    return found, {name: np.concatenate([batch[name] for batch in found], axis=1) for name in ('inputs', 'targets')}


def test_each_row_reads_its_passage_to_the_end_and_then_again(experiment):
    data = experiment.data.build(seed=0)
    pieces = len(data.examples) // ROWS
    found, whole = passages(data, 2 * pieces)
    np.testing.assert_array_equal(whole['inputs'][:, : pieces * LENGTH], whole['inputs'][:, pieces * LENGTH :])
    inside = whole['targets'][:, : pieces * LENGTH - 1] == whole['inputs'][:, 1 : pieces * LENGTH]
    assert inside.mean() > 0.9  # All but where a document ends: its end is a target, the next one's begin an input.
    starts = [batch['starts'].tolist() for batch in found]
    assert starts == ([[1, 1]] + [[0, 0]] * (pieces - 1)) * 2
    assert sorted(np.concatenate([data.ids(step) for step in range(pieces)])) == list(range(len(data.examples)))


def test_the_carried_state_makes_one_text_of_two_batches(experiment):
    """The features of two training batches are those of both read at once, and a new passage begins with nothing."""
    batches, whole = passages(experiment.data.build(seed=0), 2)
    module = experiment.model.build()
    variables = drawing.variables(module, batches[0])
    state = {'carried': jax.tree.map(np.zeros_like, variables['carried'])}

    @jax.jit
    def read(state, batch):
        apply = objective.Apply(module, variables['params'], state)
        (x_BTD, _), auxiliary = apply(batch, train=True, rngs={}, method='features')
        return x_BTD, auxiliary.model_state

    found = []
    for batch in batches:
        x_BTD, state = read(state, batch)
        found.append(x_BTD)
    evaluated, _ = objective.Apply(module, variables['params'], state)({'inputs': whole['inputs']}, method='features')
    # Float32 in a parallel scan of 8 tokens and two layers; the state left out is off by more than 1e-2.
    np.testing.assert_allclose(np.concatenate(found, axis=1), evaluated[0], atol=1e-5)
    alone, _ = read(jax.tree.map(np.zeros_like, state), batches[1])
    assert np.abs(alone - found[1]).max() > 1e-2
    again, _ = read(state, batches[0])
    np.testing.assert_array_equal(again, found[0])


def test_rows_that_are_read_apart_are_refused(experiment):
    batch = experiment.data.build(seed=0).training(0)
    module = experiment.model.build()
    variables = drawing.variables(module, batch)
    part = {name: value[:1] for name, value in batch.items()}
    with pytest.raises(config.InputError, match='needs gradients=WholeBatch'):
        module.apply(variables, part, mutable=['carried'])
