"""The kernels under test: for this CPU, for any CPU, and with the bf16 pairs of newer ones emulated."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest

from engine.native.build import BuildError, library_path
from engine.native.library import Native

VARIANTS: dict[str, tuple[str, ...]] = {
    "this CPU": (),
    "bf16 pairs": ("-O1", "-DOAI_EMULATE_BF16_PAIRS"),
    "portable": ("-O1", "-march=x86-64" if platform.machine() in ("x86_64", "AMD64") else "-DPORTABLE"),
}


@pytest.fixture(scope="session", params=VARIANTS)
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    """Two threads. The library stays in the user's cache, as in service."""
    try:
        library = Native(library_path(VARIANTS[request.param]), threads=2)
    except BuildError as error:
        pytest.skip(str(error))
    yield library
    library.close()
