"""What a check found, and what to do about it: plain data."""

import dataclasses
import enum
from collections.abc import Callable

from bigmodel_jax import config


class Level(enum.Enum):
    """How bad it is, the worst last."""

    OK = 'ok'
    NOT_CHECKED = 'not checked'
    WARNING = 'warning'
    FAULT = 'fault'


@dataclasses.dataclass(frozen=True)
class CheckResult(config.Value):
    """What one check found.

    Attributes:
      check: what was checked, in a word or two.
      message: what is so; for NOT_CHECKED the reason, after 'because'.
      advice: what to do; '' if there is nothing to do, or the message says it.
    """

    check: str
    level: Level
    message: str
    advice: str = ''


def ok(check: str, message: str) -> CheckResult:
    return CheckResult(check, Level.OK, message)


def not_checked(check: str, because: str, advice: str = '') -> CheckResult:
    return CheckResult(check, Level.NOT_CHECKED, because, advice)


def warning(check: str, message: str, advice: str = '') -> CheckResult:
    return CheckResult(check, Level.WARNING, message, advice)


def fault(check: str, message: str, advice: str = '') -> CheckResult:
    return CheckResult(check, Level.FAULT, message, advice)


def attempt(check: str, action: Callable[[], str]) -> CheckResult:
    """The result of an action that returns what is so, or raises an InputError, which says what to do."""
    try:
        return ok(check, action())
    except config.InputError as error:
        return fault(check, str(error))
