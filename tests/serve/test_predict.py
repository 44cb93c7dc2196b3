"""Labels over HTTP: those of the predictor, for images and for tables, and nothing is compiled after the start."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from bigmodel_jax import experiment_file, verbs, web_server
from bigmodel_jax.serve import application, served_model, server

pytest.importorskip('prometheus_client')


def ask(made, path, body):
    request = urllib.request.Request(made.url + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.parametrize(('study', 'name'), [('digits', 'image'), ('breast_cancer', 'features')])
def test_labels_of_a_run_are_those_of_its_predictor(study, name, tmp_path):
    experiment = experiment_file.load(f'experiments/{study}.py:smoke', ['mesh.data=1'], [])
    verbs.train(experiment, tmp_path / 'run')
    trained = verbs.open_run(tmp_path / 'run').restore()
    rows = np.random.default_rng(0).random((5, *experiment.data.fields[name].shape))
    wanted = trained.predictor()([{name: row} for row in rows])
    served = served_model.ServedModel.of_run(trained)
    with server.ModelServer(served, access=application.Access(address=web_server.Address(port=0))) as made:
        status, said = ask(made, '/predict', {'records': [{name: row.tolist()} for row in rows]})
        several = [ask(made, '/predict', {'records': [{name: row.tolist()}]})[1]['predictions'][0] for row in rows]
        wrong = ask(made, '/predict', {'records': [{'picture': 1}]})
        short = ask(made, '/predict', {'records': [{name: [1, 2]}]})
        none = ask(made, '/v1/completions', {'prompt': 'a'})
        assert made.compilations == 0
    assert (status, wrong[0], short[0], none[0]) == (200, 400, 400, 404)
    assert f"'{name}'" in wrong[1]['error']['message']
    assert 'shape' in short[1]['error']['message']
    assert [tuple(map(tuple, each['rows'])) for each in said['predictions']] == [each.rows for each in wanted]
    assert [each['columns'] for each in several] == [list(each.columns) for each in wanted]
