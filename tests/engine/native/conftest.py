"""The kernels under test: as this CPU runs them, and the bf16-pair layout of newer CPUs, emulated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.native.build import BuildError, library_path
from engine.native.library import Native

VARIANTS: dict[str, tuple[str, ...]] = {"this CPU": (), "bf16 pairs": ("-DOAI_EMULATE_BF16_PAIRS",)}


@pytest.fixture(scope="session", params=VARIANTS)
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    """Two threads. The library stays in the user's cache, as in service."""
    try:
        library = Native(library_path(VARIANTS[request.param]), threads=2)
    except BuildError as error:
        pytest.skip(str(error))
    yield library
    library.close()
