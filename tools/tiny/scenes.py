"""Scenes of coloured shapes and short texts on textured ground, and a renderer that draws thousands a second.

A picture has 96 x 96 pixels: 3 x 3 cells of 32 pixels, 6 x 6 patches of 16. An object lies in one cell and
covers about four patches; a text of three signs covers two cells side by side. What is in a scene is a row of
small integer arrays; how it looks (ground, sizes, turns, offsets, tints) is a second set, so near-duplicate
frames share the look and differ in the content. Every rendering adds its own small shifts and noise.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray
SIZE, CELL, PATCH, GRID = 96, 32, 16, 3
N_CELLS = GRID * GRID
N_PATCHES = (SIZE // PATCH) ** 2

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "orange": (245, 140, 20),
    "yellow": (240, 225, 50),
    "green": (45, 165, 55),
    "cyan": (55, 215, 225),
    "blue": (45, 75, 220),
    "purple": (140, 50, 185),
    "pink": (250, 135, 195),
}
COLOUR_NAMES = tuple(COLOURS)
N_SHAPES, N_COLOURS = len(SHAPES), len(COLOURS)
SIGNS = "0123456789" + "ABDEFHKLMNPRTUX"  # letters that are hard to take for another sign
CONSONANTS, VOWELS = "BDFHKLMNPRTX", "AEU"
N_VARIANTS = 28  # turns x sizes of every shape
N_FONTS = 5
N_TEXTURES = 400

_TEXTS = [str(n) for n in range(400, 1000)] + [
    a + v + b for a in CONSONANTS for v in VOWELS for b in CONSONANTS
]


def _hold_out() -> tuple[Array, Array]:
    """What training never shows: some shape-colour pairs everywhere, some in one cell, and some texts."""
    rng = np.random.default_rng(20240611)
    triples = rng.random((N_SHAPES, N_COLOURS, N_CELLS)) < 0.1
    for shape, colour in ((3, 0), (5, 5), (6, 3), (1, 6)):  # red star, blue ring, green heart, purple square
        triples[shape, colour] = True
    return triples, rng.random(len(_TEXTS)) < 0.1


HELD_OUT, TEXT_HELD_OUT = _hold_out()
TEXTS_TRAIN = [text for text, out in zip(_TEXTS, TEXT_HELD_OUT, strict=True) if not out]
TEXTS_ALL = list(_TEXTS)


@dataclasses.dataclass
class Scenes:
    """A batch of scenes. Shapes and colours count from 1, 0 is nothing; `text` holds sign numbers from 1."""

    shape: Array  # [n, 9]
    colour: Array  # [n, 9]
    text: Array  # [n, 3]
    text_cell: Array  # [n], the left of two cells; -1 without text
    look: Array  # [n, LOOK], see new_looks

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Array | slice) -> Scenes:
        return Scenes(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def copy(self) -> Scenes:
        return Scenes(*(getattr(self, f.name).copy() for f in dataclasses.fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[Scenes]) -> Scenes:
        names = [f.name for f in dataclasses.fields(Scenes)]
        return Scenes(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


# Columns of `look`, all floats.
L_TEXTURE, L_TOP, L_LEFT, L_BASE, L_AMP, L_NOISE = 0, 1, 2, slice(3, 6), slice(6, 9), 9
L_FONT, L_DARK, L_PLATE, L_TEXT_Y, L_TEXT_X, L_SPECKS = 10, 11, 12, 13, 14, 15
L_VARIANT, L_DY, L_DX = slice(16, 25), slice(25, 34), slice(34, 43)
L_TINT = slice(43, 70)
L_SEED = 70
LOOK = 71


def new_looks(rng: np.random.Generator, n: int) -> Array:
    look = np.zeros((n, LOOK), np.float32)
    look[:, L_TEXTURE] = rng.integers(0, N_TEXTURES, n)
    look[:, L_TOP] = rng.integers(0, 33, n)
    look[:, L_LEFT] = rng.integers(0, 33, n)
    grey = rng.uniform(50, 200, (n, 1))
    look[:, L_BASE] = grey + rng.uniform(-28, 28, (n, 3))
    look[:, L_AMP] = rng.uniform(8, 42, (n, 1)) + rng.uniform(-10, 10, (n, 3))
    look[:, L_NOISE] = rng.uniform(1, 9, n)
    look[:, L_FONT] = rng.integers(0, N_FONTS, n)
    look[:, L_DARK] = rng.integers(0, 2, n)
    look[:, L_PLATE] = rng.uniform(0.35, 0.95, n)
    look[:, L_TEXT_Y] = rng.uniform(-4, 4, n)
    look[:, L_TEXT_X] = rng.uniform(-7, 7, n)
    look[:, L_SPECKS] = np.where(rng.random(n) < 0.5, rng.integers(1, 8, n), 0)
    look[:, L_VARIANT] = rng.integers(0, N_VARIANTS, (n, 9))
    look[:, L_DY] = rng.uniform(-4, 4, (n, 9))
    look[:, L_DX] = rng.uniform(-4, 4, (n, 9))
    look[:, L_TINT] = rng.normal(0, 11, (n, 27)).clip(-22, 22)
    look[:, L_SEED] = rng.integers(0, 1 << 20, n)
    return look


def empty(rng: np.random.Generator, n: int) -> Scenes:
    nothing = np.zeros((n, N_CELLS), np.int64)
    return Scenes(
        nothing, nothing.copy(), np.zeros((n, 3), np.int64), np.full(n, -1, np.int64), new_looks(rng, n)
    )


def encode_text(text: str) -> list[int]:
    return [SIGNS.index(c) + 1 for c in text]


def decode_text(signs: Array) -> str:
    return "".join(SIGNS[s - 1] for s in signs if s > 0)


@functools.cache
def _text_table(held_out: bool) -> Array:
    return np.array([encode_text(t) for t in (TEXTS_ALL if held_out else TEXTS_TRAIN)])


def draw_pairs(rng: np.random.Generator, cells: Array, *, held_out: bool) -> tuple[Array, Array]:
    """A shape and a colour for each of the given cells; combinations that are held out only on request."""
    shape = rng.integers(0, N_SHAPES, cells.shape)
    colour = rng.integers(0, N_COLOURS, cells.shape)
    while not held_out and (bad := HELD_OUT[shape, colour, cells]).any():
        shape[bad] = rng.integers(0, N_SHAPES, bad.sum())
        colour[bad] = rng.integers(0, N_COLOURS, bad.sum())
    return shape + 1, colour + 1


def random_scenes(
    rng: np.random.Generator,
    n: int,
    *,
    objects: tuple[int, int] = (1, 4),
    text_share: float = 0.35,
    twin_share: float = 0.15,
    held_out: bool = False,
) -> Scenes:
    """Scenes with a number of objects within the given bounds; some have a text, some an object twice."""
    scenes = empty(rng, n)
    order = rng.permuted(np.tile(np.arange(N_CELLS), (n, 1)), axis=1)
    has_text = rng.random(n) < text_share
    row, col = rng.integers(0, GRID, n), rng.integers(0, GRID - 1, n)
    scenes.text_cell[has_text] = (row * GRID + col)[has_text]
    table = _text_table(held_out)
    # Numbers and words equally often.
    n_numbers = int((table[:, 0] <= 10).sum())
    pick = np.where(
        rng.random(n) < 0.5, rng.integers(0, n_numbers, n), rng.integers(n_numbers, len(table), n)
    )
    scenes.text[has_text] = table[pick][has_text]
    used = (order == scenes.text_cell[:, None]) | (order == scenes.text_cell[:, None] + 1)
    used &= has_text[:, None]
    # Free cells first; stable, so the order stays random.
    order = np.take_along_axis(order, np.argsort(used, axis=1, kind="stable"), axis=1)
    n_objects = rng.integers(objects[0], objects[1] + 1, n)
    shape, colour = draw_pairs(rng, order, held_out=held_out)
    twin = (rng.random(n) < twin_share) & (n_objects >= 2)
    twin &= held_out | ~HELD_OUT[shape[:, 0] - 1, colour[:, 0] - 1, order[:, 1]]
    shape[twin, 1], colour[twin, 1] = shape[twin, 0], colour[twin, 0]
    present = np.arange(N_CELLS)[None] < n_objects[:, None]
    np.put_along_axis(scenes.shape, order, np.where(present, shape, 0), axis=1)
    np.put_along_axis(scenes.colour, order, np.where(present, colour, 0), axis=1)
    return scenes


# --- sprites


def _outline(shape: str, radius: float) -> list[tuple[float, float]]:
    def ring(n: int, radii: Sequence[float], start: float) -> list[tuple[float, float]]:
        return [
            (
                radii[k % len(radii)] * math.cos(start + 2 * math.pi * k / n),
                radii[k % len(radii)] * math.sin(start + 2 * math.pi * k / n),
            )
            for k in range(n)
        ]

    if shape == "square":
        return ring(4, [radius * 1.12], math.pi / 4)
    if shape == "triangle":
        return ring(3, [radius * 1.15], -math.pi / 2)
    if shape == "star":
        return ring(10, [radius * 1.15, radius * 0.45], -math.pi / 2)
    if shape == "cross":
        a, b = radius, radius * 0.36
        return [
            (-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b),
            (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b),
        ]  # fmt: skip
    if shape == "heart":
        steps = np.linspace(0, 2 * math.pi, 60)
        x = 16 * np.sin(steps) ** 3
        y = -(13 * np.cos(steps) - 5 * np.cos(2 * steps) - 2 * np.cos(3 * steps) - np.cos(4 * steps))
        return [(float(a) * radius / 16, float(b) * radius / 16) for a, b in zip(x, y, strict=True)]
    raise ValueError(shape)


def _sprite(shape: str, radius: float, turn: float) -> Array:
    scale = 4
    canvas = Image.new("L", (CELL * scale, CELL * scale))
    draw = ImageDraw.Draw(canvas)
    middle, r = CELL * scale / 2, radius * scale

    def disc(x: float, y: float, size: float, fill: int) -> None:
        draw.ellipse((middle + x - size, middle + y - size, middle + x + size, middle + y + size), fill=fill)

    c, s = math.cos(turn), math.sin(turn)
    if shape in ("circle", "ring", "moon"):
        disc(0, 0, r, 255)
        if shape == "ring":
            disc(0, 0, r * 0.52, 0)
        if shape == "moon":
            disc(r * 0.5 * c, r * 0.5 * s, r * 0.85, 0)
    else:
        draw.polygon([(middle + x * c - y * s, middle + x * s + y * c) for x, y in _outline(shape, r)], 255)
    small = canvas.resize((CELL, CELL), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


@functools.cache
def sprite_bank() -> Array:
    """[shape, variant, 32, 32] coverage in 0..1."""
    turns, radii = np.linspace(-0.35, 0.35, 7), (9.5, 11.0, 12.0, 13.0)
    bank = [[_sprite(shape, r, float(t)) for r in radii for t in turns] for shape in SHAPES]
    return np.array(bank, np.float32)


@functools.cache
def glyph_bank() -> tuple[Array, Array]:
    """[font, sign, 24, 20] coverage and [font, sign] advance widths, from Pillow's own font."""
    masks = np.zeros((N_FONTS, len(SIGNS), 24, 20), np.float32)
    widths = np.zeros((N_FONTS, len(SIGNS)), np.float32)
    for f, size in enumerate((19, 21, 22, 24, 25)):
        font = ImageFont.load_default(size)
        for i, sign in enumerate(SIGNS):
            canvas = Image.new("L", (20, 24))
            box = font.getbbox(sign)
            draw = ImageDraw.Draw(canvas)
            draw.text((1 - box[0], 12 - (box[1] + box[3]) / 2), sign, fill=255, font=font, stroke_width=f % 2)
            masks[f, i] = np.asarray(canvas, np.float32) / 255
            widths[f, i] = min(18, box[2] - box[0] + 2)
    return masks, widths


@functools.cache
def textures() -> Array:
    """[texture, 128, 128] in about -1..1: clouds, stripes, checks, dots, and mixtures of them."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:128, 0:128].astype(np.float32)
    out = np.zeros((N_TEXTURES, 128, 128), np.float32)
    for t in range(N_TEXTURES):
        total = np.zeros((128, 128), np.float32)
        for coarse in (4, 9, 24):
            small = Image.fromarray(rng.normal(0, 1, (coarse, coarse)).astype(np.float32))
            big = small.resize((128, 128), Image.Resampling.BICUBIC)
            total += np.asarray(big) * rng.uniform(0.1, 0.7)
        angle, period = rng.uniform(0, math.pi), rng.uniform(5, 30)
        along = x * math.cos(angle) + y * math.sin(angle)
        across = -x * math.sin(angle) + y * math.cos(angle)
        kind = rng.integers(0, 5)
        if kind == 1:
            total += np.sin(2 * math.pi * along / period)
        elif kind == 2:
            total += np.sign(np.sin(2 * math.pi * along / period) * np.sin(2 * math.pi * across / period))
        elif kind == 3:
            dots = np.cos(2 * math.pi * along / period) + np.cos(2 * math.pi * across / period)
            total += 2.0 * (dots > 1.1)
        elif kind == 4:
            total += np.sin(2 * math.pi * along / period + 1.5 * total)
        out[t] = (total - total.mean()) / max(float(total.std()), 0.2)
    return out.clip(-2.2, 2.2)


# --- rendering

_PAD = 8  # room around the picture, so that a shifted sprite never needs clipping


def _blend(canvas: Array, who: Array, top: Array, left: Array, alpha: Array, colour: Array) -> None:
    """Draws alpha [m, h, w] in colour [m, 3] into canvas[who] at (top, left), all at once."""
    _, h, w = alpha.shape
    rows = (top + _PAD)[:, None, None] + np.arange(h)[None, :, None]
    cols = (left + _PAD)[:, None, None] + np.arange(w)[None, None, :]
    index = (who[:, None, None], rows, cols)
    under = canvas[index]
    canvas[index] = under + alpha[..., None] * (colour[:, None, None, :] - under)


def _shift(rng: np.random.Generator, n: int) -> Array:
    return np.rint(rng.normal(0, 0.6, n)).clip(-1, 1).astype(np.int64)


def render(scenes: Scenes, rng: np.random.Generator) -> Array:
    """uint8 [n, 96, 96, 3]."""
    n, look = len(scenes), scenes.look
    full = SIZE + 2 * _PAD
    canvas = np.zeros((n, full, full, 3), np.float32)
    top = look[:, L_TOP].astype(int)
    left = look[:, L_LEFT].astype(int)
    inner = canvas[:, _PAD : _PAD + SIZE, _PAD : _PAD + SIZE]
    rows = top[:, None, None] + np.arange(SIZE)[None, :, None]
    cols = left[:, None, None] + np.arange(SIZE)[None, None, :]
    tex = textures()[look[:, L_TEXTURE].astype(int)[:, None, None], rows.clip(0, 127), cols.clip(0, 127)]
    inner[...] = look[:, None, None, L_BASE] + tex[..., None] * look[:, None, None, L_AMP]
    _draw_specks(canvas, scenes)
    _draw_objects(canvas, scenes, rng)
    _draw_texts(canvas, scenes, rng)
    inner *= rng.uniform(0.96, 1.04, (n, 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((n, SIZE, SIZE, 1), dtype=np.float32) * look[:, L_NOISE][:, None, None, None]
    return np.rint(inner + noise).clip(0, 255).astype(np.uint8)


def _draw_specks(canvas: Array, scenes: Scenes) -> None:
    """Small coloured blobs: a saturated colour alone does not make an object."""
    palette = np.array(list(COLOURS.values()), np.float32)
    y, x = np.mgrid[-3:4, -3:4]
    for k in range(7):
        who = np.flatnonzero(scenes.look[:, L_SPECKS] > k)
        if not len(who):
            return
        # Drawn from the look's own seed, so that frames of one group share them.
        seed = scenes.look[who, L_SEED].astype(np.int64) * 7919 + k * 104729
        top, left = seed % (SIZE - 7), seed // 89 % (SIZE - 7)
        radius = 1.2 + (seed // 7919 % 10) / 6.0
        alpha = (radius[:, None, None] + 0.5 - np.hypot(y, x)[None]).clip(0, 1).astype(np.float32) * 0.85
        _blend(canvas, who, top, left, alpha, palette[seed // 13 % N_COLOURS])


def _draw_objects(canvas: Array, scenes: Scenes, rng: np.random.Generator) -> None:
    palette = np.array(list(COLOURS.values()), np.float32)
    bank = sprite_bank()
    for cell in range(N_CELLS):
        who = np.flatnonzero(scenes.shape[:, cell])
        if not len(who):
            continue
        look = scenes.look[who]
        variant = look[:, L_VARIANT][:, cell].astype(int)
        alpha = bank[scenes.shape[who, cell] - 1, variant]
        tint = look[:, L_TINT].reshape(-1, N_CELLS, 3)[:, cell]
        colour = (palette[scenes.colour[who, cell] - 1] + tint).clip(0, 255)
        top = cell // GRID * CELL + np.rint(look[:, L_DY][:, cell]).astype(int) + _shift(rng, len(who))
        left = cell % GRID * CELL + np.rint(look[:, L_DX][:, cell]).astype(int) + _shift(rng, len(who))
        _blend(canvas, who, top, left, alpha, colour)


def _draw_texts(canvas: Array, scenes: Scenes, rng: np.random.Generator) -> None:
    who = np.flatnonzero(scenes.text_cell >= 0)
    if not len(who):
        return
    masks, widths = glyph_bank()
    look = scenes.look[who]
    font = look[:, L_FONT].astype(int)
    signs = scenes.text[who] - 1
    advance = widths[font[:, None], signs]  # [m, 3]
    dark = look[:, L_DARK][:, None]
    ink = dark * np.array([[25, 25, 30]]) + (1 - dark) * np.array([[240, 240, 235]])
    plate = (1 - dark) * np.array([[45, 45, 50]]) + dark * np.array([[215, 215, 205]])
    cell = scenes.text_cell[who]
    top = cell // GRID * CELL + 4 + np.rint(look[:, L_TEXT_Y]).astype(int) + _shift(rng, len(who))
    start = cell % GRID * CELL + 32 - advance.sum(1) / 2 + look[:, L_TEXT_X] + _shift(rng, len(who))
    width = 58
    left = np.rint(cell % GRID * CELL + 32 - width / 2 + look[:, L_TEXT_X] * 0.6).astype(int)
    panel = np.broadcast_to(look[:, L_PLATE][:, None, None], (len(who), 24, width)).astype(np.float32)
    _blend(canvas, who, top, left, panel, plate.astype(np.float32))
    for k in range(3):
        left = np.rint(start + advance[:, :k].sum(1)).astype(int)
        _blend(canvas, who, top, left, masks[font, signs[:, k]], ink.astype(np.float32))


# --- labels of every patch, for the tower


def patch_cells() -> Array:
    """The cell of each of the 36 patches."""
    y, x = np.divmod(np.arange(N_PATCHES), SIZE // PATCH)
    per_cell = CELL // PATCH
    return (y // per_cell) * GRID + x // per_cell


def patch_labels(scenes: Scenes) -> Array:
    """[n, 36, 5]: shape, colour and the three signs of the text, 0 where there is none."""
    n = len(scenes)
    labels = np.zeros((n, N_CELLS, 5), np.int64)
    labels[..., 0], labels[..., 1] = scenes.shape, scenes.colour
    who = np.flatnonzero(scenes.text_cell >= 0)
    for side in (0, 1):
        labels[who, scenes.text_cell[who] + side, 2:] = scenes.text[who]
    return labels[:, patch_cells()]
