"""Whatever happens to the files of a checkpoint, it is named, set aside, and the one before it is used."""

import os
import pathlib
import random
import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from etils import epath

import tiny
from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints, listing
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, workdir
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train import loop, preparation

# So many that a file of numbers is too large to be hashed: then the arrays' checksums have to find the damage.
EXPERIMENT = config.vary(tiny.experiment(), {'model.vocab': 20_000, 'model.layers': 1})
OLD, NEW = 8, 16


@pytest.fixture(scope='module')
def run():
    return preparation.build(EXPERIMENT)


def save(run, directory, **states):
    """A work directory with a checkpoint of each of the states, by step."""
    workdir.create(epath.Path(directory), run.experiment)
    with checkpoints.Checkpointer(epath.Path(directory), run.experiment.checkpoints) as store:
        for step, current in states.items():
            store.save(current, {'step': int(step[1:]), 'pending': []}, {})
            assert store.finish() is None


@pytest.fixture(scope='module')
def saved(run, tmp_path_factory):
    """A directory with checkpoints of two steps, others to take parts from, and the digests of both states."""
    folder = tmp_path_factory.mktemp('saved')
    with sharding.use(run.place):
        first = run.spec.init()
        second = first._replace(params=jax.tree.map(lambda x: x + 1, first.params))
        narrow = second._replace(params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), second.params))
        flat = second._replace(params=jax.tree.map(jnp.ravel, second.params))
        save(run, folder / 'run', s8=first, s16=second)
        save(run, folder / 'same', s16=first)
        save(run, folder / 'narrow', s16=narrow)
        save(run, folder / 'flat', s16=flat)
        other = run.__class__(**{**vars(run), 'experiment': config.vary(EXPERIMENT, {'seed': 1})})
        save(other, folder / 'other', s16=first)
        return folder, {OLD: digest.digest(first), NEW: digest.digest(second)}


def restore(run, directory, policy=EXPERIMENT.checkpoints):
    """The step and digest of the newest good state, and what was said of the others."""
    with sharding.use(run.place), checkpoints.Checkpointer(epath.Path(directory), policy) as store:
        current, position = store.restore_newest(run.spec.abstract, run.spec.shardings)
        return position['step'], digest.digest(current), store.damage


# ---- the damages ------------------------------------------------------------------------------------------------


def largest(step: pathlib.Path, item: str) -> pathlib.Path:
    return max((path for path in (step / item).rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path: pathlib.Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def flip(path: pathlib.Path, place: float, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1 << bit
    path.write_bytes(content)


def zero(path: pathlib.Path, place: float, size: int) -> None:
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + size] = bytes(len(content[start : start + size]))
    path.write_bytes(content)


def swap(one: pathlib.Path, other: pathlib.Path) -> None:
    between = one.parent / 'between'
    one.rename(between)
    other.rename(one)
    between.rename(other)


def replace(path: pathlib.Path, source: pathlib.Path) -> None:
    """Puts a copy of a directory or file in the place of another."""
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)


def rewrite(step: pathlib.Path, **changes: object) -> None:
    """Changes a record and seals it again."""
    path = step / integrity.RECORD
    path.write_text(integrity.seal(integrity.unseal(path.read_bytes()) | changes))


def point_outside(step: pathlib.Path, target: pathlib.Path) -> None:
    outside = step.parents[2] / 'outside'
    target.rename(outside)
    target.symlink_to(outside)


def half_copied(step: pathlib.Path) -> None:
    """As by a copy that was cut off: the first half of the files, in the order of their names."""
    found = sorted(path for path in step.rglob('*') if path.is_file())
    for path in found[len(found) // 2 :]:
        path.unlink()


def narrow_data(step: pathlib.Path, kind: str) -> None:
    """Arrays of another dtype or shape, below a record that was made to fit all that it says of the files."""
    replace(step / 'model', step.parents[1].parent / 'sources' / kind / 'checkpoints' / '16' / 'model')
    rewrite(step, files=integrity.describe_files(epath.Path(step)))


def twin(step: pathlib.Path, name: str) -> pathlib.Path:
    return step.parents[1].parent / 'sources' / name / 'checkpoints' / '16'


# What is done to the directory of step 16, and what has to be said of it.
DAMAGES = {
    'a record cut in half': (lambda s: truncate(s / integrity.RECORD, 0.5), r'checkpoint\.json is damaged'),
    'an empty record': (lambda s: truncate(s / integrity.RECORD, 0), r'checkpoint\.json is damaged'),
    'a flip in the record': (lambda s: flip(s / integrity.RECORD, 0.3), r'checkpoint\.json is damaged'),
    'a flip in the seal': (lambda s: flip(s / integrity.RECORD, 0.998), r'checkpoint\.json is damaged'),
    'a record that is not text': (lambda s: (s / integrity.RECORD).write_bytes(bytes(99)), r'json is damaged'),
    'no record': (lambda s: (s / integrity.RECORD).unlink(), r'checkpoint\.json is missing.* without checksums'),
    'a newer format': (lambda s: rewrite(s, format=integrity.FORMAT + 1), f'is of format {integrity.FORMAT + 1}'),
    'the record of the step before': (
        lambda s: replace(s / integrity.RECORD, s.parent / '8' / integrity.RECORD), 'of step 8, in the directory of'),
    'a record that is a directory': (
        lambda s: [(s / integrity.RECORD).unlink(), (s / integrity.RECORD).mkdir()], r'json is not a file'),
    'numbers cut in half': (lambda s: truncate(largest(s, 'model'), 0.5), r'model/ocdbt\S+ has [\d,]+ bytes instead'),
    'numbers without their last byte': (lambda s: truncate(largest(s, 'optimizer'), 0.9999999), r'optimizer/\S+ has'),
    'numbers cut to nothing': (lambda s: truncate(largest(s, 'model'), 0), r'has 0 bytes instead of'),
    'a byte too many': (lambda s: largest(s, 'model').open('ab').write(b'0'), r'model/ocdbt\S+ has'),
    'numbers that are gone': (lambda s: largest(s, 'model').unlink(), r'model/ocdbt\S+ is missing'),
    'a flip in the parameters': (lambda s: flip(largest(s, 'model'), 0.5), r'the array params\.embedding\.table'),
    'a flip of a sign': (lambda s: flip(largest(s, 'model'), 0.4, 7), r'the array params\.embedding\.table'),
    'a flip in the optimizer': (lambda s: flip(largest(s, 'optimizer'), 0.3), r'array opt_state\S+\.embedding\.table'),
    'a block of zeros': (lambda s: zero(largest(s, 'model'), 0.5, 4096), r'the array params\.embedding\.table'),
    'nothing but zeros': (lambda s: zero(largest(s, 'model'), 0, 2**30), r'model/ cannot be read|the array'),
    'a flip in the metadata': (lambda s: flip(s / 'model' / '_METADATA', 0.5), r'_METADATA has another content'),
    'no metadata': (lambda s: (s / 'model' / '_METADATA').unlink(), r'model/_METADATA is missing'),
    'no index': (lambda s: (s / 'model' / 'manifest.ocdbt').unlink(), r'model/manifest\.ocdbt is missing'),
    'a flip in the index': (lambda s: flip(s / 'optimizer' / 'manifest.ocdbt', 0.5), r'manifest\.ocdbt has another'),
    'no model': (lambda s: shutil.rmtree(s / 'model'), r'model/\S+ is missing'),
    'no optimizer': (lambda s: shutil.rmtree(s / 'optimizer'), r'optimizer/\S+ is missing'),
    'an empty model': (lambda s: [shutil.rmtree(s / 'model'), (s / 'model').mkdir()], r'model/\S+ is missing'),
    'a model that is a file': (
        lambda s: [shutil.rmtree(s / 'model'), (s / 'model').write_text('')], r'model does not belong'),
    'items in each other\'s place': (lambda s: swap(s / 'model', s / 'optimizer'), r'does not belong to it'),
    'an empty directory': (lambda s: [shutil.rmtree(s), s.mkdir()], r'it is empty'),
    'a file': (lambda s: [shutil.rmtree(s), s.write_text('')], r'it is a file, not a directory'),
    'a foreign file': (lambda s: (s / 'notes.txt').write_text('x'), r'notes\.txt does not belong to it'),
    'a foreign file among the arrays': (lambda s: (s / 'model' / 'd' / 'x').write_text(''), r'model/d/x does not'),
    'half of a copy': (half_copied, r'\S+ is missing'),
    'a copy of the step before': (lambda s: replace(s, s.parent / '8'), r'checkpoint of step 8, in the directory of'),
    'the steps in each other\'s place': (lambda s: swap(s, s.parent / '8'), r'checkpoint of step 8, in the directory'),
    'a checkpoint of another run': (lambda s: replace(s, twin(s, 'other')), r'checkpoint of another run'),
    'the model of the step before': (lambda s: replace(s / 'model', s.parent / '8' / 'model'), r'does not belong to'),
    'the same step of the same experiment, another model': (
        lambda s: replace(largest(s, 'model'), largest(twin(s, 'same'), 'model')), r'has [\d,]+ bytes|read|array'),
    'arrays of another dtype': (lambda s: narrow_data(s, 'narrow'), r'\d+ arrays params\.\S+'),
    'arrays of another shape': (lambda s: narrow_data(s, 'flat'), r'model/ cannot be read: .*shape'),
    'a link to a directory elsewhere': (lambda s: point_outside(s, s), r'it is a symbolic link'),
    'a link inside': (lambda s: point_outside(s, s / 'model'), r'model is a symbolic link'),
    'a link for the record': (lambda s: point_outside(s, s / integrity.RECORD), r'checkpoint\.json is not a file'),
}  # fmt: skip


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of the saved directory to do harm to."""
    shutil.copytree(saved[0] / 'run', tmp_path / 'run')
    (tmp_path / 'sources').symlink_to(saved[0])
    return tmp_path / 'run'


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_named_and_the_step_before_is_used(run, saved, damaged, name):
    harm, words = DAMAGES[name]
    harm(damaged / durable_files.CHECKPOINTS / str(NEW))
    if name == "the steps in each other's place":
        with pytest.raises(config.InputError, match=words):  # Both are damaged.
            restore(run, damaged)
        return
    step, found, said = restore(run, damaged)
    assert (step, found) == (OLD, saved[1][OLD])
    assert len(said) == 1
    assert said[0].startswith(f'Checkpoint {damaged.resolve() / durable_files.CHECKPOINTS / str(NEW)} is damaged: ')
    assert re.search(words, said[0]), said[0]
    assert sorted(path.name for path in (damaged / durable_files.CHECKPOINTS).iterdir()) == [str(OLD)]
    assert [path.name for path in (damaged / listing.DAMAGED).iterdir()] == [str(NEW)]


FLIPS = int(os.environ.get('FLIPS', '24'))


def test_a_flip_of_any_bit_is_named_or_does_nothing(run, saved, damaged):
    """Bits of what nobody reads, between the parts of a file of numbers, may flip unseen. FLIPS=300: more of them."""
    step, choose = damaged / durable_files.CHECKPOINTS / str(NEW), random.Random(0)
    found = sorted(path for path in step.rglob('*') if path.is_file())
    large = [path for path in found if path.stat().st_size > integrity.HASHED_BYTES]
    assert len(large) >= 2
    named = 0
    for number in range(FLIPS):
        path = choose.choice(large if number % 2 else found)
        content = path.read_bytes()
        flip(path, choose.random(), choose.randrange(8))
        number, digested, said = restore(run, damaged, policy=None)
        assert digested == saved[1][number]
        assert (number == OLD) == bool(said)
        named += len(said)
        path.write_bytes(content)
    print(f'{named} of {FLIPS} flips were named')
    assert named > 0.75 * FLIPS
    assert restore(run, damaged) == (NEW, saved[1][NEW], [])


def test_what_is_undamaged_is_restored_and_left_alone(run, saved, damaged):
    assert restore(run, damaged) == (NEW, saved[1][NEW], [])
    assert not (damaged / listing.DAMAGED).exists()


def test_reading_moves_nothing(run, saved, damaged):
    step = damaged / durable_files.CHECKPOINTS / str(NEW)
    flip(largest(step, 'model'), 0.5)
    number, found, said = restore(run, damaged, policy=None)
    assert (number, found, len(said)) == (OLD, saved[1][OLD], 1)
    assert step.exists()
    with sharding.use(run.place), checkpoints.Checkpointer(epath.Path(damaged), None) as store:
        model = store.restore_model(run.spec.abstract, run.spec.shardings)
        assert (model.step, len(store.damage)) == (OLD, 1)
        with pytest.raises(config.InputError, match=r'16 is damaged: the array .*Use another step: there are 8, 16'):
            store.restore_model(run.spec.abstract, run.spec.shardings, NEW)
    assert step.exists()


def test_a_damaged_optimizer_does_not_matter_to_an_evaluation(run, saved, damaged):
    flip(largest(damaged / durable_files.CHECKPOINTS / str(NEW), 'optimizer'), 0.5)
    with sharding.use(run.place), checkpoints.Checkpointer(epath.Path(damaged), None) as store:
        model = store.restore_model(run.spec.abstract, run.spec.shardings)
    assert (model.step, store.damage) == (NEW, [])


def test_where_all_are_damaged_nothing_is_begun_anew(run, damaged):
    for step in (OLD, NEW):
        flip(largest(damaged / durable_files.CHECKPOINTS / str(step), 'model'), 0.5)
    for _ in range(2):  # The second time as well.
        with pytest.raises(config.InputError, match='can be used') as error:
            restore(run, damaged)
        assert f'{durable_files.CHECKPOINTS}/{OLD} is damaged: the array' in str(error.value)
        assert f'{durable_files.CHECKPOINTS}/{NEW} is damaged: the array' in str(error.value)
    with pytest.raises(config.InputError, match='is damaged'):
        loop.train(EXPERIMENT, damaged)


def test_what_was_set_aside_before_stays(run, damaged):
    for kept in ('16', '16-2'):
        (damaged / listing.DAMAGED / kept).mkdir(parents=True)
    (damaged / durable_files.CHECKPOINTS / str(NEW) / integrity.RECORD).unlink()
    assert restore(run, damaged)[0] == OLD
    assert (damaged / listing.DAMAGED / '16-3' / 'model').is_dir()


def test_names_that_only_look_like_steps_are_no_checkpoints(run, saved, damaged):
    for name in ('99.partial', '0016', '17 (copy)', '-3', 'x'):
        shutil.copytree(damaged / durable_files.CHECKPOINTS / str(NEW), damaged / durable_files.CHECKPOINTS / name)
    assert restore(run, damaged) == (NEW, saved[1][NEW], [])


def test_the_rest_of_a_save_that_died_is_removed(run, damaged):
    folder = damaged / durable_files.CHECKPOINTS
    shutil.copytree(folder / str(NEW), folder / '24.partial')
    shutil.copytree(folder / str(NEW), folder / '4.deleted')
    assert restore(run, damaged)[0] == NEW
    assert sorted(path.name for path in folder.iterdir()) == ['16', '8']
