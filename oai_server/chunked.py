"""The framing of chunked bodies, read beside the HTTP parser, which lets every size and every line length pass.

A size that no body has, and framing that outweighs what it frames, end a request at once instead of at its timeout.
"""

from __future__ import annotations

import contextlib

from oai_server.errors import ApiError
from oai_server.wire.decoding import too_large

MAX_LINE_BYTES = 4096
"""A size with its extensions, which nobody here reads."""
MAX_SIZE_DIGITS = 8
"""Hexadecimal, without leading zeros."""


class ChunkFraming:
    """Follows one body from its first byte. The parser has accepted all of it, so only amounts are checked here."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._announced = 0
        self._skip = 0
        """Bytes until the next size line: the rest of a chunk and its line end."""
        self._line = b""
        self._ended = False

    def feed(self, data: bytes) -> ApiError | None:
        """The body's next bytes. Returns why the request is refused, if it is."""
        at = 0
        while not self._ended and at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at, at + MAX_LINE_BYTES + 1)
            stop = end + 1 or at + MAX_LINE_BYTES + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > MAX_LINE_BYTES:
                return ApiError(400, "The size line of a chunk is too long.")
            if error := self._take_size(complete=end >= 0):
                return error
        return None

    def _take_size(self, *, complete: bool) -> ApiError | None:
        digits = self._line.partition(b";")[0].strip().lstrip(b"0")
        if len(digits) > MAX_SIZE_DIGITS:
            return ApiError(400, "The size of a chunk is out of range.")
        if not complete:
            return None
        size = 0
        with contextlib.suppress(ValueError):
            size = int(digits, 16)
        self._line = b""
        self._ended = size == 0
        self._skip = size + 2
        self._announced += size
        return too_large(self._max_body_bytes) if self._announced > self._max_body_bytes else None
