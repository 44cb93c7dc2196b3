"""One process per host: how the processes of a run find each other.

On Cloud TPU, Slurm and GKE they are found; elsewhere each is told where the first one is, how many there are, and which
it is. A process that is alone and is told nothing stays alone.
"""

import glob
import importlib.util
import os
import socket
from collections.abc import Mapping
from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.hosts import leaving

# A process that has not been heard of for so long is dead, and all others end.
HEARTBEAT_TIMEOUT_S = 60
# How long the processes wait for the last one to start: hosts of a large slice boot minutes apart.
START_TIMEOUT_S = 600
# How long a process that is done waits for the others to be done.
LEAVE_TIMEOUT_S = 300


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of those that compute together; must come before anything that starts the devices.

    Args:
      coordinator: HOST:PORT at which process 0 can be reached, with a port that is free there.
      processes: how many there are.
      process: which this is, from 0 on. All three or none; with none they are found, if there are others.

    Raises:
      InputError: some but not all are given, one makes no sense, or the others were not found in time.
    """
    given = {'--coordinator': coordinator, '--processes': processes, '--process': process}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise config.InputError(
            f'{", ".join(flag for flag in given if flag not in missing)} needs {" and ".join(missing)} too; leave all '
            'three out on one machine, and on Cloud TPU, Slurm and GKE.'
        )
    if coordinator is not None and processes is not None and process is not None:
        _start(told(coordinator, processes, process))
    elif found := cluster(os.environ):
        _start(found)


def told(coordinator: str, processes: int, process: int) -> dict[str, object]:
    """The arguments of jax.distributed.initialize for processes that are told about each other.

    Raises:
      InputError: one makes no sense.
    """
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise config.InputError(f'--coordinator {coordinator}: use HOST:PORT, such as 10.0.0.1:8476.')
    if processes < 1:
        raise config.InputError(f'--processes {processes}: use how many there are, at least 1.')
    if not 0 <= process < processes:
        raise config.InputError(f'--process {process}: of {processes} use 0 to {processes - 1}, another on each host.')
    return {
        'coordinator_address': coordinator,
        'num_processes': processes,
        'process_id': process,
        'cluster_detection_method': 'deactivate',
        # By default it listens on every network of the machine.
        'coordinator_bind_address': _bindable(host, int(port)) if process == 0 else None,
    }


def _bindable(host: str, port: int) -> str:
    """The address on which process 0 listens: the one that the others are told, and no other network of the machine.

    Raises:
      InputError: it is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip('[]'), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0))
    except OSError as error:
        raise config.InputError(
            f'--coordinator {host}:{port}: process 0 cannot listen there ({error}). Use an address or a name of the '
            'machine on which process 0 runs, and start process 0 there.'
        ) from error
    return f'[{address[0]}]:{port}' if family == socket.AF_INET6 else f'{address[0]}:{port}'


def cluster(environment: Mapping[str, str]) -> dict[str, object] | None:
    """The arguments of jax.distributed.initialize where JAX knows how to find the processes; None on one machine.

    Args:
      environment: that of the process.
    """
    if int(environment.get('SLURM_STEP_NUM_TASKS', '1')) > 1:
        # JAX gives each task one GPU; a host's only task takes them all.
        one_a_host = environment['SLURM_STEP_NUM_TASKS'] == environment.get('SLURM_STEP_NUM_NODES')
        return {'cluster_detection_method': 'slurm'} | ({'local_device_ids': []} if one_a_host else {})
    if _has_tpu(environment) and _is_cloud_tpu(environment):
        return {}
    # An indexed job of Kubernetes. Without this package JAX cannot ask who the others are.
    if 'JOB_COMPLETION_INDEX' in environment and importlib.util.find_spec('kubernetes') is not None:
        return {}
    return None


def _has_tpu(environment: Mapping[str, str]) -> bool:
    """Whether JAX will compute on chips of this machine; libtpu alone only compiles."""
    allowed = environment.get('JAX_PLATFORMS', '')
    is_allowed = not allowed or 'tpu' in allowed.split(',')
    chips = glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')
    return is_allowed and bool(chips) and importlib.util.find_spec('libtpu') is not None


def _is_cloud_tpu(environment: Mapping[str, str]) -> bool:
    """Whether someone knows of the other hosts: GKE's environment, or else Compute Engine's metadata server."""
    on_gke = any(name in environment for name in ('TPU_PROCESS_ADDRESSES', 'TPU_WORKER_HOSTNAMES'))
    return on_gke or 'TPU_SKIP_MDS_QUERY' not in environment


def _start(arguments: dict[str, object]) -> None:
    # Its handler of SIGTERM would take the place of ours, and a run outside the training loop could not be ended.
    jax.config.update('jax_enable_preemption_service', False)
    initialize: Any = jax.distributed.initialize
    try:
        initialize(
            **arguments,
            initialization_timeout=START_TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=LEAVE_TIMEOUT_S,
        )
    except (ValueError, RuntimeError) as error:
        where = arguments.get('coordinator_address', 'the hosts of this cluster')
        raise config.InputError(
            f'The processes did not find each other ({where}): {error}\n'
            'Start as many as there are, each with its own number, and let all reach the port of the first; '
            'or say where they are with --coordinator, --processes and --process.'
        ) from error
    leaving.listen()
