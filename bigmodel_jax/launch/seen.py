"""What was seen of the machines of an attempt."""

import enum
from typing import NamedTuple


class Phase(enum.Enum):
    """Of what was created for an attempt."""

    UNKNOWN = 'no answer'
    ABSENT = 'there is nothing'
    WAITING = 'in a queue'
    READY = 'the machines are there'
    RUNNING = 'the hosts compute'
    GONE = 'preempted'
    FAILED = 'could not be created'
    ENDED = 'the command ended'
    GIVEN_UP = 'the scheduler gave up'  # After attempts of its own.


class Seen(NamedTuple):
    """An observation.

    Attributes:
      reason: a sentence without a full stop, where there is one.
      statuses: the exit statuses of the hosts that have ended.
      hosts: how many there are.
    """

    phase: Phase
    reason: str = ''
    statuses: tuple[int, ...] = ()
    hosts: int = 1


class Created(enum.Enum):
    """What came of the request to create machines."""

    ACCEPTED = 'accepted'
    UNKNOWN = 'no answer'  # It may have been accepted.
    REFUSED = 'refused'  # It would be again: quota, permission, wrong values.
