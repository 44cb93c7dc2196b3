"""Whether the hosts compile the same program, and the line of a person's own code where they first do not."""

import collections
import hashlib
import pathlib
import re
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import processes
from bigmodel_jax.launch.doctor.rehearsal import instruments, records
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step
from bigmodel_jax.user_code import own_modules

INITIALIZATION, STEP = 'initialization', 'step'
REFERENCE = re.compile(r'loc\((#loc\d*)\)')
DEFINITION = re.compile(r'^(#loc\d*) = loc\((.*)\)$')
NAME = re.compile(r'[%@][\w#]+')  # Of a value or a function: numbered through the whole program.
INNER = re.compile(r'#loc\d*|"([^"]+)":(\d+)(?::\d+)?')


CONSTANT = 'stablehlo.constant'


class Differs(config.InputError):
    """The hosts would run different programs; on all processes."""


class ComparedPrograms(step.RunPrograms):
    """Programs that are compared between the hosts before any of them runs, and compiled once for all sessions."""

    def __init__(self, folder: pathlib.Path, recorder: records.Recorder):
        self._folder, self._recorder = folder, recorder
        self._spec: state.StateSpec | None = None
        self._step: step.TrainStep | None = None

    def specified(self, experiment: Experiment, spec: state.StateSpec) -> state.StateSpec:
        if self._spec is not None:
            return self._spec
        self._spec = spec
        with sharding.use(experiment.mesh.build()) as place:
            again = state.specify(experiment, place)
            lowered: list[Any] = [each.init_from for each in (spec, again)]
            self._compare(INITIALIZATION, [each.lower(spec.key_data) for each in lowered])
        return spec

    def compile_step(
        self, experiment: Experiment, spec: state.StateSpec, place: sharding.ShardingContext
    ) -> step.TrainStep:
        if self._step is not None:
            return self._step
        made, again = (step.compile_step(experiment, spec, place) for _ in range(2))
        if not isinstance(made, step.SeededStep) or not isinstance(again, step.SeededStep):
            self._step = made  # FixedOrder compiles several programs.
            return made
        compared = False

        def compared_step(current: state.TrainState, batch: step.Batch) -> tuple[state.TrainState, step.Trace]:
            nonlocal compared
            if not compared:
                self._compare(STEP, [each.lower(current, batch) for each in (made, again)])
                compared = True
            return made(current, batch)

        self._step = compared_step
        return compared_step

    def _compare(self, name: str, lowered: list[Any]) -> None:
        """Compares a program, which this host traced twice, with that of the others."""
        hashes = [hashlib.sha256(each.as_text().encode()).hexdigest() for each in lowered]
        self._recorder.add(records.PROGRAM, name=name, hashes=hashes)
        everywhere = processes.exchange(hashes)
        if len({each for host in everywhere for each in host}) == 1:
            return
        for turn, each in enumerate(lowered):
            file = records.program_text(self._folder, name, processes.index(), turn)
            file.write_text(each.as_text(debug_info=True))
        processes.exchange('written')
        raise Differs(f'The {name} is not the same program on all hosts.')


def first_difference(one: str, other: str) -> tuple[records.CodeLine | None, records.CodeLine | None]:
    """The first line of own code, of each of two programs, with an operation that the other program has not.

    Args:
      one, other: the texts, with their locations.
    """
    first, second = Operations(one), Operations(other)
    return first.beyond(second), second.beyond(first)


class Operations:
    """The operations of a program, without the names of values, and the lines of own code that they come from."""

    def __init__(self, text: str):
        lines = text.splitlines()
        self._table = {match[1]: match[2] for match in map(DEFINITION.match, lines) if match}
        self._places: dict[str, records.CodeLine | None] = {}
        self._written = [line for line in lines if not line.startswith('#loc')]
        self.keys = [(NAME.sub('', REFERENCE.sub('', line)), self._place(line)) for line in self._written]

    def beyond(self, other: 'Operations') -> records.CodeLine | None:
        """The line of own code of the first operation that the other program does not have as often."""
        left = collections.Counter(other.keys)
        for number, key in enumerate(self.keys):
            # A constant has the line of whoever called all of it.
            own = None if CONSTANT in key[0] else key[1]
            place = (own or self._place_of_use(number)) if left[key] == 0 else None
            if place is not None:
                return place
            left[key] -= 1
        return None

    def _place_of_use(self, number: int) -> records.CodeLine | None:
        """The line of own code that first uses what an operation gives, such as a constant, which has none itself."""
        made = NAME.match(self._written[number].strip())
        if made is None:
            return None
        uses = re.compile(rf'{re.escape(made[0])}\b')
        later = zip(self._written[number + 1 :], self.keys[number + 1 :])
        return next((place for line, (_, place) in later if place is not None and uses.search(line)), None)

    def _place(self, line: str) -> records.CodeLine | None:
        found = REFERENCE.findall(line)
        if not found:
            return None
        if found[-1] not in self._places:
            self._places[found[-1]] = self._innermost(found[-1])
        return self._places[found[-1]]

    def _innermost(self, name: str) -> records.CodeLine | None:
        waiting, seen = [name], set()
        while waiting:
            name = waiting.pop(0)
            if name in seen:
                continue
            seen.add(name)
            inner = []
            for match in INNER.finditer(self._table.get(name, '')):
                if match[1] is None:
                    inner.append(match[0])
                elif own_modules.is_own(match[1]):
                    return instruments.place(match[1], int(match[2]), '')
            waiting = inner + waiting  # The call before its caller.
        return None
