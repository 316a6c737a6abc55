"""The numbers of several HTTP processes as one: each writes its own to a file a second; a scrape adds up.

Also for its own numbers a worker reads its file, so that no counter ever seems to run backwards between two scrapes
that met different workers.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from oai_server.services import Services
from oai_server.shared_counts import discard_counts
from oai_server.telemetry import Telemetry


class SharedMetrics:
    """Owns one worker's file in `folder`. A worker that replaces another goes on with its numbers."""

    def __init__(self, services: Services, folder: Path, index: int) -> None:
        self._services = services
        self._folder = folder
        self._file = folder / f"worker-{index}"
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Telemetry)
        with contextlib.suppress(OSError, msgspec.DecodeError):
            services.telemetry = self._decoder.decode(self._file.read_bytes())
        services.published_telemetry = self.total

    def publish(self) -> None:
        """Write this worker's numbers. A full disk costs numbers, nothing else."""
        fresh = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.write_bytes(self._encoder.encode(self._services.telemetry))
            os.replace(fresh, self._file)

    def discard(self) -> None:
        """At the end: the last worker leaves no folder behind, even when the parent was killed."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        discard_counts(self._folder)

    def total(self) -> Telemetry:
        """All workers' latest numbers added up."""
        total = Telemetry()
        for file in self._folder.iterdir():
            if not file.suffix:
                with contextlib.suppress(OSError, msgspec.DecodeError):
                    total.add(self._decoder.decode(file.read_bytes()))
        return total
