"""Losses of preferences: TRL's values and gradients in float64, the papers' formulas, and pieces of the logits."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from bigmodel_jax.data.text.chats import preferences as data
from bigmodel_jax.interop import huggingface, matching
from bigmodel_jax.interop.files import folder
from bigmodel_jax.objectives import objective, preferences

# Made by scripts/oracles/trl_preferences.py: a policy, a reference of its weights times SCALE, and TRL's results.
TRL = pathlib.Path(__file__).parents[1] / 'oracles' / 'trl_preferences'
END, SCALE, BETA = 31, 1.25, 0.3
PAIRS = json.loads((TRL / 'pairs.json').read_text())
OBJECTIVES = {'sigmoid': preferences.Dpo(beta=BETA), 'ipo': preferences.Ipo(beta=BETA)}


def batch(length=16):
    """The pairs as rows of Preferences, without a reference."""
    rows = {name: np.zeros((len(PAIRS), length), np.int32) for name in ('inputs', 'targets', 'segments', 'positions')}
    rows['loss_weights'] = np.zeros((len(PAIRS), length))
    for row, (prompt, *answers) in enumerate(PAIRS):
        at = 0
        for segment, answer in zip((data.CHOSEN, data.REJECTED), answers):
            ids = np.array([*prompt, *answer, END])
            here = slice(at, at + len(ids) - 1)
            rows['inputs'][row, here], rows['targets'][row, here] = ids[:-1], ids[1:]
            rows['segments'][row, here], rows['positions'][row, here] = segment, np.arange(len(ids) - 1)
            rows['loss_weights'][row, here.start + len(prompt) - 1 : here.stop] = 1
            at = here.stop
    return rows | {'example_weights': np.ones(len(PAIRS))}


@pytest.fixture(scope='module')
def policy():
    pretrained = huggingface.load_pretrained(TRL, dtype='float64')
    found = matching.match(folder.Folder(TRL), huggingface.FAMILIES)
    with jax.enable_x64(True):
        reference = jax.tree.map(lambda x: SCALE * x, pretrained.params)
        module, rows = pretrained.model.build(), batch()
        dpo = preferences.Dpo()
        log_p_BT, _ = dpo.log_probabilities(objective.Apply(module, reference, {}), rows, {})
        yield module, pretrained.params, rows | {data.REFERENCE: log_p_BT}, found.tensors


def outcome(policy, chosen, params=None):
    module, own, rows, _ = policy
    return chosen(objective.Apply(module, own if params is None else params, {}), rows, train=True, rngs={})


@pytest.mark.parametrize('kind', ['sigmoid', pytest.param('ipo', marks=pytest.mark.slow)])
def test_losses_rewards_and_gradients_are_those_of_trl(policy, kind):
    def loss(params):
        found = outcome(policy, OBJECTIVES[kind], params)
        return found.loss.total / found.loss.count, found.metrics

    (total, metrics), tree = jax.jit(jax.value_and_grad(loss, has_aux=True))(policy[1])
    gradients = dict(matching.file_tensors(jax.device_get(tree), policy[3]))
    with np.load(TRL / 'trl.npz') as arrays:
        np.testing.assert_allclose(total, arrays[f'{kind}/loss'], rtol=1e-13)
        for name, theirs in (
            ('chosen_reward', 'chosen'), ('rejected_reward', 'rejected'), ('reward_margin', 'margins'),
            ('reward_accuracy', 'accuracies'),
        ):  # fmt: skip
            mean = metrics[name].total / metrics[name].count
            np.testing.assert_allclose(mean, arrays[f'{kind}/rewards/{theirs}'], rtol=1e-6, err_msg=name)
        wanted = {name.removeprefix(f'{kind}/grad/'): arrays[name] for name in arrays if f'{kind}/grad/' in name}
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # Rounding of float64 over sums of some hundred terms.
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-9, atol=1e-13, err_msg=name)


def test_conservative_dpo_is_its_formula(policy):
    chosen, rejected = np.array([-3.0, 2.0, 40.0]), np.array([1.0, -1.0, -900.0])
    d = 0.2 * (chosen - rejected)
    log_sigmoid = -np.log1p(np.exp(-np.abs(d))) + np.minimum(d, 0)
    expected = -0.9 * log_sigmoid - 0.1 * (log_sigmoid - d)
    with jax.enable_x64(True):
        found = preferences.dpo_losses(chosen, rejected, beta=0.2, label_smoothing=0.1)
        smoothed = outcome(policy, preferences.Dpo(beta=BETA, label_smoothing=0.1)).loss
        plain = outcome(policy, OBJECTIVES['sigmoid'])
        # -log sigmoid(-d) = -log sigmoid(d) + d
        moved = 0.1 * plain.metrics['reward_margin'].total
        np.testing.assert_allclose(smoothed.total, plain.loss.total + moved, rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.slow
def test_pieces_of_the_logits_and_weights_of_rows(policy):
    module, params, rows, _ = policy
    with jax.enable_x64(True):
        whole = outcome(policy, OBJECTIVES['sigmoid'])
        # All logits are 1/128 MiB, and the field cannot say less than 1.
        tiny = dataclasses.replace(OBJECTIVES['sigmoid'])
        object.__setattr__(tiny, 'logits_mib', 1 / 1024)
        apply = objective.Apply(module, params, {})
        cut = tiny(apply, rows, train=True, rngs={})
        np.testing.assert_allclose(cut.loss.total, whole.loss.total, rtol=1e-14)
        each = tiny.per_example(apply, rows, train=True, rngs={})
        np.testing.assert_allclose(each.mean(), whole.loss.total / 4, rtol=1e-14)
        # A row of weight 0 changes nothing, whatever it holds.
        spoiled = {**rows, data.REFERENCE: np.array(rows[data.REFERENCE])}
        spoiled[data.REFERENCE][2] = np.nan
        spoiled['example_weights'] = np.array([1.0, 1.0, 0.0, 1.0])
        found = tiny(apply, spoiled, train=True, rngs={}).loss
        np.testing.assert_allclose(found.total, each.sum() - each[2], rtol=1e-13)
        assert found.count == 3
