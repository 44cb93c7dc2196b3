"""One `train` at a time owns a work directory: lock.json names its host and process.

The owner renews the time of change of the file as a sign of life. Whoever finds the file of a process of this machine
knows whether it lives, and that none does which was there before the machine was last started. Of another machine it
waits for a sign of life, up to LEASE_S, and then takes the lock over; only changes are compared, so that clocks may
differ. An owner that was suspended meanwhile finds so before it writes.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import pathlib
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import appending, durable_files

FILE = 'lock.json'
RENEW_S = 10.0
LEASE_S = 60.0
POLL_S = 0.5
WITHOUT_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # Errors of os.link.

Say = Callable[[str], None]


class DirectoryInUse(Exception):
    """Another process has taken the work directory over; this one must not write to it any more."""


@contextlib.contextmanager
def owned(directory: epath.Path, say: Say) -> Iterator[Callable[[], None]]:
    """Within this context the first process owns a work directory, for all; makes the directory if there is none.

    Args:
      say: told when it has to wait for the lock, or takes it over.

    Yields:
      A guard, to be called before anything is written: it raises DirectoryInUse if another process took the lock over.

    Raises:
      InputError: another process owns it, or it cannot be written; on all processes.
    """
    from bigmodel_jax.hosts import processes  # Imports JAX, which in_use() does without.

    lock = processes.on_first(lambda: _acquire(directory, say))
    if lock is None:
        yield appending.nothing
        return
    try:
        yield lock.check
    finally:
        lock.release()


def check_free(directory: epath.Path) -> None:
    """Raises InputError if a living process of this machine owns the directory. Writes nothing."""
    there, _ = _read(directory / FILE)
    if there is not None and _lives(there):
        raise _refusal(directory, there)


def in_use(directory: epath.Path) -> str | None:
    """Who trains in the directory, as 'process 12 on host7'; None if nobody is known to.

    A process of another machine counts as long as its last sign of life is not older than LEASE_S by both clocks.
    Nothing is written, and what cannot be read is no lock.
    """
    path = directory / FILE
    try:
        if not durable_files.is_remote(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        there, _ = _read(path)
        if there is None:
            return None
        lives = _lives(there)
        lives = time.time() - float(there['renewed']) < LEASE_S if lives is None else lives
    except (OSError, ValueError, TypeError):
        return None
    return _name(there) if lives else None


class Lock:
    """The lock of a work directory, held by this process."""

    def __init__(self, path: epath.Path, mine: dict[str, Any]):
        self._path, self._mine = path, mine
        self._mutex, self._released = threading.Lock(), threading.Event()
        self._renewed, self._taken = _clock(), ''
        threading.Thread(target=self._keep, name='lock', daemon=True).start()

    def check(self) -> None:
        """Raises DirectoryInUse if another process has taken the lock over. Looks only if that may have happened."""
        if not self._taken and _clock() - self._renewed > 1.5 * RENEW_S:
            self._renew()
        if self._taken:
            raise DirectoryInUse(self._taken)

    def release(self) -> None:
        """Gives the directory back."""
        self._released.set()
        with self._mutex, contextlib.suppress(OSError):  # Whoever comes next sees that this process is gone.
            if (_read(self._path)[0] or {}).get('id') == self._mine['id']:
                self._path.unlink()

    def _keep(self) -> None:
        while not self._released.wait(RENEW_S):
            self._renew()

    def _renew(self) -> None:
        with self._mutex:
            if self._released.is_set() or self._taken:
                return
            try:
                there, _ = _read(self._path)
                # Somebody may have removed the file, but not to put another in its place.
                if there is None and _create(self._path, self._mine):
                    there = self._mine
                if there is None or there['id'] != self._mine['id']:
                    self._taken = _taken(self._path.parent, there or {})
                    return
                _touch(self._path, self._mine)
            except OSError:
                return  # The storage is away; then nothing can be written either.
            self._renewed = _clock()


def _acquire(directory: epath.Path, say: Say) -> Lock:
    path, mine = directory / FILE, _owner()
    durable_files.check_no_link(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return durable_files.retried(lambda: _wait_for(path, mine, say))
    except OSError as error:
        raise config.InputError(
            f'--workdir {directory} cannot be written: {error}. Make it writable, with free space, or use another one.'
        ) from error


def _wait_for(path: epath.Path, mine: dict[str, Any], say: Say) -> Lock:
    seen, since = None, time.monotonic()
    while True:
        # Of several machines, _remove() notices if it was late.
        with durable_files.one_at_a_time(path.parent):
            if _create(path, mine):
                return Lock(path, mine)
            there, stamp = _read(path)
            stale = seen == stamp and time.monotonic() - since > LEASE_S
            if there is None or _took_over(path, there, stale, say):
                continue
        if _is_here(there) or (seen is not None and seen != stamp):
            raise _refusal(path.parent, there)
        if seen is None:
            say(f'{path.parent} is locked by {_name(there)}; waiting up to {LEASE_S:.0f} s for a sign of life from it')
            seen, since = stamp, time.monotonic()
        time.sleep(POLL_S)


def _took_over(path: epath.Path, there: dict[str, Any], stale: bool, say: Say) -> bool:
    """Removes the lock of an owner that is gone; whether somebody may now make one."""
    if not stale and _lives(there) is not False:
        return False
    if _remove(path, there):
        why = f'gave no sign of life for {LEASE_S:.0f} s' if stale else 'is gone'
        say(f'the lock of {_name(there)}, which {why}, was taken over')
    return True


def _refusal(directory: epath.Path, there: dict[str, Any]) -> config.InputError:
    age = time.time() - there.get('renewed', time.time())
    suspended = ' It may be suspended or stuck.' if age > LEASE_S and _is_here(there) else ''
    return config.InputError(
        f'{directory} is in use: {_name(there)} has been training there since {there.get("since", "an unknown time")}; '
        f'its last sign of life is {max(age, 0):.0f} s old.{suspended} Two trainings would overwrite each other, so '
        f'nothing was changed. Wait for that process, stop it (kill {there.get("pid", "PID")}), or use another '
        '--workdir.'
    )


def _taken(directory: epath.Path, there: dict[str, Any]) -> str:
    return (
        f'{directory} was taken over by {_name(there)}, as this process gave no sign of life for {LEASE_S:.0f} s: it '
        'was suspended, or cut off from the storage. It stops without writing anything more; the run goes on there.'
    )


def _name(there: dict[str, Any]) -> str:
    return f'process {there.get("pid", "?")} on {there.get("host", "an unknown host")}'


# ---- processes ------------------------------------------------------------------------------------------------------


def _owner() -> dict[str, Any]:
    return {
        'id': secrets.token_hex(8),
        'host': socket.gethostname(),
        'machine': _machine(),
        'installation': _installation(),
        'pid': os.getpid(),
        'process_started': _started(os.getpid()),
        'since': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def _machine() -> str | None:
    """What tells this machine, since it was booted, and this container from others, of which numbers of processes say
    nothing; None where that is unknown."""
    try:
        booted = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{socket.gethostname()} {booted} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a living process started, as its kernel counts; None if there is none."""
    try:
        # After the name, which is in parentheses and may hold anything.
        fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] in 'ZX' else fields[19]


def _is_here(there: dict[str, Any]) -> bool:
    machine = _machine()
    return machine is not None and there.get('machine') == machine


def _installation() -> str | None:
    """What tells this machine from others across its starts; None where that is unknown, as in most containers."""
    try:
        machine = pathlib.Path('/etc/machine-id').read_text().strip()  # Its manual page asks not to publish it.
    except OSError:
        return None
    return (
        hashlib.sha256(f'bigmodel_jax {machine} {socket.gethostname()}'.encode()).hexdigest()[:32] if machine else None
    )


def _booted() -> float:
    """When this machine was started, by its clock."""
    return time.time() - _clock()


def _lives(there: dict[str, Any]) -> bool | None:
    """Whether the owner of a lock lives; None if it is of another machine, which cannot be asked."""
    if _is_here(there):
        started = _started(int(there.get('pid', 0)))
        return started is not None and started == there.get('process_started')
    # Machines may be copies of one another; a process that lives on a copy renews its lock again and again.
    ended = _installation() is not None and there.get('installation') == _installation()
    return False if ended and float(there['renewed']) < _booted() - RENEW_S else None


def _clock() -> float:
    """Seconds, counted also while the machine is suspended."""
    return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


# ---- the file -------------------------------------------------------------------------------------------------------


def _read(path: epath.Path) -> tuple[dict[str, Any] | None, Any]:
    """The owner, with when it last gave a sign of life, and a stamp that changes whenever it does; None if there is no
    lock."""
    try:
        if durable_files.is_remote(path):
            content = path.read_bytes()
            stamp: Any = content
            renewed = float(path.stat().mtime) or time.time()  # Some stores do not say.
        else:
            # Opened each time: a network file system then asks its server.
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), 'rb') as file:
                content, status = file.read(), os.fstat(file.fileno())
            stamp, renewed = (content, status.st_mtime_ns), status.st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    try:
        there = json.loads(content)
        return there | {'id': str(there['id']), 'renewed': renewed}, stamp
    except (ValueError, TypeError, KeyError):  # Cut off by a loss of power, or somebody else's.
        return {'id': content.hex(), 'renewed': renewed}, stamp


def _create(path: epath.Path, mine: dict[str, Any]) -> bool:
    """Makes the lock if there is none; returns whether it did."""
    text = json.dumps(mine) + '\n'
    if durable_files.is_remote(path):
        return _create_object(path, text, mine)
    partial = pathlib.Path(f'{os.fspath(path)}.{secrets.token_hex(4)}.partial')
    try:
        with open(partial, 'x') as file:
            file.write(text)
            # Else a loss of power may leave an empty lock, which names nobody and has to be waited for.
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        return _create_exclusively(path, text)
    finally:
        partial.unlink(missing_ok=True)
    # NFS may have made the link and lost the answer.
    return (_read(path)[0] or {}).get('id') == mine['id']


def _create_exclusively(path: epath.Path, text: str) -> bool:
    try:
        with open(path, 'x') as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _create_object(path: epath.Path, text: str, mine: dict[str, Any]) -> bool:
    if path.exists():
        return False
    path.write_text(text)
    time.sleep(1.0)  # Of several that write at once the last one holds.
    return (_read(path)[0] or {}).get('id') == mine['id']


def _remove(path: epath.Path, there: dict[str, Any]) -> bool:
    """Removes the lock of an owner that is gone; returns False if another machine was faster."""
    if durable_files.is_remote(path):
        path.unlink(missing_ok=True)
        return True
    aside = pathlib.Path(f'{os.fspath(path)}.{secrets.token_hex(4)}.partial')
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    found, _ = _read(epath.Path(aside))
    ours = found is not None and found['id'] == there['id']
    if not ours:
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return ours


def _touch(path: epath.Path, mine: dict[str, Any]) -> None:
    if durable_files.is_remote(path):
        path.write_text(json.dumps(mine | {'renewals': secrets.token_hex(4)}) + '\n')
        return
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), 'rb') as file:
        if json.loads(file.read())['id'] == mine['id']:
            os.utime(file.fileno())
