"""Pixels as PNG, samples of sound as WAV and figures as pixels, by the standard library and NumPy alone."""

import io
import struct
import wave
import zlib
from collections.abc import Sequence

import numpy as np

COLOR_TYPES = {1: 0, 3: 2, 4: 6}  # Channels -> colour type of PNG: grey, RGB, RGBA.


def pixels_of(image: np.ndarray) -> np.ndarray:
    """An image [Y, X] or [Y, X, Z] as [Y, X, Z] uint8, of 1, 3 or 4 channels; floats are taken to lie in [0, 1].

    Raises:
      ValueError: it is not of such a shape, or empty.
    """
    image_YXZ = image[..., None] if image.ndim == 2 else image
    if image_YXZ.ndim != 3 or image_YXZ.shape[2] not in COLOR_TYPES or not image_YXZ.size:
        raise ValueError(f'an image of shape {image.shape} is not [Y, X], or [Y, X, Z] with 1, 3 or 4 channels.')
    if image_YXZ.dtype != np.uint8:
        finite_YXZ = np.nan_to_num(np.asarray(image_YXZ, np.float32))
        image_YXZ = (finite_YXZ.clip(0, 1) * 255).round().astype(np.uint8)
    return image_YXZ


def png(pixels_YXZ: np.ndarray) -> bytes:
    """A PNG file (ISO/IEC 15948) of the pixels, [Y, X, Z] uint8."""
    Y, X, Z = pixels_YXZ.shape
    header = struct.pack('>IIBBBBB', X, Y, 8, COLOR_TYPES[Z], 0, 0, 0)
    rows = b''.join(b'\0' + row.tobytes() for row in np.ascontiguousarray(pixels_YXZ))
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(_chunk(*each) for each in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def pixels_in(content: bytes) -> np.ndarray | None:
    """The pixels [Y, X, Z] uint8 of a file that png() wrote; None of another PNG file, such as one with filters."""
    if len(content) < 33 or content[24] != 8 or content[25] not in COLOR_TYPES.values():
        return None
    X, Y = struct.unpack('>II', content[16:24])
    channels = next(count for count, kind in COLOR_TYPES.items() if kind == content[25])
    (size,) = struct.unpack('>I', content[33:37])
    if content[37:41] != b'IDAT' or content[45 + size : 53 + size] != b'\0\0\0\0IEND':
        return None
    rows = np.frombuffer(zlib.decompress(content[41 : 41 + size]), np.uint8)
    if rows.size != Y * (X * channels + 1) or rows.reshape(Y, -1)[:, 0].any():
        return None
    return rows.reshape(Y, -1)[:, 1:].reshape(Y, X, channels)


def heatmap_pixels(values: np.ndarray, cell: int = 12) -> np.ndarray:
    """A matrix [rows, columns] as a grey picture [Y, X, 1] uint8, `cell` pixels a value, darkest at 1."""
    shade = 255 - (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)
    return np.kron(shade, np.ones((cell, cell), np.uint8))[..., None]


def chart_pixels(lines: Sequence[tuple[np.ndarray, np.ndarray]], height: int = 240, width: int = 480) -> np.ndarray:
    """Lines (x, y) as a grey picture [Y, X, 1] uint8, without axes."""
    picture = np.full((height, width, 1), 255, np.uint8)
    known = [(x[keep], y[keep]) for x, y in lines if (keep := np.isfinite(x) & np.isfinite(y)).any()]
    if not known:
        return picture
    x_all, y_all = (np.concatenate(each) for each in zip(*known))
    for x, y in known:
        columns = (x - x_all.min()) / (np.ptp(x_all) or 1) * (width - 1)
        rows = (y_all.max() - y) / (np.ptp(y_all) or 1) * (height - 1)
        along = np.linspace(0, len(x) - 1, max(2, 4 * max(height, width)))
        at = [np.interp(along, np.arange(len(x)), each).round().astype(int) for each in (rows, columns)]
        picture[at[0], at[1]] = 40
    return picture


def wav(samples: np.ndarray, rate_hz: int) -> bytes:
    """A WAV file with 16 bits a sample.

    Args:
      samples: [A], or [A, channels]; floats are taken to lie in [-1, 1].
    """
    if samples.dtype != np.int16:
        finite = np.nan_to_num(np.asarray(samples, np.float32))
        samples = (finite.clip(-1, 1) * 32_767).round().astype(np.int16)
    written = io.BytesIO()
    with wave.open(written, 'wb') as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype('<i2').tobytes())
    return written.getvalue()
