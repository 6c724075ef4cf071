"""Stages 2 to 4: projector and language model on the frozen tower's rows, loss on answers only.

    python tools/tiny/train_lm.py --run RUN --minutes 60 [--resume]

A training is a row of legs, each with its own numbers of images and ways to keep rows; README.md lists them.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import albums as al
import numpy as np
import torch
import torch.nn.functional as F
import vocab
from batches import TASK_NAMES, Batch, Pool, make_batch, make_pool
from lm import AuxHeads, Lm, LmConfig
from optim import Log, Optimisers, lr_factor
from torch import Tensor, nn
from tower import load_tower

TRAIN_SEED, VAL_SEED = 11, 22  # the test set has 33, see make_tasks.py
EMA = 0.99


def run_batch(model: Lm, pool: Pool, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the learnt places, their targets, and the album's rows half-way up."""
    prefix = batch.ids.shape[1]
    rows = pool.rows[batch.source.flatten()].to(torch.bfloat16)
    x = model.embed(torch.cat([batch.ids, batch.asked.flatten(1)], 1)).to(torch.bfloat16)
    spots = torch.zeros(x.shape[:2], dtype=torch.bool)
    spots[:, :prefix] = batch.is_row
    x = x.index_put(tuple(spots.nonzero().T), model.project(rows).to(x.dtype))
    questions = batch.asked.shape[1]
    hidden, middle = model(x, batch.positions, prefix, questions)
    target = batch.target.flatten(1)
    learnt = target >= 0
    logits = model.head(hidden[learnt]).float()
    return logits, target[learnt], middle


def right_answers(logits: Tensor, target: Tensor, batch: Batch) -> np.ndarray:
    """[b, questions]: whether every token of the answer is the likeliest, all that greedy decoding needs."""
    wrong = torch.zeros(batch.target.shape, dtype=torch.bool)
    wrong[batch.target >= 0] = logits.argmax(-1) != target
    return ~wrong.any(-1).numpy()


@torch.no_grad()
def evaluate(model: Lm, pool: Pool, images: tuple[int, ...], albums: int, seed: int = 5) -> dict[str, float]:
    out: dict[str, float] = {}
    for n in images:
        rng = np.random.default_rng(seed)
        hits: dict[str, list[bool]] = {t: [] for t in TASK_NAMES}
        for _ in range(max(1, albums // 8)):
            batch = make_batch(pool, rng, b=8, n=n, n_questions=10, kinds=(0.45, 0.35, 0.2))
            with torch.autocast("cpu", torch.bfloat16):
                logits, target, _ = run_batch(model, pool, batch)
            for task, ok in zip(batch.task.flat, right_answers(logits, target, batch).flat, strict=True):
                hits[TASK_NAMES[task]].append(bool(ok))
        for task, values in hits.items():
            if values:
                out[f"{task}_{n}"] = round(float(np.mean(values)), 3)
    return out


GAZE_LAYER = 3  # the first layer above the one whose rows know the number of their image


def gaze_loss(model: Lm, batch: Batch) -> Tensor:
    """One head, in the places that say the answer, should look at the rows that tell it."""
    gaze = model.blocks[GAZE_LAYER].gaze.unflatten(1, batch.target.shape[1:])
    where = (batch.target > 1) & batch.clues.any(-1)[..., None]
    spots = where.nonzero()
    rows = gaze[tuple(spots.T)].float()
    on = torch.zeros(rows.shape, dtype=torch.bool)
    on[batch.is_row[spots[:, 0]]] = batch.clues[spots[:, 0], spots[:, 1]].flatten()
    return -((rows * on).sum(-1) + 1e-4).log().mean()


# Ground and what stays the same are most rows.
AUX_WEIGHTS = (
    (),
    (0.1, 1.0, 1.0),
    (),
    (0.1, *[1.0] * 8),
    (0.1, *[1.0] * 8),
    (0.03, *[1.0] * 9),
    (0.03, *[1.0] * 5),
    (0.1, *[1.0] * 6),
)


def aux_loss(heads: AuxHeads, middle: Tensor, batch: Batch) -> Tensor:
    rows = middle[batch.is_row].view(*batch.source.shape, -1)
    parts = []
    for i, logits in enumerate(heads(rows)):
        target = batch.aux[..., i].flatten()
        if (target >= 0).any():
            weight = torch.tensor(AUX_WEIGHTS[i]) if AUX_WEIGHTS[i] else None
            parts.append(F.cross_entropy(logits.flatten(0, 1), target, weight, ignore_index=-100))
    return torch.stack(parts).sum()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", default="lm")
    parser.add_argument("--minutes", type=float, required=True, help="of this leg")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--images", default="2,3,4", help="numbers of images, one drawn for each batch")
    parser.add_argument(
        "--keep", default="cell,cell,full", help="ways to keep rows, one drawn for each batch"
    )
    parser.add_argument("--budget", type=int, default=3000, help="rows and tokens of a batch, about")
    parser.add_argument("--crutch", type=float, default=0.3, help="weight of what is thrown away")
    parser.add_argument("--gaze", type=float, default=2.0, help="weight of the supervised head within it")
    parser.add_argument("--any-number", type=float, default=0.3, help="share of albums that start anywhere")
    parser.add_argument(
        "--gaps", type=float, default=0.0, help="share of batches with a gap before the question"
    )
    parser.add_argument("--muon-lr", type=float, default=0.012)
    parser.add_argument("--adam-lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--decay-from", type=float, default=1.0, help="share of this leg after which lr falls"
    )
    parser.add_argument("--kinds", default="0.5,0.33,0.17", help="shares of mixed, frames, haystack albums")
    parser.add_argument("--weights", default="", help="task=weight,... for the laggards")
    parser.add_argument("--singles", type=int, default=10000)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--eval-minutes", type=float, default=3)
    parser.add_argument("--eval-images", default="2,8")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def draw_batch(
    args: argparse.Namespace,
    pool: Pool,
    rng: np.random.Generator,
    kinds: list[float],
    weights: dict[str, float],
) -> Batch:
    n = int(rng.choice([int(k) for k in args.images.split(",")]))
    mode = str(rng.choice(args.keep.split(",")))
    keep: str | float = mode if mode in ("full", "cell") else float(mode)
    share = {"full": 1.0, "cell": 0.25}.get(mode) or float(mode)
    # Padding goes up to the longest question, so lists of options are put into batches of their own.
    choices = 0.8 if rng.random() < 0.3 else 0.0
    asked = 8 if n <= 3 else 12 if n <= 12 else 16
    length = 4 + n * (4 + 36 * share) + asked * (28 if choices else 19)
    anywhere = rng.random() < args.any_number
    return make_batch(
        pool,
        rng,
        b=max(2, round(args.budget / length)),
        n=n,
        n_questions=asked,
        keep=keep,
        gap=int(rng.integers(0, 2600)) if rng.random() < args.gaps else 0,
        choice_share=choices,
        kinds=kinds,
        weights=weights,
        first=1 + int(rng.integers(0, vocab.MAX_IMAGES - n + 1)) if anywhere else 1,
    )


def main() -> None:
    args = parse()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    tower = load_tower(args.run / "tower.pt")
    train_store = al.make_store(
        TRAIN_SEED, singles=args.singles, blanks=800, sparse=1600, groups=args.groups, held_out=False
    )
    val_store = al.make_store(VAL_SEED, singles=1500, blanks=100, sparse=200, groups=150, held_out=False)
    pool = make_pool(train_store, tower, TRAIN_SEED, args.run / "rows-train.pt")
    val = make_pool(val_store, tower, VAL_SEED, args.run / "rows-val.pt")

    config = LmConfig(vocab=len(vocab.train()[0]), tower_width=tower.config.width)
    model, smooth, heads = Lm(config), Lm(config), AuxHeads(config.width)
    both = nn.ModuleDict({"lm": model, "aux": heads})
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    optimisers = Optimisers(both, args.muon_lr, args.adam_lr)
    path, log = args.run / f"{args.name}.pt", Log(args.run / f"{args.name}.jsonl")
    step, before = 0, 0.0
    if args.resume:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["lm"])
        heads.load_state_dict(state["aux"])
        optimisers.load_state_dict(state["optimisers"])
        step, before = state["step"], state["seconds"]
    smooth.load_state_dict(state["smooth"] if args.resume else model.state_dict())
    weights = {k: float(v) for k, _, v in (p.partition("=") for p in args.weights.split(",") if p)}
    kinds = [float(share) for share in args.kinds.split(",")]
    rng = np.random.default_rng((args.seed, TRAIN_SEED, step))

    def save() -> None:
        state = {
            "config": dataclasses.asdict(config),
            "lm": model.state_dict(),
            "smooth": smooth.state_dict(),
            "aux": heads.state_dict(),
            "optimisers": optimisers.state_dict(),
            "step": step,
            "seconds": before + time.monotonic() - start,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    start = last = time.monotonic()
    sums: dict[str, list[float]] = {}
    while (over := (time.monotonic() - start) / (args.minutes * 60)) < 1:
        batch = draw_batch(args, pool, rng, kinds, weights)
        with torch.autocast("cpu", torch.bfloat16):
            logits, target, middle = run_batch(model, pool, batch)
            loss = F.cross_entropy(logits, target)
            aux, gaze = aux_loss(heads, middle, batch), gaze_loss(model, batch)
        (loss + args.crutch * (aux + args.gaze * gaze)).backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimisers.step(lr_factor(step, over, decay_from=args.decay_from, warmup=100))
        step += 1
        with torch.no_grad():
            for mean, now in zip(smooth.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - EMA)
        for name, value in (("loss", loss), ("aux", aux), ("gaze", gaze)):
            sums.setdefault(name, []).append(value.item())
        for task, ok in zip(batch.task.flat, right_answers(logits, target, batch).flat, strict=True):
            sums.setdefault(f"train_{TASK_NAMES[task]}", []).append(bool(ok))
        seconds = round(before + time.monotonic() - start)
        if step % 50 == 0:
            log.row(
                {"step": step, "seconds": seconds} | {k: round(float(np.mean(v)), 4) for k, v in sums.items()}
            )
            sums.clear()
        if time.monotonic() - last > args.eval_minutes * 60:
            last = time.monotonic()
            save()
            counts = tuple(int(k) for k in args.eval_images.split(","))
            log.row({"step": step, "seconds": seconds} | evaluate(smooth, val, counts, 24))
    save()
    log.row({"step": step, "final": evaluate(smooth, val, (2, 8, 16, 32), 24)})


if __name__ == "__main__":
    main()
