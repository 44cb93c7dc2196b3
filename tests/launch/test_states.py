"""The states of a launch in their order, its budget, its record, and what is checked before anything is asked for."""

import dataclasses
import json
import math
import pathlib
import random
import re
from collections.abc import Sequence

import pytest
from etils import epath
from launch import fake_cloud, launched

from bigmodel_jax import config
from bigmodel_jax.launch import launching, programs, seen, states
from bigmodel_jax.launch.states import LaunchBudget, LaunchState
from bigmodel_jax.launch.targets import target


def launch_of(folder: pathlib.Path, attempts: int = 20, hours: float = 24.0) -> states.Launch:
    on, budget = target.parse(launched.TARGETS['cloud_tpu']), LaunchBudget(attempts=attempts, hours=hours)
    about = states.Launch(launched.job('quickstart', 'cloud_tpu'), on, budget, epath.Path(folder))
    about.save(states.Record())
    return about


def cloud_of(about: states.Launch, work: int = 5) -> fake_cloud.FakeCloud:
    """A cloud in which nothing goes wrong by itself."""
    cloud = fake_cloud.FakeCloud(about.job.name, random.Random(0), troubles=0, hosts=4, work=work)
    cloud.now_s = 1_000_000.0
    return cloud


def to_the_end(about: states.Launch, cloud: fake_cloud.FakeCloud, run: programs.Run | None = None) -> states.Record:
    for _ in range(2_000):
        record = states.turn(about, launching.open_launch(about.folder)[1], run or cloud, cloud.now_s)
        if record.state.is_end:
            return record
        cloud.now_s += 30.0
    raise AssertionError(record)


def test_the_states_are_passed_in_their_order(tmp_path: pathlib.Path) -> None:
    about = launch_of(tmp_path)
    record = to_the_end(about, cloud_of(about))
    passed = [entry[2] for entry in record.history]
    order = ['requested', 'waiting', 'ready', 'running', 'done']
    assert passed == [state for state in order if state in passed]
    assert (passed[0], passed[-1]) == ('requested', 'done')
    assert launching.describe(record).endswith('nothing is left running.')


@pytest.mark.parametrize('is_stopped', [False, True])
def test_a_request_that_arrives_late_is_not_forgotten_or_repeated(is_stopped: bool, tmp_path: pathlib.Path) -> None:
    about = launch_of(tmp_path)
    cloud, late = cloud_of(about), []

    def run(command: Sequence[str]) -> programs.Answer:
        if 'create' in command and not late:  # It arrives when nobody waits for its answer any more.
            late.append((cloud.now_s + 1.5 * programs.TIMEOUT_S, command))
            return programs.Answer(None, err='gcloud gave no answer')
        if late and late[0][0] <= cloud.now_s:
            cloud(late[0][1])
            late[0] = (math.inf, command)
        return cloud(command)

    record = states.turn(about, states.Record(), run, cloud.now_s)
    if is_stopped:
        states.stop(about, record, cloud.now_s)
    record = to_the_end(about, cloud, run)
    assert record.state is (LaunchState.STOPPED if is_stopped else LaunchState.DONE)
    assert late[0][0] == math.inf, 'it arrived before the end'
    assert (cloud.left, cloud.most, list(cloud.created.values())) == ([], 1, [1])


def test_a_budget_of_hours_is_kept(tmp_path: pathlib.Path) -> None:
    about = launch_of(tmp_path, hours=0.5)
    cloud = cloud_of(about, work=10**9)
    record = to_the_end(about, cloud)
    assert (record.state, record.attempt) == (LaunchState.FAILED, 1)
    assert 'budget of 0.5 hours' in record.reason
    assert record.used_s <= 0.5 * 3600 + 30, 'one look later'
    assert not cloud.left


def test_machines_that_are_not_seen_to_be_gone_are_named_with_the_command_that_removes_them(
    tmp_path: pathlib.Path,
) -> None:
    about = launch_of(tmp_path)
    told = launching.still_there(about, states.Record(attempt=3, ending=LaunchState.STOPPED))
    assert 'may still cost money' in told
    assert re.search(rf'gcloud .* delete {about.job.name}-3 .*--project', told)


@pytest.mark.parametrize('crashes', [states.CRASHES - 1, states.CRASHES])
def test_a_run_that_fails_by_itself_again_and_again_is_given_up(crashes: int, tmp_path: pathlib.Path) -> None:
    about = launch_of(tmp_path)
    cloud = cloud_of(about)
    cloud.crashes = crashes
    record = to_the_end(about, cloud)
    assert record.attempt == states.CRASHES
    assert record.state is (LaunchState.FAILED if crashes == states.CRASHES else LaunchState.DONE)
    assert ('exit status 1 in 3 attempts in a row' in record.reason) == (crashes == states.CRASHES)
    assert not cloud.left


@pytest.mark.parametrize('on', ['cloud_tpu', 'gke'])
def test_a_run_that_its_budget_ended_is_not_started_again(on: str, tmp_path: pathlib.Path) -> None:
    about = dataclasses.replace(launch_of(tmp_path), on=target.parse(launched.TARGETS[on]))
    about.save(states.Record())
    cloud = cloud_of(about)
    cloud.spends = True
    record = to_the_end(about, cloud)
    assert (record.state, record.attempt, cloud.left) == (LaunchState.SPENT, 1, [])
    assert 'larger --budget' in launching.describe(record)


def test_a_refusal_is_not_repeated(tmp_path: pathlib.Path) -> None:
    about, asked = launch_of(tmp_path), []
    cloud = cloud_of(about)

    def run(command: Sequence[str]) -> programs.Answer:
        if 'create' not in command:
            return cloud(command)
        asked.append(command)
        return programs.Answer(1, err='ERROR: RESOURCE_EXHAUSTED: Quota limit TPUV5sLitepod has been exceeded')

    record = to_the_end(about, cloud, run)
    assert (record.state, len(asked)) == (LaunchState.FAILED, 1)
    assert 'Quota' in record.reason


def test_a_record_is_read_as_it_was_written_and_a_damaged_one_is_told(tmp_path: pathlib.Path) -> None:
    about = launch_of(tmp_path)
    record = states.stop(about, states.Record().to(LaunchState.RUNNING, 5.0, 'x'), 6.0)
    assert states.read(tmp_path) == (about, record)
    path = tmp_path / states.FILE
    stored = json.loads(path.read_text())
    for wrong in (stored | {'record': {'state': 'odd'}}, stored | {'target': stored['job']}, {}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(config.InputError, match='damaged'):
            states.read(tmp_path)


@pytest.mark.parametrize(
    ('missing', 'said'),
    [
        (('auth',), 'gcloud is not on PATH'),
        (('queued-resources',), 'switches Cloud TPU on'),
        (('buckets',), 'creates the bucket'),
        (('secrets',), 'gcloud secrets create HF_TOKEN'),
    ],
)
def test_what_is_missing_is_said_before_anything_is_asked_for(missing: tuple[str, ...], said: str) -> None:
    def run(command: list[str]) -> programs.Answer:
        if set(missing) & set(command):
            return programs.Answer(127 if 'auth' in missing else 1, err='it failed')
        return programs.Answer(0, 'EUROPE-WEST4\n')

    job, on = launched.job('vaswani2017', 'cloud_tpu'), target.parse(launched.TARGETS['cloud_tpu'])
    with pytest.raises(config.InputError, match=said):
        on.ready(job, run)


@pytest.mark.parametrize(
    ('fields', 'said'),
    [("partition='mian'", r'the cluster has main, long\..*main'), ('minutes=600', 'main ends jobs after 120 minutes')],
)
def test_a_partition_of_slurm_is_compared_with_those_of_the_cluster(fields: str, said: str) -> None:
    on = target.parse(f'SlurmNodes({fields})')
    with pytest.raises(config.InputError, match=said):
        on.ready(
            launched.job('quickstart', 'slurm'), lambda command: programs.Answer(0, 'main*|2:00:00\nlong|infinite\n')
        )


def test_a_bucket_elsewhere_is_a_warning_with_its_cost() -> None:
    job, on = launched.job('quickstart', 'cloud_tpu'), target.parse(launched.TARGETS['cloud_tpu'])

    def warnings(location: str) -> list[str]:
        return on.ready(job, lambda command: programs.Answer(0, f'{location}\n'))

    assert warnings('US-WEST4') == warnings('US') == []
    assert [('$0.02' in text, '--location=us-west4' in text) for text in warnings('US-EAST1')] == [(True, True)]
    assert '$0.08' in warnings('EUROPE-WEST4')[0]
    with pytest.raises(config.InputError, match='no credentials'):
        on.ready(job, lambda command: programs.Answer(0, ''))


@pytest.mark.parametrize('on', ['slurm', 'cloud_tpu', 'gke', 'skypilot'])
def test_a_request_that_succeeds_is_accepted_and_one_without_an_answer_is_not_known(on: str) -> None:
    where = target.parse(launched.TARGETS[on])
    assert where.judge(programs.Answer(0, '17')) is seen.Created.ACCEPTED
    assert where.judge(programs.Answer(None)) is seen.Created.UNKNOWN
