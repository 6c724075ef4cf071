"""Training and test batches: albums with their questions as arrays, ready for the model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import albums as al
import numpy as np
import scenes as sc
import torch
import vocab
from tower import Tower

Array = np.ndarray
PER_IMAGE = sc.N_PATCHES + 4  # "Image", number, ":", rows, line break
TASK_NAMES = tuple(al.TASKS)
EXTRA = {  # what else an album can be asked, so that no task belongs to one kind of album alone
    "mixed": ("find", "read", "count", "first", "attribute"),
    "frames": ("same", "change", "direction", "attribute", "count", "read"),
    "haystack": ("needle", "needle", "read", "attribute", "count"),
}


@dataclasses.dataclass
class Pool:
    """A store with the tower's rows and what the throw-away heads want to know of every patch."""

    store: al.Store
    rows: torch.Tensor  # [pictures * 36, width], float16
    code: Array  # [pictures, 36] what a patch shows, 0 for ground
    thing: Array  # [pictures, 36] which object of its picture a patch belongs to, 0 for ground


@torch.no_grad()
def encode(tower: Tower, pictures: Array) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return tower(torch.from_numpy(pictures)).half()


def make_pool(store: al.Store, tower: Tower, seed: int, cache: Path | None = None) -> Pool:
    if cache is not None and cache.exists():
        rows = torch.load(cache, weights_only=True)
    else:
        blocks = range(math.ceil(len(store.scenes) / al.BLOCK))
        parts = [encode(tower, al.render_block(store, seed, block)) for block in blocks]
        rows = torch.cat(parts).flatten(0, 1)
        if cache is not None:
            torch.save(rows, cache)
    scenes, cells = store.scenes, sc.patch_cells()
    code = (scenes.shape * 16 + scenes.colour) * (scenes.shape > 0)
    thing = np.where(scenes.shape > 0, np.arange(1, sc.N_CELLS + 1), 0)
    text = ((scenes.text[:, 0] * 64 + scenes.text[:, 1]) * 64 + scenes.text[:, 2]) + 1000
    who = np.flatnonzero(scenes.text_cell >= 0)
    for side in (0, 1):
        code[who, scenes.text_cell[who] + side] = text[who]
        thing[who, scenes.text_cell[who] + side] = sc.N_CELLS + 1
    return Pool(store, rows, code[:, cells], thing[:, cells])


@functools.cache
def layout(n: int, first: int = 1) -> tuple[Array, Array]:
    """Token ids of the album part for n images (-1 for rows), and the number of the patch at each place."""
    ids, patch = list(vocab.head()), [-1] * len(vocab.head())
    for k in range(n):
        before, after = vocab.before_image(k + first), vocab.after_image()
        ids += [*before, *[-1] * sc.N_PATCHES, *after]
        patch += [*[-1] * len(before), *range(k * sc.N_PATCHES, (k + 1) * sc.N_PATCHES), *[-1] * len(after)]
    return np.array(ids), np.array(patch)


@dataclasses.dataclass
class Batch:
    ids: torch.Tensor  # [b, prefix], 0 at rows
    is_row: torch.Tensor  # [b, prefix]
    source: torch.Tensor  # [b, kept] rows of the pool
    positions: torch.Tensor  # [b, prefix + questions * length]
    asked: torch.Tensor  # [b, questions, length]
    target: torch.Tensor  # [b, questions, length], -100 where nothing is learnt
    task: Array  # [b, questions] index into TASK_NAMES
    aux: torch.Tensor  # [b, kept, len(AUX)]
    clues: torch.Tensor  # [b, questions, kept] rows that tell the answer
    questions: list[list[al.Question]]
    albums: list[al.Album]


def keep_rows(rng: np.random.Generator, b: int, n: int, mode: str | float) -> Array:
    """Which patches stay, ascending, [b, kept]: "full", "cell" (one of each cell), or a share to keep."""
    total = n * sc.N_PATCHES
    if mode == "full":
        return np.broadcast_to(np.arange(total), (b, total))
    if mode == "cell":
        members = np.argsort(sc.patch_cells(), kind="stable").reshape(sc.N_CELLS, 4)
        # The same for all images of an album, so that frames can still be compared patch by patch.
        pick = np.broadcast_to(rng.integers(0, 4, (b, 1, sc.N_CELLS)), (b, n, sc.N_CELLS))
        patches = members[np.arange(sc.N_CELLS), pick] + np.arange(n)[None, :, None] * sc.N_PATCHES
        return np.sort(patches.reshape(b, -1), axis=1)
    kept = max(n, round(total * float(mode)))
    return np.sort(np.argsort(rng.random((b, total)), axis=1)[:, :kept], axis=1)


def make_batch(
    pool: Pool,
    rng: np.random.Generator,
    *,
    b: int,
    n: int,
    n_questions: int,
    kinds: Sequence[float] = (0.5, 0.33, 0.17),
    keep: str | float = "full",
    gap: int = 0,
    choice_share: float = 0.3,
    weights: dict[str, float] | None = None,
    first: int = 1,
) -> Batch:
    store = pool.store
    names = list(al.MAKERS)
    albums = []
    for kind in rng.choice(len(names), b, p=np.array(kinds) / sum(kinds)):
        albums.append(al.MAKERS[names[kind]](store, rng, n))
    for album in albums:
        album.first = first
    questions = [_ask(store, album, rng, n_questions, choice_share, weights) for album in albums]
    return assemble(pool, rng, albums, questions, keep=keep, gap=gap)


def _ask(
    store: al.Store,
    album: al.Album,
    rng: np.random.Generator,
    count: int,
    choice_share: float,
    weights: dict[str, float] | None,
) -> list[al.Question]:
    asker = al.Asker(store, album, rng, choice_share)
    tasks = EXTRA[album.kind]
    p = np.array([(weights or {}).get(t, 1.0) * (1.0 if al.TASKS[t] == album.kind else 0.4) for t in tasks])
    out: list[al.Question] = []
    while len(out) < count:
        for t in rng.choice(len(tasks), count, p=p / p.sum()):
            q = asker.ask(tasks[t])
            if q is not None and len(out) < count:
                out.append(q)
    return out


def assemble(
    pool: Pool,
    rng: np.random.Generator,
    albums: list[al.Album],
    questions: list[list[al.Question]],
    *,
    keep: str | float = "full",
    gap: int = 0,
) -> Batch:
    b, n = len(albums), len(albums[0].pictures)
    pictures = np.array([a.pictures for a in albums])
    ids, patch = layout(n, albums[0].first)
    kept = keep_rows(rng, b, n, keep)  # [b, k]
    stays = np.zeros((b, n * sc.N_PATCHES), bool)
    np.put_along_axis(stays, kept, True, axis=1)
    stays = np.where(patch[None] >= 0, stays[:, patch.clip(0)], True)
    places = np.nonzero(stays)[1].reshape(b, -1)
    source = np.take_along_axis(pictures, kept // sc.N_PATCHES, 1) * sc.N_PATCHES + kept % sc.N_PATCHES

    encoded = [[(vocab.question(q.prompt), vocab.answer(q.answer)) for q in qs] for qs in questions]
    length = max(len(q) + len(a) for qs in encoded for q, a in qs) - 1
    asked = np.zeros((b, len(questions[0]), length), np.int64)
    target = np.full_like(asked, -100)
    for i, qs in enumerate(encoded):
        for j, (q, a) in enumerate(qs):
            both = q + a
            asked[i, j, : len(both) - 1] = both[:-1]
            target[i, j, len(q) - 1 : len(both) - 1] = a
    after = len(ids) + gap + np.tile(np.arange(length), len(questions[0]))
    return Batch(
        torch.from_numpy(ids.clip(0)[places]),
        torch.from_numpy(ids[places] < 0),
        torch.from_numpy(source),
        torch.from_numpy(np.concatenate([places, np.broadcast_to(after, (b, len(after)))], 1)),
        torch.from_numpy(asked),
        torch.from_numpy(target),
        np.array([[TASK_NAMES.index(q.task) for q in qs] for qs in questions]),
        torch.from_numpy(_aux(pool, albums, pictures, kept)),
        torch.from_numpy(_clues(questions, n, kept)),
        questions,
        albums,
    )


def _clues(questions: list[list[al.Question]], n: int, kept: Array) -> Array:
    table = np.zeros((len(questions), len(questions[0]), n, sc.N_CELLS), bool)
    for i, qs in enumerate(questions):
        for j, q in enumerate(qs):
            for k, cells in q.clues:
                table[i, j, k, cells] = True
    image, cell = kept // sc.N_PATCHES, sc.patch_cells()[kept % sc.N_PATCHES]
    return table[np.arange(len(questions))[:, None], :, image, cell].transpose(0, 2, 1)


def _aux(pool: Pool, albums: list[al.Album], pictures: Array, kept: Array) -> Array:
    """Labels for the throw-away heads, see lm.AUX."""
    b, n = pictures.shape
    image, spot = kept // sc.N_PATCHES, kept % sc.N_PATCHES
    cell = sc.patch_cells()[spot]
    out = np.zeros((b, kept.shape[1], 8), np.int64)
    out[..., 0] = image + albums[0].first
    thing = pool.thing[np.take_along_axis(pictures, image, 1), spot]
    key = (np.arange(b)[:, None] * n + image) * 16 + thing
    first = np.zeros(key.size, bool)
    first[np.unique(key, return_index=True)[1]] = True
    out[..., 1] = np.where(thing == 0, 0, np.where(first.reshape(key.shape), 1, 2))
    out[..., 2] = cell
    scenes, who = pool.store.scenes, np.arange(b)[:, None]
    shape, colour = scenes.shape[pictures], scenes.colour[pictures]  # [b, n, 9]
    before = (image - 1).clip(0)
    for column, values in ((3, shape), (4, colour)):
        out[..., column] = np.where(image > 0, values[who, before, cell], -100)
    code = (shape * 16 + colour) * (shape > 0)
    mine = code[who, image, cell]
    match = code[who, before] == mine[..., None]  # [b, kept, 9]
    known = (image > 0) & (mine > 0) & (match.sum(-1) == 1)
    source = match.argmax(-1)
    out[..., 5] = np.where(known, source + 1, 0)
    down, across = cell // 3 - source // 3, cell % 3 - source % 3
    straight = np.where(across == 0, np.where(down < 0, 1, 2), np.where(across < 0, 3, 4))
    came = np.where((down != 0) & (across != 0), 5, straight)
    out[..., 6] = np.where(known & (source != cell), came, 0)
    flat = code.reshape(b, -1)
    alike = (flat[:, :, None] == flat[:, None, :]) & np.tri(flat.shape[1], dtype=bool)
    place = image * sc.N_CELLS + cell
    out[..., 7] = np.where(mine > 0, np.minimum(alike.sum(-1)[who, place], 6), 0)
    return out
