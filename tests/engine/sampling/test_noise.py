"""The noise: equal to its definition in numpy, Gumbel distributed, and without visible correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.sampling.noise import GUMBEL_MAX, GUMBEL_MIN, gumbel, key_tensors, noise_keys
from tests.engine.sampling import reference

CPU = torch.device("cpu")


def noise(seed: int, position: int, count: int) -> torch.Tensor:
    key0, key1 = key_tensors([(seed, position)], CPU)
    return gumbel(key0[0], key1[0], torch.arange(count, dtype=torch.int32))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**20))
def test_equal_to_the_definition(seed: int, position: int) -> None:
    ours = noise(seed, position, 300).numpy()
    expected = reference.gumbel(seed, position, np.arange(300, dtype=np.uint32))
    np.testing.assert_allclose(ours, expected, atol=2e-5, rtol=2e-5)


def test_keys_are_written_down() -> None:
    """Other implementations (Triton, C++) are held to these numbers."""
    assert noise_keys(0, 0) == (0xAA3E5B61, 0x346B92AA)
    assert noise_keys(1, 2) == (0xF6A49F81, 0xF9AEBE29)
    assert noise_keys(-1, 5) == noise_keys(2**64 - 1, 5) == (0x6F0F0D83, 0x15C73707)


def test_distribution() -> None:
    values = torch.cat([noise(seed, 17, 100_000) for seed in range(10)]).double()
    assert values.mean().item() == pytest.approx(0.57722, abs=0.005)
    assert values.var().item() == pytest.approx(np.pi**2 / 6, abs=0.02)
    assert values.min().item() > GUMBEL_MIN
    assert values.max().item() < GUMBEL_MAX
    quantiles = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    expected = -(-quantiles.log()).log()
    found = torch.from_numpy(np.quantile(values.numpy(), quantiles.numpy()))
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(("seed", "position"), [(1, 0), (0, 1), (2**32, 0), (2**63, 0), (0, 2**16)])
def test_neighbours_are_not_correlated(seed: int, position: int) -> None:
    one, other = noise(0, 0, 100_000), noise(seed, position, 100_000)
    for shift in range(4):
        pair = torch.stack([one[: 100_000 - shift], other[shift:]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.02
    assert abs(torch.corrcoef(torch.stack([one[:-1], one[1:]]))[0, 1].item()) < 0.02


def test_extremes_stay_finite() -> None:
    """The largest and the smallest uniform number there are."""
    uniform = torch.tensor([1.0, 2.0**24 - 1]) * 2.0**-24
    extremes = -(-uniform.log()).log()
    assert extremes.isfinite().all()
    assert GUMBEL_MIN < extremes[0] < extremes[1] < GUMBEL_MAX
