"""PNG files from NumPy arrays: indexed colour, one byte per pixel. The same array gives the same bytes."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""[y, x] positions in a palette."""


def png(pixels: Pixels, palette: NDArray[Any]) -> bytes:
    """Return a PNG. palette: [colour, 3] red, green, blue of 0 to 255, at most 256 colours; pixels index it."""
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # each line starts with its filter: 0, none
    lines[:, 1:] = pixels
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def data_uri(content: bytes) -> str:
    """Return a PNG as an address that carries the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
