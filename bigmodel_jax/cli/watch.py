"""watch: a live page in the browser on one run or many. It starts at once, as it needs no JAX."""

import argparse
import sys

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

LARGEST_PORT = 65_535
EPILOG = """\
The page shows the curves of all runs over each other, where they differ, and what each of them does. It only reads.
  watch runs
  watch runs/a --port 0
On another machine it is reached through a tunnel, so that nobody else can read it:
  ssh -L 8008:127.0.0.1:8008 HOST"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        'roots',
        nargs='*',
        default=['runs'],
        metavar='ROOT',
        help='runs, or directories below which runs are (default: runs)',
    )
    arguments.add_address(parser, port=8_008)
    add('--write', metavar='FILE', help='write the page on many runs to a file instead, as it is now, without a server')
    add('--query', default='', metavar='TEXT', help="of --write: what is shown, as in the page's address after '?'")


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted; returns 0, or 2 if an argument is wrong."""
    from bigmodel_jax import config
    from bigmodel_jax.console import terminal

    try:
        if options.write:
            print(_write(options))
        else:
            _serve(options)
    except config.InputError as error:
        terminal.explain(error, debug=options.debug)
        return 2
    return 0


def _write(options: argparse.Namespace) -> str:
    from etils import epath

    from bigmodel_jax import config
    from bigmodel_jax.report.live import choice, live_page, live_runs
    from bigmodel_jax.storage import durable_files

    chosen = choice.parse(options.query)
    runs = live_runs.LiveRuns(options.roots)
    runs.read_all()
    path = epath.Path(options.write)
    durable_files.check_no_link(path)
    try:
        durable_files.write(path, live_page.written(runs, chosen).encode())
    except OSError as error:
        raise config.InputError(f'--write {path} cannot be written: {error.strerror or error}.') from error
    return str(path)


def _serve(options: argparse.Namespace) -> None:
    from bigmodel_jax import config, web_server
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report.live import server

    if options.query:
        raise config.InputError('--query is of --write. In the browser, the page has its choices.')
    if options.port > LARGEST_PORT:
        raise config.InputError(f'--port {options.port} is not a port: at most {LARGEST_PORT:,}.')
    address = web_server.Address(host=options.host, port=options.port, names=options.allow_host)
    with server.LivePage(*options.roots, address=address) as page:
        count = f'{page.count:,} run{"" if page.count == 1 else "s"}' if page.count else 'no runs yet'
        print(f'{page.url}  ({count}; Ctrl-C ends)', flush=True)
        if not address.is_loopback:
            print(
                f'note: {terminal.printable(options.host)} is not this machine alone: everybody who reaches it can '
                'read these runs.',
                file=sys.stderr,
            )
        try:
            page.wait()
        except KeyboardInterrupt:
            print('', file=sys.stderr)


VERB = Verb(
    'serve a live page on runs: curves, differences, samples, warnings', _add_arguments, run, epilog=EPILOG,
    file_as=None, uses_jax=False,
)  # fmt: skip
