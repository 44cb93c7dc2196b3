"""A server of HTTP on this machine: where it listens, under which names it answers, and how it is set up. No JAX."""

import dataclasses
import errno
import ipaddress
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Any

from bigmodel_jax import config

LOOPBACK = '127.0.0.1'
LOCAL_NAMES = ('localhost',)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is reached.

    Attributes:
      host: an address of this machine; '0.0.0.0' for all of them.
      port: 0 for any that is free.
      names: under which others reach this machine, beside its addresses: a page of another site could otherwise make
        its own name lead here (DNS rebinding) and read what is served.
    """

    host: str = LOOPBACK
    port: int = 0
    names: Sequence[str] = ()

    @property
    def is_loopback(self) -> bool:
        return self.host in LOCAL_NAMES or _is_address(self.host, loopback=True)

    def allows(self, host_header: str) -> bool:
        """Whether a request may name this host: an address, or a known name."""
        try:
            host = urllib.parse.urlsplit(f'//{host_header}').hostname or ''
        except ValueError:
            return False
        known = {name.lower() for name in (*LOCAL_NAMES, self.host, *self.names)}
        return host in known or _is_address(host, loopback=self.is_loopback)


def _is_address(host: str, *, loopback: bool) -> bool:
    """Whether it is an IP address, which no other site can make its own; with `loopback`, one of this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or not loopback


def listen(address: Address) -> socket.socket:
    """A socket that listens there.

    Raises:
      InputError: another program does, or it is no address of this machine.
    """
    try:
        family = socket.AF_INET6 if ':' in address.host else socket.AF_INET
        made = socket.create_server((address.host, address.port), family=family)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        advice = 'Another program uses it; choose another --port, or 0 for any.' if taken else 'Choose another.'
        raise config.InputError(f'{address.host}, port {address.port} cannot be used: {error}. {advice}') from error
    return made


def uvicorn_server(app: Any, *, connections: int, patience_s: int) -> Any:
    """A uvicorn.Server of an ASGI application: nothing but HTTP, and no log.

    Args:
      connections: at a time.
      patience_s: seconds that requests under way have when it ends.
    """
    import uvicorn

    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan='off',
        ws='none',
        limit_concurrency=connections,
        timeout_graceful_shutdown=patience_s,
    )
    return uvicorn.Server(settings)


def url_of(listening: socket.socket) -> str:
    """Under which a listening socket is reached, without a path."""
    host, port = listening.getsockname()[:2]
    return f'http://{f"[{host}]" if ":" in host else host}:{port}'
