"""Wide steps through torch: chosen by measurement, on the same weights and cache."""

from __future__ import annotations

import pytest
import torch

from engine.attention.native import NativeAttention, probe
from engine.attention.reference import ReferenceAttention
from engine.attention.registry import ProbeContext
from engine.models.decoder import Decoder
from engine.models.layers import TorchOps
from engine.native import wide
from engine.native.decoder import NativeDecoder
from engine.native.library import Native
from engine.native.wide import WideSteps, crossover, wide_steps
from tests.engine.native.test_native_decoder import QWEN2, random_weights, run_steps, widened

BF16 = torch.bfloat16


def test_mixed_ways_agree_with_float32(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(QWEN2, BF16)
    exact = run_steps(Decoder(QWEN2, widened(weights), TorchOps(), ReferenceAttention()), QWEN2, torch.float32, False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(wide, "crossover", lambda *_: 30)
    steps = wide_steps(QWEN2, weights, native)
    assert isinstance(steps, WideSteps)
    assert len(weights.layers) == QWEN2.num_layers
    threads = torch.get_num_threads()
    out = run_steps(NativeDecoder(QWEN2, weights, native, steps), QWEN2, BF16, False)
    assert torch.get_num_threads() == threads
    assert (out - exact).abs().max() < 4e-2 * (exact.max() - exact.min())


@pytest.mark.parametrize(
    ("times", "expected"), [((1, 0.3), 32), ((1, 1, 1, 0.3), 128), ((1, 1, 1, 0.5), None)], ids=["32", "128", "never"]
)
def test_crossover(
    native: Native, times: tuple[float, ...], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(times)
    monkeypatch.setattr(wide, "best_s", lambda _: next(left))
    assert crossover(native, torch.zeros(8, 64, dtype=BF16)) == expected


def test_measured_for_real(native: Native) -> None:
    assert crossover(native, random_weights(QWEN2, BF16).layers[0].gate_up) in (None, *wide.SIZES)


def test_float32_stays_native(native: Native) -> None:
    assert wide_steps(QWEN2, random_weights(QWEN2, torch.float32), native) is None


def context(dtype: torch.dtype = BF16, head_dim: int = 64, device: str = "cpu") -> ProbeContext:
    return ProbeContext(torch.device(device), dtype, 4, 2, head_dim, None)


def test_probe() -> None:
    backend, reason = probe(context())
    if backend is None:
        pytest.skip(reason)
    assert isinstance(backend, NativeAttention)
    for refused in (context(torch.float16), context(head_dim=20), context(device="meta")):
        assert probe(refused)[0] is None


def test_attention_backend_agrees_with_the_reference(native: Native) -> None:
    weights = widened(random_weights(QWEN2, BF16))
    exact = run_steps(Decoder(QWEN2, widened(weights), TorchOps(), ReferenceAttention()), QWEN2, torch.float32, False)
    out = run_steps(Decoder(QWEN2, weights, TorchOps(), NativeAttention(native)), QWEN2, torch.float32, False)
    assert (out - exact).abs().max() < 1e-5 * (exact.max() - exact.min())
