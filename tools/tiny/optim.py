"""Muon for the matrices, AdamW for everything else, and a warm-up / decay schedule on the wall clock."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(g: Tensor, steps: int = 4) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: a quintic Newton-Schulz iteration in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        m = x @ x.mT
        x = a * x + (b * m + c * m @ m) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Equal shapes are stacked, since one small matrix keeps no core busy."""

    def __init__(self, params: Iterable[Tensor], lr: float, decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for p, update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-scale)


class Optimisers:
    """Both optimisers behind one schedule: warm-up over steps, then linear decay over a share of the time."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, decay: float = 0.01) -> None:
        matrices, rest = [], []
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            is_matrix = p.ndim == 2 and not any(s in name for s in ("embed", "position", "head"))
            (matrices if is_matrix else rest).append(p)
        self.parts = [
            Muon(matrices, muon_lr, decay),
            torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self.base = [muon_lr, adam_lr]

    def step(self, factor: float) -> None:
        for part, lr in zip(self.parts, self.base, strict=True):
            for group in part.param_groups:
                group["lr"] = lr * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[Any]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[Any]) -> None:
        for part, one in zip(self.parts, state, strict=True):
            part.load_state_dict(one)


def lr_factor(step: int, done: float, *, warmup: int = 200, decay_from: float = 0.5) -> float:
    """Warm-up by steps, constant, then linear down; `done` is the share of the time that is over."""
    floor = 0.03
    falling = min(1.0, max(0.0, (done - decay_from) / max(1 - decay_from, 1e-6)))
    return min(1.0, (step + 1) / warmup) * (1 - (1 - floor) * falling)


class Log:
    """JSON lines, on the screen and in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def row(self, values: dict[str, Any]) -> None:
        print(json.dumps(values), flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
