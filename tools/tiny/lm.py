"""The language model (`llama`: RMSNorm, RoPE on adjacent pairs, SwiGLU) with the projector in front of it.

A training sequence is an album followed by many questions: every question sees the album and itself, not the
other questions, and its positions go on where the album ends. Each question thus gets exactly the sequence it
would get alone, while the album is read once.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class LmConfig:
    vocab: int
    tower_width: int = 192
    width: int = 256
    layers: int = 6
    heads: int = 4
    ff: int = 512
    eps: float = 1e-5
    # A high base leaves half of the pairs almost unturned over 4,096 positions, which heads need to match
    # contents; the fast pairs are enough to tell neighbours.
    rope_base: float = 1e7
    context: int = 4096
    aux_layer: int = 3


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotations(config: LmConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, [..., 1, n, head_dim / 2]."""
    dim = config.width // config.heads
    frequency = config.rope_base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = (positions.double()[..., None] * frequency).float().unsqueeze(-3)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns pairs of neighbours, the order of `llama` files."""
    cos, sin = (t.to(x.dtype) for t in turn)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class LmBlock(nn.Module):
    def __init__(self, c: LmConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.attn_norm, self.ffn_norm = RmsNorm(c.width, c.eps), RmsNorm(c.width, c.eps)
        self.q, self.k, self.v, self.o = (nn.Linear(c.width, c.width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(c.width, c.ff, bias=False) for _ in range(2))
        self.down = nn.Linear(c.ff, c.width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        return x.view(b, t, self.heads, w // self.heads).transpose(1, 2)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], prefix: int, questions: int, keys_only: bool
    ) -> Tensor:
        """`keys_only`: nobody looks at the album's rows after this layer, so only questions are returned.

        Leaves in `gaze` what the first head of the questions looks at: [b, questions * length, prefix].
        """
        y = self.attn_norm(x)
        k, v = rotate(self._split(self.k(y)), turn), self._split(self.v(y))
        start = prefix if keys_only else 0
        mine = tuple(t[..., start:, :] for t in turn)
        q = rotate(self._split(self.q(y[:, start:])), mine) * (k.shape[-1] ** -0.5)
        parts = []
        if not keys_only:
            parts.append(_causal(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix]))
        if questions:
            asked, self.gaze = _asked(q[:, :, prefix - start :], k, v, prefix, questions)
            parts.append(asked)
        out = torch.cat(parts, 2).transpose(1, 2).reshape(len(x), -1, x.shape[-1])
        x = x[:, start:] + self.o(out)
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Spelled out: the backward pass of PyTorch's fused attention on CPU takes several times as long. In
    # strips, so that less than two thirds of the square are computed.
    n = q.shape[2]
    strip = max(128, n // 4)
    out = []
    for a in range(0, n, strip):
        b = min(n, a + strip)
        scores = q[:, :, a:b] @ k[:, :, :b].mT
        late = torch.arange(b)[None, :] > torch.arange(a, b)[:, None]
        scores = scores.masked_fill(late, -1e4)
        out.append(scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v[:, :, :b])
    return torch.cat(out, 2)


def _asked(q: Tensor, k: Tensor, v: Tensor, prefix: int, questions: int) -> tuple[Tensor, Tensor]:
    b, h, n, d = q.shape
    length = n // questions
    own_k, own_v = (t[:, :, prefix:].reshape(b, h, questions, length, d) for t in (k, v))
    own = q.view(b, h, questions, length, d) @ own_k.mT
    late = torch.ones(length, length, dtype=torch.bool).triu(1)
    own = own.masked_fill(late, -1e4).view(b, h, n, length)
    scores = torch.cat([q @ k[:, :, :prefix].mT, own], -1).softmax(-1, dtype=torch.float32).to(v.dtype)
    mine = scores[..., prefix:].reshape(b, h, questions, length, length) @ own_v
    return scores[..., :prefix] @ v[:, :, :prefix] + mine.view(b, h, n, d), scores[:, 0, :, :prefix]


class Lm(nn.Module):
    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = c = config
        self.project_in = nn.Linear(c.tower_width, c.width)
        self.project_out = nn.Linear(c.width, c.width)
        self.embed = nn.Embedding(c.vocab, c.width)
        self.blocks = nn.ModuleList(LmBlock(c) for _ in range(c.layers))
        self.norm = RmsNorm(c.width, c.eps)
        self.head = nn.Linear(c.width, c.vocab, bias=False)
        nn.init.normal_(self.embed.weight, std=0.5)
        # The tower's rows are large. Left so, they would drown what the first layers add to them.
        for part in (self.project_out.weight, self.project_out.bias):
            nn.init.uniform_(part, -1 / 128, 1 / 128)
        nn.init.normal_(self.head.weight, std=0.02)
        for block in self.blocks:
            for last in (block.o, block.down):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * c.layers))

    def project(self, rows: Tensor) -> Tensor:
        return self.project_out(F.gelu(self.project_in(rows)))

    def forward(self, x: Tensor, positions: Tensor, prefix: int, questions: int) -> tuple[Tensor, Tensor]:
        """x [b, prefix + questions * length, width] -> hidden rows of the questions, album rows for the
        throw-away heads."""
        turn = rotations(self.config, positions)
        middle = x
        for i, block in enumerate(self.blocks):
            x = block(x, turn, prefix, questions, keys_only=i == self.config.layers - 1)
            if i + 1 == self.config.aux_layer:
                middle = x[:, :prefix]
        return self.norm(x), middle


# What rows have to tell: number of the image; whether they are the first of their object; own cell; shape and
# colour that the picture before has in this cell; cell where the picture before has this object; which way it
# came from there (up, down, left, right, aslant); how many of its kind the album has up to here (6: more than
# 5). 0: nothing.
AUX = (33, 3, 9, 9, 9, 10, 6, 7)


class AuxHeads(nn.Module):
    """What rows of pictures should know half-way up. Only a crutch of the first stages, not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, sum(AUX))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.heads(self.norm(x)).float().split(AUX, -1)
