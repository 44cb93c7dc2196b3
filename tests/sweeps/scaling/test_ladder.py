import json
import xml.etree.ElementTree

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.sweeps.scaling import ladder, panels
from runs import run_maker


def test_runs_become_observations(tmp_path):
    found = ladder.read([run_maker.finished(tmp_path / name, steps) for name, steps in (('a', 1_000), ('b', 2_000))])
    np.testing.assert_array_equal(found.parameters, 804_096)
    # 12 rows of 64 tokens at each step; the validation loss is measured every 250.
    np.testing.assert_array_equal(found.tokens, 12 * 64 * 250 * np.array([*range(1, 5), *range(1, 9)]))
    final = found.final()
    assert len(final) == 2
    assert final.tokens.tolist() == [12 * 64 * 1_000, 12 * 64 * 2_000]
    np.testing.assert_array_equal(final.losses, found.losses[[3, 11]])
    np.testing.assert_allclose(final.flops, 6 * 804_096 * final.tokens)


def test_what_is_no_ladder_is_refused(tmp_path):
    whole, part = run_maker.finished(tmp_path / 'a'), run_maker.unfinished(tmp_path / 'b', 500)
    with pytest.raises(config.InputError, match='is not finished'):
        ladder.read([whole, part])
    with pytest.raises(config.InputError, match='named twice'):
        ladder.read([whole, whole])
    with pytest.raises(config.InputError, match='needs runs'):
        ladder.read([])
    with pytest.raises(config.InputError, match="no metric 'validation/los'"):
        ladder.read([whole], metric='validation/los')
    environment = json.loads((whole / 'environment.json').read_text())
    (whole / 'environment.json').write_text(json.dumps([{**each, 'parameters': None} for each in environment]))
    with pytest.raises(config.InputError, match='how many parameters'):
        ladder.read([whole])


def test_picture_is_well_formed_whatever_the_names():
    lines = [
        panels.LogLine('<script>&"', np.array([1.0, 10.0, np.nan]), np.array([2.0, 3.0, 4.0])),
        panels.LogLine('', np.array([0.0]), np.array([-1.0])),
    ]
    text = panels.svg(
        [panels.LogPanel('a < b', 'x & y', '"z"', lines, level_x=5.0), panels.LogPanel('', '', '', lines[1:])]
    )
    root = xml.etree.ElementTree.fromstring(text)
    words = ' '.join(root.itertext())
    assert '<script>' not in text
    assert '<script>&"' in words
    assert 'a < b' in words
    assert 'nan' not in text
