"""The tuned forward pass (own products, overlapping launches, graphs) against the plain one, on one GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")

from engine.attention.registry import ProbeContext, choose
from engine.memory.kv_layout import KvLayout
from engine.models.config import ModelConfig, RopeConfig
from engine.models.rope import rope_tables
from engine.models.weights import ModelWeights, load_weights
from engine.request import EngineRequest, Sequence
from engine.runner.batch import ScheduledRow, StepBatch
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_products import Products
from engine.runner.cuda_runner import CudaRunner, RunnerLimits
from engine.runner.product_table import product_table
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling_params import SamplingParams
from tests.support.paged import relative_error

MAX_LEN = 1024


def model_config(**fields: object) -> ModelConfig:
    plain: dict[str, object] = {
        "architecture": "qwen2",
        "hidden_size": 1024,
        "num_layers": 6,
        "num_heads": 14,
        "num_kv_heads": 2,
        "head_dim": 64,
        "intermediate_size": 2816,
        "vocab_size": 20000,
        "rms_norm_eps": 1e-6,
        "rope": RopeConfig(1e6),
        "max_position": MAX_LEN,
        "qkv_bias": True,
        "qk_norm": False,
        "tie_word_embeddings": False,
    }
    return ModelConfig(**{**plain, **fields})  # type: ignore[arg-type]


CONFIGS = {
    "group7": model_config(),
    "qk-norm": model_config(architecture="qwen3", qk_norm=True, qkv_bias=False, num_heads=16, num_kv_heads=8),
    "d128": model_config(num_heads=8, num_kv_heads=2, head_dim=128, tie_word_embeddings=True),
}


def make_runner(config: ModelConfig, weights: ModelWeights, products: Products, eager: bool, name: str) -> CudaRunner:
    device = weights.embedding.device
    context = ProbeContext(device, torch.bfloat16, config.num_heads, config.num_kv_heads, config.head_dim, None)
    attention, _ = choose(name, context)
    layout = KvLayout(
        config.num_layers, config.num_kv_heads, config.head_dim, attention.block_sizes[0], torch.bfloat16
    )
    forward = CudaForward(
        config, weights, attention, layout.allocate(200, device), rope_tables(config, MAX_LEN, device), products
    )
    limits = RunnerLimits(128, 4096, MAX_LEN, config.vocab_size)
    return CudaRunner(forward, limits, DeferredCompiler(""), eager)


class Driver:
    """Prefills prompts of given lengths, then decodes forced tokens, recording each step's logits."""

    def __init__(self, runner: CudaRunner, lengths: list[int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.runner, self.sequences, free = runner, [], 1
        for number, length in enumerate(lengths):
            ids = torch.randint(0, 20000, (length + 8,), generator=generator).tolist()
            request = EngineRequest(str(number), tuple(ids), sampling=SamplingParams(temperature=0.0))
            needed = -(-(length + 8) // runner.block_size)
            table = list(range(free, free + needed))
            free += needed
            self.sequences.append(Sequence(request, ids, length, block_table=table, slot=number))
        self.lengths = list(lengths)
        rows = [ScheduledRow(s, 0, n, False) for s, n in zip(self.sequences, lengths, strict=True)]
        runner.launch(StepBatch(tuple(rows), 0)).result()

    def decode(self) -> torch.Tensor:
        """One decode step over all rows; the keys it stored, which hold every layer's hidden states."""
        rows = [ScheduledRow(s, n, 1, True) for s, n in zip(self.sequences, self.lengths, strict=True)]
        for sequence in self.sequences:
            self.runner.forget(sequence.slot)  # so that the forced token is sent, not the sampled one
        result = self.runner.launch(StepBatch(tuple(rows), len(rows))).result()
        assert result.failed == {}
        cache, size = self.runner._forward.kv_cache, self.runner.block_size
        blocks = [s.block_table[n // size] for s, n in zip(self.sequences, self.lengths, strict=True)]
        stored = cache[:, :, blocks, [n % size for n in self.lengths]]
        self.lengths = [length + 1 for length in self.lengths]
        return stored


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("rows", [1, 2, 7, 33, 64, 100])
@pytest.mark.parametrize("pdl", [False, True])
def test_tuned_steps_equal_plain_ones(name: str, rows: int, pdl: bool, attention: str = "auto") -> None:
    config = CONFIGS[name]
    weights = load_weights("", config, "cuda:0", torch.bfloat16, "dummy")
    lengths = [(37 * number) % 60 + 1 for number in range(rows)]
    plain = Driver(make_runner(config, weights, Products(), True, "triton"), lengths)
    products = Products(product_table(config), pdl)
    tuned = Driver(make_runner(config, weights, products, False, attention), lengths)
    for _ in range(4):
        assert relative_error(tuned.decode(), plain.decode()) < 2e-2
