"""Detects what the bytes of a file are: UTF-8 text, text in another encoding, or compressed text."""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import NamedTuple

from bigmodel_jax import config

HEAD_BYTES = 4_096  # Of a file; enough to recognise its format.
SHARE_OF_NULS = 0.4  # In UTF-16, of every other byte of text in a language that is mostly ASCII.

TORN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)  # What reading a damaged compressed file raises.


class Format(NamedTuple):
    """A format that a file of text may come in."""

    name: str
    begins: bytes
    advice: str  # How to make UTF-8 text of it.
    unpack: Callable[[bytes], bytes] | None = None  # None: it is refused.


# A longer mark stands before a shorter one that it begins with.
FORMATS = (
    Format('UTF-32 text', codecs.BOM_UTF32_LE, 'iconv -f UTF-32 -t UTF-8 FILE > NEW'),
    Format('UTF-32 text', codecs.BOM_UTF32_BE, 'iconv -f UTF-32 -t UTF-8 FILE > NEW'),
    Format('UTF-16 text', codecs.BOM_UTF16_LE, 'iconv -f UTF-16 -t UTF-8 FILE > NEW'),
    Format('UTF-16 text', codecs.BOM_UTF16_BE, 'iconv -f UTF-16 -t UTF-8 FILE > NEW'),
    Format('gzip', b'\x1f\x8b', 'gunzip FILE', gzip.decompress),
    Format('bzip2', b'BZh91AY&SY', 'bunzip2 FILE', bz2.decompress),
    Format('xz', b'\xfd7zXZ\x00', 'unxz FILE', lzma.decompress),
    Format('zstd', b'\x28\xb5\x2f\xfd', 'unzstd FILE'),
    Format('a zip archive', b'PK\x03\x04', 'unzip FILE'),
    Format('a Parquet table', b'PAR1', 'read its text column with pyarrow and write it as JSON lines'),
    Format('a PDF', b'%PDF-', 'pdftotext FILE NEW'),
)
UTF_16_LE = Format('UTF-16 text without a byte-order mark', b'', 'iconv -f UTF-16LE -t UTF-8 FILE > NEW')
UTF_16_BE = Format('UTF-16 text without a byte-order mark', b'', 'iconv -f UTF-16BE -t UTF-8 FILE > NEW')


def recognise(head: bytes) -> Format | None:
    """The format of a file that begins with `head`; None if that may be UTF-8."""
    for each in FORMATS:
        if head.startswith(each.begins):
            return each
    even, odd = head[:HEAD_BYTES:2], head[1:HEAD_BYTES:2]
    if odd and odd.count(0) > SHARE_OF_NULS * len(odd) and not even.count(0):
        return UTF_16_LE
    if odd and even.count(0) > SHARE_OF_NULS * len(even) and not odd.count(0):
        return UTF_16_BE
    return None


def refusal(form: Format, where: str) -> config.InputError:
    return config.InputError(f'{where} is {form.name}, not UTF-8 text. Convert it first: {form.advice}.')


def unpack(content: bytes, where: str) -> bytes:
    """The content of a file, decompressed if it is compressed with gzip, bzip2 or xz.

    Raises:
      InputError: it is compressed, but not whole.
    """
    form = recognise(content[:HEAD_BYTES])
    if form is None or form.unpack is None:
        return content
    try:
        return form.unpack(content)
    except (*TORN, OSError, ValueError) as error:
        raise torn(where, error) from error


def torn(where: str, error: Exception) -> config.InputError:
    return config.InputError(f'{where} is not a whole compressed file: {error}. Download or copy it again.')


def without_mark(content: bytes) -> bytes:
    """`content` without the byte-order mark that Windows programs put before UTF-8."""
    return content.removeprefix(codecs.BOM_UTF8)


def decode(content: bytes, where: str) -> str:
    """UTF-8 to text, newlines as they are.

    Raises:
      InputError: it is not UTF-8; says what it seems to be, and how to convert that.
    """
    form = recognise(content[:HEAD_BYTES])
    if form is not None and 0 in content[:HEAD_BYTES]:
        raise refusal(form, where)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if form is not None:
            raise refusal(form, where) from error
        raise _not_utf8(content, where, error) from error


def _not_utf8(content: bytes, where: str, error: UnicodeDecodeError) -> config.InputError:
    what = f'{where} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}.'
    if error.end == len(content) and error.reason == 'unexpected end of data':
        return config.InputError(f'{what} It ends within a character, as a file does that was not copied whole.')
    if any(byte < 32 and byte not in b'\t\n\v\f\r\x1b' for byte in content[:HEAD_BYTES]):
        return config.InputError(f'{what} It holds control characters and is probably not text at all.')
    return config.InputError(
        f'{what} Find out its encoding and convert it: iconv -f ENCODING -t UTF-8 FILE > NEW; older Western European '
        'files are mostly WINDOWS-1252. Look at the result before you train on it.'
    )
