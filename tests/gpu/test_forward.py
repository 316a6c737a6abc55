"""The tuned forward pass (own products, overlapping launches, graphs) against the plain one, on one GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")

from engine.attention.registry import ProbeContext, choose
from engine.memory.kv_layout import KvLayout
from engine.models.config import ModelConfig, RopeConfig
from engine.models.rope import rope_tables
from engine.models.weights import ModelWeights, load_weights
from engine.request import EngineRequest, Sequence
from engine.runner import shared_prefix
from engine.runner.batch import ScheduledRow, StepBatch
from engine.runner.cuda_buffers import MixedShape, StepTensors
from engine.runner.cuda_forward import CudaForward
from engine.runner.cuda_graphs import StepGraphs
from engine.runner.cuda_products import Products
from engine.runner.cuda_runner import CudaRunner, RunnerLimits
from engine.runner.product_table import product_table
from engine.sampling.deferred_compiler import DeferredCompiler
from engine.sampling_params import SamplingParams
from tests.support.paged import relative_error

MAX_LEN = 1024
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
BATCHED_TOKENS = 4096


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
    limits = RunnerLimits(128, BATCHED_TOKENS, MAX_LEN, config.vocab_size)
    return CudaRunner(forward, limits, DeferredCompiler(""), eager)


class Driver:
    """Prefills prompts of given lengths, then decodes forced tokens, recording each step's logits."""

    def __init__(self, runner: CudaRunner, lengths: list[int], shared_blocks: tuple[int, ...] = ()) -> None:
        """`shared_blocks`: how many first blocks each row has in common with the first row; none by default."""
        generator = torch.Generator().manual_seed(0)
        self.runner, self.sequences, free = runner, [], 1
        for number, length in enumerate(lengths):
            ids = torch.randint(0, 20000, (length + 8,), generator=generator).tolist()
            needed = -(-(length + 8) // runner.block_size)
            table = list(range(free, free + needed))
            free += needed
            if number and shared_blocks:
                common = shared_blocks[number]
                table[:common] = self.sequences[0].block_table[:common]
                tokens = common * runner.block_size
                ids[:tokens] = self.sequences[0].token_ids[:tokens]
            request = EngineRequest(str(number), tuple(ids), sampling=SamplingParams(temperature=0.0))
            self.sequences.append(Sequence(request, ids, length, block_table=table, slot=number))
        self.lengths = list(lengths)
        rows = [ScheduledRow(s, 0, n, False) for s, n in zip(self.sequences, lengths, strict=True)]
        together = len(rows) if sum(lengths) <= BATCHED_TOKENS else 1
        for first in range(0, len(rows), together):
            runner.launch(StepBatch(tuple(rows[first : first + together]), 0)).result()

    def keep(self, count: int) -> None:
        """The first `count` rows alone go on."""
        self.sequences, self.lengths = self.sequences[:count], self.lengths[:count]

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
    products = Products(product_table(config, HOPPER), pdl)
    tuned = Driver(make_runner(config, weights, products, False, attention), lengths)
    for _ in range(4):
        assert relative_error(tuned.decode(), plain.decode()) < 2e-2


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("attention", ["auto", "triton"])
def test_one_graph_serves_all_lengths_of_a_shared_prefix(
    name: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is not captured the plain graph serves. Rows leave, so that the others share more: the same graph."""
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 1)
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS", 128)
    config = CONFIGS[name]
    weights = load_weights("", config, "cuda:0", torch.bfloat16, "dummy")
    rows, kept = 15, 10
    products = Products(product_table(config), True)
    tuned_runner = make_runner(config, weights, products, False, attention)
    plain_runner = make_runner(config, weights, Products(), True, "triton")
    plain_runner._shared_prefix = None
    drivers = []
    for runner in (tuned_runner, plain_runner):
        blocks = 512 // runner.block_size
        lengths = [512 + (37 * number) % 90 for number in range(rows)]
        drivers.append(Driver(runner, lengths, (blocks,) * kept + (blocks // 2,) * (rows - kept)))
    tuned, plain = drivers
    graphs = (tuned_runner._sampling_graphs, tuned_runner._shared_sampling_graphs)
    replayed = count_replays(graphs, monkeypatch)
    tuned_runner._later.clear()
    tuned_runner._capture_idle(graphs[0], 16)
    for count, tokens, expected in ((rows, 256, [1, 0]), (rows, 256, [1, 2]), (kept, 512, [1, 4])):
        for driver in drivers:
            driver.keep(count)
        for _ in range(1 if expected == [1, 0] else 2):
            assert relative_error(tuned.decode(), plain.decode()) < 2e-2
        layout = tuned_runner._layout
        assert int(tuned_runner.state[layout.shared_len]) == tokens
        assert replayed == expected
        while tuned_runner.prepare_more():
            pass
    for driver in drivers:
        driver.keep(shared_prefix.MIN_ROWS - 1)
        driver.decode()
    tuned_runner._capture_idle(graphs[0], 8)
    assert relative_error(tuned.decode(), plain.decode()) < 2e-2
    assert replayed == [2, 4], "too few rows: the plain graph"


def count_replays(graphs: tuple[StepGraphs[int], ...], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often each was replayed so far."""
    replayed = [0] * len(graphs)
    for number, one in enumerate(graphs):

        def run(key: int, number: int = number, replay: Callable[[int], torch.Tensor] = one.run) -> torch.Tensor:
            replayed[number] += 1
            return replay(key)

        monkeypatch.setattr(one, "run", run)
    return replayed


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_mixed_steps_read_a_shared_prefix_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode rows beside a chunk, by a graph of its own and kernel by kernel, against the plain kernels."""
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 1)
    config = CONFIGS[name]
    weights = load_weights("", config, "cuda:0", torch.bfloat16, "dummy")
    stored, shared = [], []
    for mode in ("plain", "eager", "graph"):
        products = Products(product_table(config), mode != "plain")
        runner = make_runner(config, weights, products, mode != "graph", "auto" if mode == "graph" else "triton")
        if mode == "plain":
            runner._shared_prefix = None
        blocks = 512 // runner.block_size
        driver = Driver(runner, [512 + 9 * number for number in range(12)] + [30], (blocks,) * 12 + (0,))
        chunk, length = driver.sequences.pop(), driver.lengths.pop()
        if mode == "graph":
            runner._capture_idle(runner._mixed_graphs, MixedShape(32, 8, 64, True))
        seen = count_mixed(runner, monkeypatch)
        rows = [ScheduledRow(s, n, 1, True) for s, n in zip(driver.sequences, driver.lengths, strict=True)]
        for sequence in (*driver.sequences, chunk):
            runner.forget(sequence.slot)
        batch = StepBatch((*rows, ScheduledRow(chunk, 0, length, False)), len(rows))
        assert runner.launch(batch).result().failed == {}
        shared.append(seen)
        cache, size = runner._forward.kv_cache, runner.block_size
        of_rows = [s.block_table[n // size] for s, n in zip(driver.sequences, driver.lengths, strict=True)]
        stored.append(cache[:, :, of_rows, [n % size for n in driver.lengths]])
    assert shared == [[False], [True], [True]]
    assert relative_error(stored[1], stored[0]) < 2e-2
    assert relative_error(stored[2], stored[0]) < 2e-2


def count_mixed(runner: CudaRunner, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each mixed step: whether it made use of a shared prefix."""
    seen: list[bool] = []
    mixed_tensors, replay = runner._buffers.mixed_tensors, runner._mixed_graphs.run

    def tensors(shape: MixedShape, *args: int) -> StepTensors:
        seen.append(shape.shared)
        return mixed_tensors(shape, *args)

    def run(shape: MixedShape) -> torch.Tensor:
        seen.append(shape.shared)
        return replay(shape)

    monkeypatch.setattr(runner._buffers, "mixed_tensors", tensors)
    monkeypatch.setattr(runner._mixed_graphs, "run", run)
    return seen
