"""The shell script with which a host starts: it checks the hash of the code, unpacks it, and runs the command."""

from bigmodel_jax.launch.job import Job

INSTALLED = 'python'  # The interpreter of an environment that has what the package needs.
REFUSED = 'launch: this host has other code than was checked'


def check_code(job: Job, archive: str) -> list[str]:
    """Lines that end the script with status 2 unless the archive is the one that was checked.

    Args:
      archive: its path for the shell, quoted.
    """
    refuse = f"echo '{REFUSED}: the SHA-256 of '{archive}' is not {job.digest}' >&2; exit 2"
    return [f'echo "{job.digest}  "{archive} | sha256sum --check --status || {{ {refuse}; }}']


def unpack(archive: str) -> list[str]:
    """Lines that unpack the archive into a new directory, which becomes the working directory."""
    return [
        'code=$(mktemp --directory)',
        f'tar --extract --no-same-owner --file={archive} --directory="$code"',
        'cd "$code"',
    ]


def script(job: Job, archive: str) -> str:
    """A script for a host whose Python has what the package needs; it stands beside the archive or is told its path."""
    lines = [
        '#!/usr/bin/env bash',
        f'# Runs: {job.command}',
        'set -euo pipefail',
        *check_code(job, archive),
        *unpack(archive),
        f'export PYTHONPATH="$code/{job.framework}${{PYTHONPATH:+:$PYTHONPATH}}"',
        f'exec {job.command}',
    ]
    return '\n'.join(lines) + '\n'
