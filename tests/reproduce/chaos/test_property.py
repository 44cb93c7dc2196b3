"""Random stories of a run (train, stop, kill, damage, go on on other hosts) against a simple model of what must hold.

The model: a session begins at the newest checkpoint that was committed and not damaged; every newer one is named and
set aside; and the finished run is the undisturbed one, in state, metrics, and the examples of each step.

A longer story, or another:
STORY_SEEDS=20:25 STORY_CHAPTERS=30 scripts/test tests/reproduce/chaos/test_property.py -m slow
"""

import os
import pathlib
import random
import shutil

import pytest

from bigmodel_jax.reproduce.chaos import comparison, forks, observer
from bigmodel_jax.run_directory import event_log

ROOT = pathlib.Path(__file__).parents[3]
STEPS, SAVES, DEVICES = 40, 5, 2
SETTINGS = {
    'steps': STEPS, 'evaluations': (), 'model.layers': 1, 'mesh.data': -1,
    'watch.log_every': 2, 'watch.fingerprints_every': 10, 'checkpoints.every_steps': SAVES, 'checkpoints.keep_last': 3,
}  # fmt: skip
CHAPTERS = int(os.environ.get('STORY_CHAPTERS', '12'))
FIRST, LAST = map(int, os.environ.get('STORY_SEEDS', '0:3').split(':'))
SESSION_S = 240.0


@pytest.fixture(scope='module')
def zygote():
    with forks.Zygote() as server:
        yield server


# ---- damage -------------------------------------------------------------------------------------------------------


def arrays(checkpoint):
    """The files that hold numbers of the state, largest first: damage to them is what nobody would see."""
    files = [path for path in checkpoint.rglob('*') if path.is_file()]
    return sorted(files, key=lambda path: (-path.stat().st_size, str(path)))[:4]


def truncate(dice, checkpoint):
    path = dice.choice(arrays(checkpoint))
    os.truncate(path, dice.randrange(path.stat().st_size))


def flip(dice, checkpoint):
    path = dice.choice(arrays(checkpoint))
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def delete(dice, checkpoint):
    dice.choice(arrays(checkpoint)).unlink()


def empty(dice, checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES = (truncate, flip, delete, empty)


# ---- the story ----------------------------------------------------------------------------------------------------


class Story:
    """A run in `workdir`, what was done to it, and what must therefore hold."""

    def __init__(self, zygote, workdir, dice, hosts):
        self.zygote, self.workdir, self.dice, self.hosts = zygote, workdir, dice, hosts
        self.damaged: set[int] = set()
        self.told: list[str] = []  # For the message of a failure.
        self.sessions = 0

    @property
    def committed(self):
        folder = self.workdir / 'checkpoints'
        return {int(path.name) for path in folder.glob('*') if path.name.isdecimal()} if folder.exists() else set()

    def start(self, hosts, *more):
        self.sessions += 1
        settings = [part for name, value in SETTINGS.items() for part in ('--set', f'{name}={value}')]
        arguments = ['train', str(ROOT / 'tests' / 'tiny.py'), '--workdir', str(self.workdir), *settings, *more]
        output = self.workdir.parent / f'{self.workdir.name}-{self.sessions}'
        return self.zygote.run(arguments, hosts=hosts, devices=DEVICES // hosts, output=output)

    def session(self, hosts, *more, kill_at=None, after_s=0.0):
        """One session, to its end or until it is killed; then compares it with the model."""
        good, bad = self.committed - self.damaged, set(self.damaged)
        begin = max(good, default=0)
        self.told.append(f'{hosts} hosts {" ".join(more)} kill_at={kill_at}, to begin at {begin}')
        watch = observer.ProcessWatch(self.workdir)
        children = self.start(hosts, *more)
        while kill_at is not None and (watch.reported or 0) < kill_at and forks.wait(children[:1], 0.005) == [None]:
            watch.look()
        if kill_at is None:
            statuses = forks.wait(children, SESSION_S)
            assert statuses == [0] * hosts, (self.told, [child.output.read_text()[-2_000:] for child in children])
        else:
            forks.wait(children, after_s)
            for child in self.dice.sample(children, self.dice.randint(1, hosts)):
                child.kill()
            forks.wait(children, 10)
            for child in children:
                child.kill()
            forks.wait(children, 10)
        watch.look()
        assert watch.beginning is not None, self.told
        assert watch.beginning['step'] == begin, self.told
        self.check_damage(watch, {step for step in bad if step > begin})

    def check_damage(self, watch, newer):
        """All damage that the session met is named, and none that is not there."""
        said = [record['text'] for record in watch.records if record['kind'] == 'damage']
        assert len(said) == len(newer), (said, self.told)
        for step in newer:
            assert any(f'/{step} is damaged' in text for text in said), (said, self.told)
        self.damaged -= newer  # They are set aside.

    def damage_newest(self):
        good = self.committed - self.damaged
        # Older damage than this one stays unseen; and without a good checkpoint a run refuses to go on.
        if len(good) < 2 or self.damaged:
            return
        how, step = self.dice.choice(DAMAGES), max(good)
        how(self.dice, self.workdir / 'checkpoints' / str(step))
        self.damaged.add(step)
        self.told.append(f'{how.__name__} {step}')

    def chapter(self, event):
        """It happens, at a random moment; nothing that would end the run."""
        hosts, here = self.dice.choice(self.hosts), max(self.committed - self.damaged, default=0)
        if event == 'damage':
            self.damage_newest()
        elif event == 'stop' and here + 1 < STEPS:
            self.session(hosts, '--stop-after', str(self.dice.randrange(here + 1, min(here + 2 * SAVES, STEPS))))
        elif here + SAVES < STEPS:
            self.session(hosts, kill_at=here + self.dice.randint(2, SAVES), after_s=self.dice.uniform(0, 0.3))


def tell(zygote, workdir, *, seed, hosts, events=None):
    dice = random.Random(seed)
    story = Story(zygote, workdir, dice, hosts)
    for event in events or dice.choices(('stop', 'kill', 'kill', 'damage'), k=CHAPTERS):
        story.chapter(event)
    story.session(hosts[-1])
    return story


def steps_of(workdir):
    return [record['step'] for record in event_log.read(workdir / 'metrics.jsonl') if record['kind'] == 'train']


def undisturbed_run(zygote, workdir, hosts):
    story = Story(zygote, workdir, random.Random(0), (hosts,))
    story.session(hosts)
    return workdir


@pytest.mark.slow
def test_a_short_story(zygote, tmp_path):
    whole = undisturbed_run(zygote, tmp_path / 'undisturbed', 1)
    story = tell(zygote, tmp_path / 'told', seed=4, hosts=(1,), events=('stop', 'kill', 'stop', 'damage'))
    assert (tmp_path / 'told' / 'damaged').exists(), story.told
    assert comparison.differences(whole, tmp_path / 'told') == [], story.told


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(FIRST, LAST))
def test_a_long_story_on_one_number_of_hosts(zygote, tmp_path, seed):
    hosts = 1 + seed % 2
    whole = undisturbed_run(zygote, tmp_path / 'undisturbed', hosts)
    story = tell(zygote, tmp_path / 'told', seed=seed, hosts=(hosts,))
    assert comparison.differences(whole, tmp_path / 'told') == [], story.told


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(FIRST, LAST))
def test_a_long_story_on_one_and_two_hosts(zygote, tmp_path, seed):
    """One process and two add up in another order, so that floats differ in their last bits; nothing else may."""
    whole = undisturbed_run(zygote, tmp_path / 'undisturbed', 2)
    story = tell(zygote, tmp_path / 'told', seed=seed, hosts=(1, 2))
    assert steps_of(tmp_path / 'told') == steps_of(whole), story.told
    ids = [
        {step: pair[0] for step, pair in comparison.certificates(each).items()} for each in (whole, tmp_path / 'told')
    ]
    assert ids[0] == ids[1], story.told
    for step, metrics in comparison.metrics(whole).items():
        assert comparison.metrics(tmp_path / 'told')[step] == pytest.approx(metrics, rel=1e-4), (step, story.told)
