"""A cloud in memory that answers gcloud, kubectl, xpk, sky and the commands of Slurm, with all that goes wrong there.

Called with a command it returns what the program would print and its exit status. Between two commands machines come
up, are preempted, boot only in part, and compute; a command may fail before or after it took effect, take too long, or
be carried out minutes later; and the process that gave it may be killed.
"""

import json
import pathlib
import random
import re

from bigmodel_jax.launch import programs

LATE_S = 250.0  # A request that got no answer is carried out at most so much later.
TROUBLE = 0.12  # How often something goes wrong, where it can.


class Killed(BaseException):
    """The process that launches is killed here."""


class FakeCloud:
    """One project.

    Args:
      job: the name of the job, of which the names of the machines are made.
      chance: decides everything.
      troubles: how often something goes wrong before all goes well.
      hosts: of an attempt.
      work: how often the hosts compute until the run is done. What is done survives them, as a checkpoint does.
    """

    def __init__(self, job: str, chance: random.Random, *, troubles: int, hosts: int, work: int):
        self.now_s, self.work, self._job = 0.0, work, job
        self._chance, self._troubles, self._hosts = chance, troubles, hosts
        self._late: list[tuple[float, str]] = []  # (when, name)
        self._machines: dict[str, str] = {}  # Name -> state as of queued resources.
        self._rendered = ''
        self._folder: pathlib.Path | None = None  # Of the script that sbatch was given.
        self._starts_again = False  # JobSet and SkyPilot start a preempted run again by themselves.
        self._started: dict[str, int] = {}  # Name -> hosts that have started the run.
        self._ended: dict[str, list[int]] = {}  # Number of the attempt -> statuses, which the bucket keeps.
        self.crashes = 0  # Attempts from now on in which every host ends with an error of its own.
        self.spends = False  # The run ends with its budget before its work is done.
        self.created: dict[str, int] = {}  # Name -> how often machines were made.
        self.most = 0  # Attempts that had machines, or had asked for them, at a time.

    @property
    def left(self) -> list[str]:
        """Names of what exists, or is going to."""
        return sorted({*self._machines, *(name for _, name in self._late)})

    def __call__(self, command):
        self._pass_time()
        if self._goes_wrong():
            raise Killed
        answer = self._answer(list(command))
        self.most = max(self.most, len(self._machines))
        if self._goes_wrong():
            raise Killed
        return answer

    def _goes_wrong(self) -> bool:
        found = self._troubles > 0 and self._chance.random() < TROUBLE
        self._troubles -= found
        return found

    def _answer(self, command: list[str]) -> programs.Answer:
        """The answer of a program; those that only read may fail, and those that change have failures of their own."""
        words = [word for word in command if not word.startswith('-')]
        if words[0] == 'xpk':
            self._rendered = self._name(command)  # kubectl is given the file, which holds the name.
        if words[0] == 'cat':
            return self._file(pathlib.Path(words[1]))
        if words[0] in ('bash', 'xpk') or words[:3] == ['gcloud', 'storage', 'cp'] or 'patch' in words:
            return self._unavailable() if self._goes_wrong() else programs.Answer(0)
        if words[0] == 'sbatch':
            return self._submit(pathlib.Path(words[1]))
        if 'create' in words or words[:3] == ['sky', 'jobs', 'launch']:
            self._starts_again = words[0] != 'gcloud'
            return self._create(self._name(command) or self._rendered)
        if {'delete', 'cancel', 'scancel'} & set(words):
            return self._delete(self._name(command), words[0])
        if self._goes_wrong():
            return self._unavailable()
        if words[:2] == ['gcloud', 'storage']:
            return self._bucket(words)
        if 'pods' in words:
            return programs.Answer(0, ' '.join(map(str, self._ended.get(self._name(command).rpartition('-')[2], []))))
        name = self._name(command)
        if words[0] == 'squeue':
            return self._queue(name, is_all='--states=all' in command)
        return {'gcloud': self._describe, 'kubectl': self._jobset, 'sky': self._jobs}[words[0]](name)

    def _name(self, command: list[str]) -> str:
        """Of the attempt that a command is about."""
        words = {word for part in command for word in (part, part.rpartition('=')[2])}
        return next((word for word in words if word.startswith(f'{self._job}-')), '')

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _create(self, name: str) -> programs.Answer:
        if self._goes_wrong():
            how = self._chance.randrange(4)
            if how == 0:
                return programs.Answer(1, err='ERROR: RESOURCE_EXHAUSTED: Quota limit TPUS_PER_PROJECT is exceeded')
            if how == 1:
                self._late.append((self.now_s + self._chance.uniform(0, LATE_S), name))
                return programs.Answer(None, err='no answer')
            if how == 2:
                return self._unavailable()
            self._make(name)
            return self._unavailable()
        if name in self._machines:
            return programs.Answer(1, err=f'ERROR: ALREADY_EXISTS (AlreadyExists): {name}')
        self._make(name)
        return programs.Answer(0)

    def _submit(self, script: pathlib.Path) -> programs.Answer:
        """sbatch; it would take the same name twice."""
        self._starts_again, self._folder = True, script.parent
        name = re.search(r'--job-name=(\S+)', script.read_text())[1]
        answer = self._create(name)
        if 'ALREADY_EXISTS' in answer.err:
            self.created[name] += 1
            return programs.Answer(0)
        return answer

    def _make(self, name: str) -> None:
        if name not in self._machines:
            self._machines[name] = 'WAITING_FOR_RESOURCES'
            self.created[name] = self.created.get(name, 0) + 1

    def _delete(self, name: str, program: str) -> programs.Answer:
        if name not in self._machines:
            status = 0 if program in ('kubectl', 'scancel') else 1
            return programs.Answer(status, err=f'ERROR: NOT_FOUND: {name} was not found')
        if self._goes_wrong():
            return self._unavailable()
        self._machines[name] = 'DELETING'
        return programs.Answer(0)

    def _unavailable(self) -> programs.Answer:
        if self._chance.random() < 0.3:
            return programs.Answer(None, err='no answer in time')
        return programs.Answer(1, err='ERROR: UNAVAILABLE: Unable to contact the service')

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _bucket(self, words: list[str]) -> programs.Answer:
        _, attempt, folder, _ = words[-1].rsplit('/', 3)
        statuses = self._ended.get(attempt, [])
        count = self._started.get(f'{self._job}-{attempt}', 0)
        lines = list(map(str, statuses)) if folder == 'status' else [f'host{n}' for n in range(count)]
        if not lines:
            return programs.Answer(1, err='ERROR: The following URLs matched no objects or files')
        return programs.Answer(0, '\n'.join(lines))

    def _describe(self, name: str) -> programs.Answer:
        if name not in self._machines:
            return programs.Answer(1, err=f'ERROR: NOT_FOUND: Resource {name} was not found')
        return programs.Answer(0, json.dumps({'state': {'state': self._machines[name]}}))

    def _jobset(self, name: str) -> programs.Answer:
        state = self._machines.get(name)
        if state is None:
            return programs.Answer(1, err=f'Error from server (NotFound): jobsets "{name}" not found')
        statuses = self._ended.get(name.rpartition('-')[2], [])
        over = {'type': 'Failed' if any(statuses) else 'Completed', 'status': 'True', 'message': 'status'}
        status = {
            'conditions': [over] if statuses else [],
            'replicatedJobsStatus': [{'ready': int(self._started.get(name, 0) > 0)}],
        }
        about = {'metadata': {'name': name}, 'spec': {'suspend': state == 'WAITING_FOR_RESOURCES'}, 'status': status}
        return programs.Answer(0, json.dumps(about))

    def _jobs(self, name: str) -> programs.Answer:
        lines = ['ID  NAME  STATUS']
        for number, each in enumerate(self.created):
            statuses = self._ended.get(each.rpartition('-')[2], [])
            over = ('FAILED' if any(statuses) else 'SUCCEEDED') if statuses else None
            now = {'ACTIVE': 'RUNNING', 'DELETING': 'CANCELLING', None: 'CANCELLED'}
            lines.append(f'{number}  {each}  {over or now.get(self._machines.get(each), "PENDING")}')
            if statuses:  # SkyPilot frees the machines of a job that has ended.
                self._machines.pop(each, None)
        return programs.Answer(0, '\n'.join(lines))

    def _queue(self, name: str, is_all: bool) -> programs.Answer:
        """squeue; without --states=all it shows no job that has ended."""
        statuses = self._ended.get(name.rpartition('-')[2], [])
        if statuses:
            self._machines.pop(name, None)  # A job that has ended has no nodes.
        now = {'WAITING_FOR_RESOURCES': 'PENDING', 'ACTIVE': 'RUNNING', None: ''}
        state = now.get(self._machines.get(name), 'COMPLETING')
        ended = 'CANCELLED' if not statuses else 'FAILED' if any(statuses) else 'COMPLETED'
        return programs.Answer(0, state or (ended if is_all and name in self.created else ''))

    def _file(self, path: pathlib.Path) -> programs.Answer:
        """The status that the script of a job writes at its end."""
        if self._goes_wrong() or not path.exists():
            return programs.Answer(1, err=f'cat: {path}: No such file or directory')
        return programs.Answer(0, path.read_text())

    # ---- the world --------------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        for due in [each for each in self._late if each[0] <= self.now_s]:
            self._late.remove(due)
            self._make(due[1])
        for name, state in list(self._machines.items()):
            follow = {
                'WAITING_FOR_RESOURCES': self._provide, 'ACTIVE': self._compute, 'SUSPENDING': self._suspend,
                'DELETING': self._vanish,
            }.get(state)  # fmt: skip
            if follow is not None:
                follow(name)
        self.most = max(self.most, len(self._machines))

    def _provide(self, name: str) -> None:
        if self._chance.random() < 0.3:
            fails = self._goes_wrong() and not self._starts_again
            self._machines[name] = 'FAILED' if fails else 'ACTIVE'

    def _compute(self, name: str) -> None:
        """Hosts boot one after another, and compute when all have; then one may fail, or the slice is preempted."""
        if self._goes_wrong():
            self._machines[name] = 'SUSPENDING'
            return
        if self._started.get(name, 0) < self._hosts:
            if not self._goes_wrong():  # Otherwise this host boots later.
                self._started[name] = self._started.get(name, 0) + 1
            return
        statuses = self._ended.setdefault(name.rpartition('-')[2], [])
        if not statuses and self.crashes:
            self.crashes -= 1
            statuses += [1] * self._hosts
        elif not statuses and self._goes_wrong():
            statuses += [1] * self._chance.randrange(1, self._hosts + 1)
        elif not statuses:
            self.work -= 1
            is_spent = self.spends and self.work == 1
            statuses += [3 * is_spent] * self._hosts if is_spent or self.work <= 0 else []
        elif len(statuses) >= self._hosts and not self._starts_again:
            self._machines[name] = 'DELETING'  # By the host that ended last.
        if statuses and self._folder is not None:
            attempt = name.rpartition('-')[2]
            (self._folder / f'status-{attempt}').write_text(f'{max(statuses)}\n')

    def _suspend(self, name: str) -> None:
        self._machines[name] = 'WAITING_FOR_RESOURCES' if self._starts_again else 'SUSPENDED'
        self._started.pop(name, None)

    def _vanish(self, name: str) -> None:
        if self._chance.random() < 0.5:
            del self._machines[name]
            self._started.pop(name, None)
