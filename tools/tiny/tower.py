"""Stage 1: the vision tower alone, on single rendered pictures with labels for every patch.

    python tools/tiny/tower.py --out RUN --minutes 25

A CLIP-type tower (class token, LayerNorm before the blocks, learned positions, quick-GELU) whose last layer
feeds throw-away linear heads: shape, colour and text of the cell that a patch lies in. All patches of an
object or a text carry the same labels, so the information is redundant, as pruning expects of an image.
"""

from __future__ import annotations

import argparse
import dataclasses
import queue
import threading
import time
from pathlib import Path

import numpy as np
import scenes as sc
import torch
import torch.nn.functional as F
from optim import Log, Optimisers, lr_factor
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CLASSES = (sc.N_SHAPES + 1, sc.N_COLOURS + 1, *[len(sc.SIGNS) + 1] * 3)


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    width: int = 192
    layers: int = 4
    heads: int = 6
    ff: int = 768
    eps: float = 1e-5


class TowerBlock(nn.Module):
    def __init__(self, c: TowerConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.ln1, self.ln2 = nn.LayerNorm(c.width, c.eps), nn.LayerNorm(c.width, c.eps)
        self.qkv = nn.ModuleList(nn.Linear(c.width, c.width) for _ in range(3))
        self.out = nn.Linear(c.width, c.width)
        self.up, self.down = nn.Linear(c.width, c.ff), nn.Linear(c.ff, c.width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        y = self.ln1(x)
        q, k, v = (part(y).view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv)
        # Spelled out: the backward pass of PyTorch's fused attention on CPU takes longer than all matrices.
        scores = (q * (w // self.heads) ** -0.5) @ k.mT
        y = (scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v).transpose(1, 2).reshape(b, t, w)
        x = x + self.out(y)
        y = self.up(self.ln2(x))
        return x + self.down(y * torch.sigmoid(1.702 * y))


class Tower(nn.Module):
    def __init__(self, config: TowerConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or TowerConfig()
        self.patch_embed = nn.Linear(3 * sc.PATCH**2, c.width, bias=False)
        self.class_embed = nn.Parameter(torch.randn(c.width) * 0.02)
        self.position = nn.Parameter(torch.randn(sc.N_PATCHES + 1, c.width) * 0.3)
        self.pre_ln = nn.LayerNorm(c.width, c.eps)
        self.blocks = nn.ModuleList(TowerBlock(c) for _ in range(c.layers))
        for block in self.blocks:
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.02)
                nn.init.zeros_(last.bias)
        self.register_buffer("mean", torch.tensor(MEAN) * 255)
        self.register_buffer("std", torch.tensor(STD) * 255)

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 [n, 96, 96, 3] -> [n, 36, width]."""
        n, g, p = len(pictures), sc.SIZE // sc.PATCH, sc.PATCH
        x = (pictures.float() - self.mean) / self.std
        # Columns in the order of a convolution's weight: channel, row, column.
        x = x.view(n, g, p, g, p, 3).permute(0, 1, 3, 5, 2, 4).reshape(n, g * g, 3 * p * p)
        x = torch.cat([self.class_embed.expand(n, 1, -1), self.patch_embed(x)], 1)
        x = self.pre_ln(x + self.position)
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


class Heads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, sum(CLASSES))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.heads(self.norm(x)).float().split(CLASSES, -1)


def batches(seed: int, size: int) -> queue.Queue[tuple[np.ndarray, np.ndarray]]:
    """A thread renders ahead. Its share of a core is about a tenth of what training takes."""
    ready: queue.Queue[tuple[np.ndarray, np.ndarray]] = queue.Queue(4)

    def work() -> None:
        rng = np.random.default_rng(seed)
        while True:
            scenes = sc.random_scenes(rng, size, objects=(0, 6), text_share=0.6)
            ready.put((sc.render(scenes, rng), sc.patch_labels(scenes)))

    threading.Thread(target=work, daemon=True).start()
    return ready


def load_tower(path: Path) -> Tower:
    state = torch.load(path, map_location="cpu", weights_only=True)
    tower = Tower(TowerConfig(**state["config"]))
    tower.load_state_dict(state["tower"])
    return tower.eval()


@torch.no_grad()
def accuracy(tower: Tower, heads: Heads, *, held_out: bool, n: int = 1024) -> dict[str, float]:
    """Share of right patches among those that show something, by label; `text`: all three signs right."""
    rng = np.random.default_rng(99 + held_out)
    scenes = sc.random_scenes(rng, n, objects=(1, 4), text_share=0.6, held_out=held_out)
    pictures, labels = torch.from_numpy(sc.render(scenes, rng)), torch.from_numpy(sc.patch_labels(scenes))
    with torch.autocast("cpu", torch.bfloat16):
        outs = [heads(tower(part)) for part in pictures.split(256)]
    out = torch.cat([torch.stack([o.argmax(-1) for o in part], -1) for part in outs])
    right = out == labels
    objects, text = labels[..., 0] > 0, labels[..., 2] > 0
    return {
        "shape": right[..., 0][objects].float().mean().item(),
        "colour": right[..., 1][objects].float().mean().item(),
        "text": right[..., 2:].all(-1)[text].float().mean().item(),
        "ground": right.all(-1)[~objects & ~text].float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    tower = Tower()
    heads = Heads(tower.config.width)
    model = nn.ModuleDict({"tower": tower, "out": heads})
    optimisers = Optimisers(model, args.muon_lr, args.adam_lr)
    log = Log(args.out / "tower.jsonl")
    path = args.out / "tower.pt"
    step, before = 0, 0.0
    if args.resume:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimisers.load_state_dict(state["optimisers"])
        step, before = state["step"], state["seconds"]
    print(f"{sum(p.numel() for p in tower.parameters()) / 1e6:.2f} M parameters")
    data = batches(args.seed * 1000 + step, args.batch)
    start = last_save = time.monotonic()
    losses: list[float] = []

    def save() -> None:
        torch.save(
            {
                "config": dataclasses.asdict(tower.config),
                "tower": tower.state_dict(),
                "heads": heads.state_dict(),
                "optimisers": optimisers.state_dict(),
                "step": step,
                "seconds": before + time.monotonic() - start,
            },
            path,
        )

    while True:
        elapsed = before + time.monotonic() - start
        done = elapsed / (args.minutes * 60)
        if done >= 1:
            break
        pictures, labels = (torch.from_numpy(a) for a in data.get())
        with torch.autocast("cpu", torch.bfloat16):
            outs = heads(tower(pictures))
        # Patches with nothing in them are most patches and easy: a quarter of the weight.
        shown = (labels > 0).any(-1)
        weight = torch.where(shown, 1.0, 0.25).flatten()
        loss = sum(
            (F.cross_entropy(o.flatten(0, 1), labels[..., i].flatten(), reduction="none") * weight).mean()
            for i, o in enumerate(outs)
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimisers.step(lr_factor(step, done, decay_from=0.4))
        losses.append(loss.item())
        step += 1
        if step % 200 == 0:
            row = {"step": step, "seconds": round(elapsed), "loss": round(float(np.mean(losses)), 4)}
            losses.clear()
            if step % 600 == 0:
                row |= {k: round(v, 4) for k, v in accuracy(tower, heads, held_out=False).items()}
            log.row(row)
        if time.monotonic() - last_save > 120:
            last_save = time.monotonic()
            save()
    save()
    for held_out in (False, True):
        final = {k: round(v, 4) for k, v in accuracy(tower, heads, held_out=held_out, n=4096).items()}
        log.row({"step": step, "held_out": held_out, "final": final})


if __name__ == "__main__":
    main()
