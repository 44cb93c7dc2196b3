"""Launches in a cloud where anything may go wrong, with gcloud, kubectl, xpk, sky and Slurm's as programs on the PATH.

The programs are fakes that ask one cloud in memory (tests/launch/fake_cloud.py). Quotas, missing capacity, preemptions
at any moment, slices that boot only in part, failing hosts, errors of the API, slow answers, requests that are carried
out minutes later, and kills of the launching process follow from the number of the sequence. After each sequence the
launch must have ended, nothing may be left, no two attempts may have had machines at the same time, and none may have
been created twice. The exit status is 1 if one of these does not hold.

Example: python scripts/benchmark/launch_faults.py --first 0 --count 500
"""

import argparse
import collections
import os
import pathlib
import socketserver
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'tests'))

from launch import fake_cloud, random_events

from bigmodel_jax.launch import programs

PROGRAMS = ('gcloud', 'kubectl', 'xpk', 'sky', 'sbatch', 'squeue', 'scancel')
TIMEOUT_S = 0.5  # In place of minutes: after it a program that gives no answer is killed.
KILLED = 77  # A fake ends with it where the launching process is to be killed.
FAKE = """\
#!/usr/bin/env bash
exec 3<>/dev/tcp/127.0.0.1/$FAKE_CLOUD_PORT || exit 1
printf '%s\\n' "$(($# + 1))" >&3
printf '%s\\0' "${0##*/}" "$@" >&3
read -r status <&3
[ "$status" = none ] && exec sleep 60
read -r lines <&3
for ((n = 0; n < lines; n++)); do IFS= read -r line <&3; printf '%s\\n' "$line"; done
cat <&3 >&2
exit "$status"
"""


class Handler(socketserver.StreamRequestHandler):
    """Answers one program."""

    def handle(self) -> None:
        count = int(self.rfile.readline())
        command = [self._word() for _ in range(count)]
        try:
            answer = self.server.cloud(command)
        except fake_cloud.Killed:
            answer = programs.Answer(KILLED)
        lines = answer.out.splitlines()
        status = 'none' if answer.status is None else answer.status
        text = '\n'.join([str(status), str(len(lines)), *lines, answer.err])
        self.wfile.write(text.encode())

    def _word(self) -> str:
        found = b''
        while (byte := self.rfile.read(1)) not in (b'\0', b''):
            found += byte
        return found.decode()


class Server(socketserver.TCPServer):
    """Holds the cloud of the sequence that runs."""

    allow_reuse_address = True
    cloud: fake_cloud.FakeCloud


def run(command: list[str]) -> programs.Answer:
    """As programs.run(); raises Killed where a fake asks for it."""
    answer = programs.run(command)
    if answer.status == KILLED:
        raise fake_cloud.Killed
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--first', type=int, default=0, help='the number of the first sequence')
    parser.add_argument('--count', type=int, default=500, help='how many')
    options = parser.parse_args()
    programs.TIMEOUT_S = TIMEOUT_S
    ends, bad, began_s = collections.Counter(), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, Server(('127.0.0.1', 0), Handler) as server:
        _install(pathlib.Path(scratch, 'bin'), server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for seed in range(options.first, options.first + options.count):
            folder = pathlib.Path(scratch, str(seed))
            folder.mkdir()
            sequence = random_events.Sequence(seed, folder)
            server.cloud = sequence.cloud
            sequence.run(run)
            problems = sequence.problems()
            bad += bool(problems)
            ends[type(sequence.on).__name__, sequence.record.state.value] += 1
            for problem in problems:
                print(f'sequence {seed}: {problem}', flush=True)
        server.shutdown()
    for (name, state), count in sorted(ends.items()):
        print(f'{name:10} {state:8} {count:5}')
    print(f'{options.count} sequences, {bad} with a problem, {time.monotonic() - began_s:.0f} s')
    return int(bad > 0)


def _install(folder: pathlib.Path, port: int) -> None:
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    os.environ['PATH'] = f'{folder}:{os.environ["PATH"]}'
    os.environ['FAKE_CLOUD_PORT'] = str(port)


if __name__ == '__main__':
    sys.exit(main())
