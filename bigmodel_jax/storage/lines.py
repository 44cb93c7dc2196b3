"""The form of a line of metrics.jsonl and trace.jsonl: a JSON object whose last member is a checksum of the rest."""

import json
import re
import zlib
from typing import Any

CHECKSUM = 'crc32'
_END = re.compile(rb'\}$|"crc32": "[0-9a-f]{8}".$')
# Any key and value of these lengths, so that a checksum with a flipped bit is not taken for a line without one: no
# record ends in another member of this form.
_SEALED = re.compile(rb'^(.*), "(.{5})": "(.{8})"\}$', re.DOTALL)


class DamagedLine(ValueError):
    """A line is not as it was written; says how."""


def seal(text: str) -> str:
    """A JSON object of at least one member, on one line of ASCII, with its CRC-32 as the last member."""
    return f'{text[:-1]}, "{CHECKSUM}": "{zlib.crc32(text.encode()):08x}"}}'


def unseal(line: bytes) -> tuple[dict[str, Any], bool]:
    """The object on a line, and whether a checksum vouches for it; older versions wrote none.

    Raises:
      DamagedLine: the line is not a JSON object, or not the one that was written.
    """
    sealed = _SEALED.match(line)
    if sealed and sealed[0] != seal(sealed[1].decode(errors='replace') + '}').encode():
        raise DamagedLine('its checksum is not that of its content')
    value = parse(line)
    if not isinstance(value, dict):
        raise DamagedLine('it is not a JSON object')
    if sealed:
        del value[CHECKSUM]
    return value, sealed is not None


def parse(text: bytes) -> Any:
    """JSON from a file that anybody may have changed.

    Raises:
      DamagedLine: it is not JSON, is nested too deeply, or holds text that is not Unicode.
    """
    try:
        value = json.loads(text)
    except ValueError as error:  # Not JSON, not UTF-8, or a number of thousands of digits.
        raise DamagedLine(f'it is not JSON: {error}') from None
    except RecursionError:
        raise DamagedLine('it is nested too deeply to be read') from None
    if rb'\u' in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DamagedLine('it holds half of a surrogate pair, which is not text') from None
    return value


def is_torn(line: bytes) -> bool:
    """Whether a line that cannot be read may be the first part of one whose writer was killed."""
    return line.startswith(b'{') and _END.search(line) is None
