"""Runs an experiment undisturbed, and then again under random SIGKILLs, restarted each time by the same command."""

import dataclasses
import json
import pathlib
import random
import time
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bigmodel_jax.reproduce.chaos import forks, moments, observer
from bigmodel_jax.storage import durable_files

POLL_S = 0.002  # A save of a small model takes some tens of milliseconds.
GRACE_S = 10.0  # What the others have to end by themselves when some are killed.
STUCK_S = 300.0  # A session that writes nothing for so long is given up.
LAST_WORDS = 1_500  # Characters of output that are shown of each host of a session that failed.
# JAX gives processes that compute on CPUs 30 s to meet at the first collective; on a busy machine one may be later.
LATE = 'Gloo context initialization failed'
MOST_LATE = 10  # In all; more is no bad luck.

Say = Callable[[str], None]


class Failed(Exception):
    """A session failed or hung though nothing was done to it.

    Args:
      status: the exit status of the first host that failed; 1 if it hung.
    """

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


class Late(Failed):
    """The hosts of a session did not meet in time, since the machine is busy."""


class Command(NamedTuple):
    """What every session runs, without the directory."""

    arguments: tuple[str, ...]  # Of `python -m bigmodel_jax`: train, the experiment, its --set and --arg.
    hosts: int
    devices: int  # Of each host.


@dataclasses.dataclass
class Kill:
    """One kill and what followed; an entry of chaos.json."""

    hosts: tuple[int, ...]
    aimed_at: str
    inside_save: bool
    time: float  # Unix time.
    committed: int | None  # The newest checkpoint at that moment.
    reached: int | None  # The last step that the session is known to have reached; None: it had not begun.
    lingered: tuple[int, ...] = ()  # Hosts that had to be killed too, since they did not end by themselves.
    resumed: int | None = None  # The step at which the next session began; None: that was killed before.
    steps_again: int = 0  # Steps that the next session did again.
    again_s: float = 0.0
    restart_s: float = 0.0  # From the kill until the next session began, or until the next kill.

    @property
    def lost_s(self) -> float:
        """What it cost."""
        return self.restart_s + self.again_s


class Chaos(NamedTuple):
    """What came of the disturbed run."""

    kills: list[Kill]
    problems: list[str]  # Broken promises about where a session goes on.
    late: int  # Sessions whose hosts did not meet in time, and which were started again.
    whole_s: float


class CampaignSession:
    """One start of the command, as a context manager; leaving it ends all its processes.

    Args:
      workdir: of the run.
      output: where its hosts' output goes.
    """

    def __init__(self, zygote: forks.Zygote, command: Command, *, workdir: pathlib.Path, output: pathlib.Path):
        self.watch = observer.ProcessWatch(workdir)
        self.found = self.watch.committed  # The newest checkpoint before it.
        arguments = [*command.arguments, '--workdir', str(workdir)]
        self.children = zygote.run(arguments, hosts=command.hosts, devices=command.devices, output=output)

    def __enter__(self) -> 'CampaignSession':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for child in self.children:
            child.kill()
        forks.wait(self.children, GRACE_S)

    def polls(self) -> Iterator[None]:
        """Yields again and again, after a fresh look, until a process ends.

        Raises:
          Failed: it has written nothing for STUCK_S seconds.
        """
        heard, count = time.time(), 0
        while all(child.poll() is None for child in self.children):
            self.watch.look()
            if len(self.watch.records) > count:
                heard, count = time.time(), len(self.watch.records)
            if time.time() - heard > STUCK_S:
                raise Failed(f'A session wrote nothing for {STUCK_S:.0f} s. {self._last_words()}')
            yield
            time.sleep(POLL_S)

    def check_ended_well(self) -> None:
        """Waits until all hosts have ended.

        Raises:
          Failed: one did not end well.
        """
        statuses = forks.wait(self.children, STUCK_S)
        self.watch.look()
        failed = [status for status in statuses if status]
        if failed or None in statuses:
            shown = ', '.join('still running' if status is None else str(status) for status in statuses)
            message = f'A session that nobody disturbed failed (exit status of each host: {shown}). '
            is_late = any(LATE in child.output.read_text(errors='replace') for child in self.children)
            kind = Late if is_late else Failed
            raise kind(message + self._last_words(), failed[0] if failed else 1)

    def kill(self, hosts: tuple[int, ...], aimed_at: str) -> Kill:
        """Kills `hosts`, and then those of the others that do not end by themselves."""
        self.watch.look()
        inside = self.watch.beginning is not None and bool(self.watch.saving)
        done = Kill(hosts, aimed_at, inside, time.time(), self.watch.committed, self.watch.reached)
        for host in hosts:
            self.children[host].kill()
        statuses = forks.wait(self.children, GRACE_S)
        done.lingered = tuple(host for host, status in enumerate(statuses) if status is None)
        self.watch.look()
        return done

    def _last_words(self) -> str:
        texts = [child.output.read_text(errors='replace')[-LAST_WORDS:] for child in self.children]
        return 'The end of its output:\n' + '\n'.join(f'host {i}: {text}' for i, text in enumerate(texts))


class Campaign:
    """Starts sessions of one command in directories under `root`; what they print goes to root/output.

    Args:
      say: is given a line of progress now and then.
    """

    def __init__(self, zygote: forks.Zygote, command: Command, root: pathlib.Path, say: Say):
        self._zygote, self._command, self._root, self._say = zygote, command, root, say
        self._count = 0

    def _session(self, name: str) -> CampaignSession:
        self._count += 1
        output = self._root / 'output' / f'{self._count:03d}'
        return CampaignSession(self._zygote, self._command, workdir=self._root / name, output=output)

    def undisturbed(self, name: str) -> observer.Pace:
        """Runs in root/name to the end, and measures.

        Raises:
          Failed: it does not come to the end.
        """
        saves_s, since = [], None
        with self._session(name) as session:
            for _ in session.polls():
                if since is None and session.watch.saving:
                    since = time.time()
                elif since is not None and not session.watch.saving:
                    saves_s.append(time.time() - since)
                    since = None
            session.check_ended_well()
        stored = json.loads((self._root / name / durable_files.EXPERIMENT).read_text())
        return observer.pace(session.watch.records, session.watch.began, saves_s, stored)

    def disturbed(self, name: str, pace: observer.Pace, *, kills: int, seed: int) -> Chaos:
        """Runs in root/name under `kills` kills, and then to the end.

        The kills are spread over the steps, in order, so that the run does not end before the last of them, however
        short it is; several may fall between two checkpoints. Half of them are inside saves: one that comes too late
        is made up for by a later one.

        Raises:
          Failed: a session that was not killed does not come to the end.
        """
        dice, problems, late, began = random.Random(seed), [], 0, time.time()
        done: list[Kill] = []
        while True:
            moment = self._moment(dice, done, kills, pace) if len(done) < kills else None
            try:
                with self._session(name) as session:
                    kill = self._await(session, moment, dice)
            except Late:
                late += 1
                if late > MOST_LATE:
                    raise
                self._say('the hosts did not meet in time, since this machine is busy; once more')
                continue
            problems += judge(session, kill, done[-1] if done else None, pace.step_s)
            if kill is None:
                return Chaos(done, problems, late, time.time() - began)
            done.append(kill)
            self._say(f'kill {len(done)} of {kills}: {describe(kill)}')

    def _moment(self, dice: random.Random, done: list[Kill], kills: int, pace: observer.Pace) -> moments.Moment:
        """The moment of the next kill."""
        missing = kills // 2 - sum(kill.inside_save for kill in done)
        step = int(pace.steps * (len(done) + dice.random()) / (kills + 1))
        return moments.draw(dice, step, missing / (kills - len(done)), pace)

    def _await(self, session: CampaignSession, moment: moments.Moment | None, dice: random.Random) -> Kill | None:
        """The kill at `moment`; None if there is none, or the session came to its end before."""
        for _ in session.polls():
            if moment is not None and moment.has_come(session.watch):
                time.sleep(moment.after_s)
                break
        if any(child.poll() is not None for child in session.children):
            session.check_ended_well()
            return None
        return session.kill(moments.victims(dice, self._command.hosts), type(moment).__name__)


def judge(session: CampaignSession, kill: Kill | None, before: Kill | None, step_s: float) -> list[str]:
    """Enters in the kill `before` a session what the session did, and returns the promises that it broke.

    Args:
      kill: that of the session itself; None if it came to its end.
      step_s: seconds of a step.
    """
    beginning, problems = session.watch.beginning, []
    if before is not None:
        if (session.found or 0) < (before.committed or 0):
            problems.append(f'the checkpoint of step {before.committed} was there at a kill, and gone after it')
        until = beginning['time'] if beginning is not None else kill.time if kill is not None else before.time
        before.restart_s = until - before.time
    if beginning is None:
        return problems
    step = beginning['step']
    if step != (session.found or 0):
        problems.append(f'the newest checkpoint was of step {session.found or 0}, and the session began at {step}')
    if before is not None:
        before.resumed = step
        before.steps_again = max((before.reached or 0) - step, 0)
        before.again_s = before.steps_again * step_s
    return problems


def describe(kill: Kill) -> str:
    """The kill in one line, before anything is known of what followed."""
    where = 'before the session began' if kill.reached is None else f'at step {kill.reached}'
    inside = ', inside a save' if kill.inside_save else ''
    return f'host {", ".join(map(str, kill.hosts))} {where}{inside}'
