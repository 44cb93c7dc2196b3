"""Running a verb in this process: devices and hosts are set up, and every failure becomes one message and a status.

Exit status: 0 done, or stopped by --stop-after; 1 the training failed; 2 wrong input; 128 + N stopped by signal N.
"""

import argparse
import inspect
import logging
import pathlib
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.checkpoints.checkpoints import NotSaved
from bigmodel_jax.cli.verb import Verb
from bigmodel_jax.console import terminal
from bigmodel_jax.hosts import joining, leaving, platforms, processes
from bigmodel_jax.run_directory import locking
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import device_memory
from bigmodel_jax.train.metrics import Anomalous

NO_ROOM = ('RESOURCE_EXHAUSTED', 'Out of memory')  # What XLA says of the memory of a device; the second on the CPU.
MEMORY_ADVICE = (
    '`plan` says what a step needs. A smaller data.batch, gradients=Microbatches(parts=N), remat or a mesh that cuts '
    'the weights needs less.'
)


def run(verb: Verb, options: argparse.Namespace) -> int:
    """Runs a verb; wrong input becomes one message and exit status 2."""
    # Orbax and TFDS report the normal course of things as warnings; and a failed save as an error with its traceback,
    # which they raise as well, and the run tells in a sentence.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    try:
        platforms.without_missing_tpu()
        if getattr(options, 'simulate_devices', None):
            jax.config.update('jax_platforms', 'cpu')
            jax.config.update('jax_num_cpu_devices', options.simulate_devices)
        if verb.several_hosts:
            device_memory.keep_freed()
            joining.join(options.coordinator, options.processes, options.process)
        status = verb.run(options)
    except config.InputError as error:
        agreed = isinstance(error, processes.CollectiveError)  # Known to all hosts.
        if not agreed:
            leaving.tell(str(error), 2)
        if processes.is_first() or not agreed:
            terminal.explain(error, debug=options.debug, host='' if agreed else _host())
        return 2 if agreed else leaving.leave(2)
    except (Anomalous, NotSaved) as error:  # Known to all hosts.
        if processes.is_first():
            print(f'stopped: {terminal.printable(error)}', file=sys.stderr)
        return 1
    except locking.DirectoryInUse as error:
        leaving.tell(str(error), 1)
        print(f'stopped: {_host()}{error}', file=sys.stderr)
        return leaving.leave(1)
    except KeyboardInterrupt:
        leaving.tell('it was stopped by SIGINT.', 128 + signal.SIGINT)
        return leaving.leave(128 + signal.SIGINT)
    except BaseException as error:
        problem = _known(error)
        if problem is not None:
            leaving.tell(problem, 1)
            print(f'error: {_host()}{problem}', file=sys.stderr)
            return leaving.leave(1)
        if processes.count() > 1:
            _fail(error, debug=options.debug)
        raise
    return status or 0


def _known(error: BaseException) -> str | None:
    """What went wrong and what to do, of a failure that is no fault in the code; None of any other."""
    if isinstance(error, OSError | ValueError) and durable_files.is_of_the_storage(error):  # TensorStore: ValueError.
        return f'{durable_files.brief(error)}. {durable_files.ADVICE}'
    no_room = isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in NO_ROOM)
    if no_room or isinstance(error, MemoryError):
        return f'out of memory: {durable_files.brief(error).rstrip(".")}. {MEMORY_ADVICE}'
    return None


def _fail(error: BaseException, *, debug: bool) -> None:
    """Ends this process of several, with what is known of a failure that nobody foresaw."""
    # One that lost another host, which failed first, has nothing of its own to show.
    is_told = isinstance(error, jax.errors.JaxRuntimeError) and not debug
    what = durable_files.brief(error).rstrip('.')
    if is_told:
        leaving.await_reason()
    leaving.tell(f'{what}.' if is_told else f'{type(error).__name__}: {what}.', 1)
    if not is_told:
        traceback.print_exc()
        what = 'failed, as shown above'
    advice = 'Where a connection was lost, another host failed first. The same command resumes the run.'
    print(f'error: {_host()}{what}. {advice}', file=sys.stderr)
    leaving.leave(1)


def _unraisable(what: Any) -> None:
    """Leaves out what is said of reads and writes that were under way when another one of their checkpoint failed."""
    late_write = isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == 'Event loop is closed'
    # Orbax's coroutines turn the exception that ends them into one of their own.
    code = what.object.cr_code if inspect.iscoroutine(what.object) else None
    abandoned_read = code is not None and 'orbax' in pathlib.Path(code.co_filename).parts
    if not (late_write or abandoned_read):
        sys.__unraisablehook__(what)


def _host() -> str:
    return f'host {processes.index()}: ' if processes.count() > 1 else ''


def warn_of(damage: Sequence[str]) -> None:
    """Says on stderr which newer checkpoints were not used."""
    for text in damage if processes.is_first() else ():
        print(f'damaged: {terminal.printable(text)}', file=sys.stderr)


def use_cpu() -> None:
    """Leaves an accelerator of this machine alone, which a run may be using."""
    jax.config.update('jax_platforms', 'cpu')
