"""A compact Qwen3 for training: the layers' weights are stacked, so that one optimizer call serves all layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of config.json that the network needs."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rms_norm_eps: float

    @classmethod
    def read(cls, path: Path) -> Shape:
        fields = json.loads(path.read_text())
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over halves: x [B, heads, T, D], cos and sin [..., T, D]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class DemoModel(nn.Module):
    """Qwen3, dense, tied embeddings; linear weights are [layers, out, in]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        n, h, d, m = shape.num_hidden_layers, shape.hidden_size, shape.head_dim, shape.intermediate_size
        q, kv = shape.num_attention_heads * d, shape.num_key_value_heads * d

        def matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(n, rows, columns) * scale * columns**-0.5)

        self.embed = nn.Parameter(torch.randn(shape.vocab_size, h) * 0.02)
        self.q, self.k, self.v = matrix(q, h), matrix(kv, h), matrix(kv, h)
        self.gate, self.up = matrix(m, h), matrix(m, h)
        self.o, self.down = matrix(h, q, (2 * n) ** -0.5), matrix(h, m, (2 * n) ** -0.5)
        self.input_norm, self.post_norm = nn.Parameter(torch.ones(n, h)), nn.Parameter(torch.ones(n, h))
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(n, d)), nn.Parameter(torch.ones(n, d))
        self.final_norm = nn.Parameter(torch.ones(h))

    def matrices(self) -> list[nn.Parameter]:
        """The stacked linear weights, which Muon updates."""
        return [self.q, self.k, self.v, self.o, self.gate, self.up, self.down]

    def others(self) -> list[nn.Parameter]:
        """Embedding and norms, which AdamW updates."""
        return [self.embed, self.input_norm, self.post_norm, self.q_norm, self.k_norm, self.final_norm]

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [..., T, D] for positions [..., T]."""
        d = self.shape.head_dim
        inverse = self.shape.rope_theta ** (-torch.arange(0, d, 2, device=positions.device, dtype=torch.float32) / d)
        angles = positions.float()[..., None] * inverse
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    def forward(self, ids: Tensor, positions: Tensor, attend: Any, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Hidden states [B, T, H] after the last norm.

        `attend(layer, q, k, v)` gets heads [B, heads, T, D] (k and v with their own count) and returns like q.
        """
        s = self.shape
        cos, sin = (t.to(dtype).unsqueeze(-3) for t in self.rope(positions))
        x = F.embedding(ids, self.embed).to(dtype)
        stacks = [weight.to(dtype).unbind(0) for weight in self.matrices()]
        batch, length = ids.shape
        for i, (wq, wk, wv, wo, gate, up, down) in enumerate(zip(*stacks, strict=True)):
            y = rms_norm(x, self.input_norm[i], s.rms_norm_eps)
            q, k, v = (F.linear(y, w).view(batch, length, -1, s.head_dim).transpose(1, 2) for w in (wq, wk, wv))
            q = rotate(rms_norm(q, self.q_norm[i], s.rms_norm_eps), cos, sin)
            k = rotate(rms_norm(k, self.k_norm[i], s.rms_norm_eps), cos, sin)
            mixed = attend(i, q, k, v).transpose(1, 2).reshape(batch, length, -1)
            x = x + F.linear(mixed, wo)
            y = rms_norm(x, self.post_norm[i], s.rms_norm_eps)
            x = x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
        return rms_norm(x, self.final_norm, s.rms_norm_eps)

    def named_weights(self) -> dict[str, Tensor]:
        """Views of the weights under the names of a Qwen3 checkpoint."""
        names = {
            "self_attn.q_proj": self.q,
            "self_attn.k_proj": self.k,
            "self_attn.v_proj": self.v,
            "self_attn.o_proj": self.o,
            "self_attn.q_norm": self.q_norm,
            "self_attn.k_norm": self.k_norm,
            "mlp.gate_proj": self.gate,
            "mlp.up_proj": self.up,
            "mlp.down_proj": self.down,
            "input_layernorm": self.input_norm,
            "post_attention_layernorm": self.post_norm,
        }
        out: dict[str, Tensor] = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.final_norm}
        for name, stack in names.items():
            for i, weight in enumerate(stack.unbind(0)):
                out[f"model.layers.{i}.{name}.weight"] = weight
        return out


def save_checkpoint(model: DemoModel, folder: Path, shards: int = 2) -> None:
    """Write the weights as shards of about equal size with their index; each file appears whole or not at all."""
    named = model.named_weights().items()
    tensors = {name: weight.detach().to(torch.bfloat16).cpu().contiguous() for name, weight in named}
    total = sum(t.nbytes for t in tensors.values())
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    written = 0
    for name, tensor in tensors.items():
        parts[min(shards - 1, written * shards // total)][name] = tensor
        written += tensor.nbytes
    index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": {}}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / (file + ".part"), metadata={"format": "pt"})
        (folder / (file + ".part")).chmod(0o644)
        (folder / (file + ".part")).replace(folder / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def load_checkpoint(folder: Path) -> DemoModel:
    """The network with the weights of a checkpoint folder, in float32 on the CPU."""
    model = DemoModel(Shape.read(folder / "config.json"))
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    with torch.no_grad():
        for name, target in model.named_weights().items():
            target.copy_(tensors[name])
    return model
