"""The MFU of a run is the FLOPs of the formulas over time and peak; it costs no compilation and changes no result."""

import jax
import jax.monitoring
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.hosts import chips
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.train import loop, state
from bigmodel_jax.train.flops import utilization

PEAK = 1e13  # Of a device; more than a CPU reaches with this model.
COMPILED = '/jax/core/compile/backend_compile_duration'


def formula(experiment) -> int:
    """Of the matrix products of a layer 24 D^2 FLOPs a token, of causal attention 2 T D, of the output matrix 2 V D."""
    T, V, D = tiny.LENGTH, tiny.VOCAB, experiment.model.width
    layers = experiment.model.layers * (24 * D**2 + 2 * T * D)
    return 3 * experiment.data.batch * T * (layers + 2 * V * D)


def test_the_mfu_is_that_of_the_formula_on_any_mesh_and_compiles_nothing():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    experiment = config.vary(tiny.experiment(), {'model.layers': 1, 'mesh': sharding.MeshShape(data=4, fsdp=2)})
    place = experiment.mesh.build()
    used = utilization.Utilization(experiment, place, PEAK)
    with sharding.use(place):
        state.specify(experiment, place)  # As every session does; it computes the key of the seed.
    compiled.clear()
    found = used.metrics(0.25)
    assert found['mfu'] == pytest.approx(formula(experiment) / 0.25 / 8 / PEAK, rel=1e-12)
    assert found['model_tflops_per_device'] == pytest.approx(found['mfu'] * PEAK / 1e12, rel=1e-12)
    assert COMPILED not in compiled
    assert used.problem() is None


def test_more_than_the_peak_is_said_once_and_is_no_number():
    experiment = config.vary(tiny.experiment(), {'model.layers': 1})
    used = utilization.Utilization(experiment, experiment.mesh.build(), PEAK)
    assert used.metrics(formula(experiment) / PEAK / 1.25) == {}
    assert 'An MFU of 125% cannot be' in used.problem()
    assert used.problem() is None


def test_a_device_without_a_known_peak_has_no_mfu():
    experiment = tiny.experiment()
    assert utilization.Utilization(experiment, experiment.mesh.build()).metrics(1e-9) == {}
    assert chips.of_kind('NVIDIA H100 PCIe') is None
    assert {chip.name for chip in chips.KINDS.values()} == set(chips.CHIPS)
    assert chips.of_kind('TPU v5 lite').flops == 197e12


@pytest.mark.slow
def test_a_run_logs_it_and_is_the_same_run(tmp_path):
    changes = {'evaluations': (), 'watch.log_every': 2, 'steps': 4, 'model.layers': 1}
    experiment = config.vary(tiny.experiment(), changes)
    plain = loop.train(experiment, tmp_path / 'plain')
    watched = loop.train(experiment, tmp_path / 'watched', peak_flops=PEAK)
    assert watched.digest == plain.digest
    speeds = [each['metrics'] for each in records(tmp_path / 'watched') if each['kind'] == 'speed']
    for each in speeds:
        devices = experiment.mesh.build().mesh.size
        assert each['mfu'] == pytest.approx(formula(experiment) / each['seconds_per_step'] / devices / PEAK)
    assert len(speeds) == 2
    assert not any('mfu' in each['metrics'] for each in records(tmp_path / 'plain') if each['kind'] == 'speed')
    traces = [event_log.read(tmp_path / name / 'trace.jsonl') for name in ('plain', 'watched')]
    assert len({str([each | {'time': 0} for each in trace]) for trace in traces}) == 1


def records(directory):
    return event_log.read(directory / event_log.FILE)
