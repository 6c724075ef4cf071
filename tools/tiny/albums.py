"""Albums: sets of pictures that belong together, and every question that can be asked about them.

A `Store` holds pictures with what is in them: single scenes, near-blank grounds, and groups of near-duplicate
frames (six states of one scene, each rendered twice). Albums are lists of picture numbers, so training
combines a finite pool in endlessly many ways, and the test set is the same code over a store of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import scenes as sc

Array = np.ndarray
STATES, RENDERS = 6, 2
GROUP = STATES * RENDERS
S_START, S_MIDDLE, S_END, S_COLOUR, S_SHAPE, S_MOVED = range(STATES)
MAX_COUNT = 6


@dataclasses.dataclass
class Store:
    """Pictures in the order single, blank, sparse (one thing each), groups."""

    scenes: sc.Scenes
    n_single: int
    n_blank: int
    n_sparse: int
    directions: list[str]  # of each group, from S_START to S_END
    by_pair: dict[tuple[int, int], Array] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        found: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.pairs: list[dict[tuple[int, int], int]] = []
        self.texts: list[str] = []
        for i in range(len(self.scenes)):
            count: dict[tuple[int, int], int] = {}
            for cell in np.flatnonzero(self.scenes.shape[i]):
                pair = (int(self.scenes.shape[i, cell]) - 1, int(self.scenes.colour[i, cell]) - 1)
                count[pair] = count.get(pair, 0) + 1
            self.pairs.append(count)
            self.texts.append(sc.decode_text(self.scenes.text[i]))
            if i < self.n_single:
                for pair in count:
                    found[pair].append(i)
        self.by_pair = {pair: np.array(members) for pair, members in found.items()}
        first = self.n_single + self.n_blank
        self.sparse = np.arange(first, first + self.n_sparse)
        self.first_frame = first + self.n_sparse
        self.n_groups = len(self.directions)

    def frame(self, group: int, state: int, take: int) -> int:
        return self.first_frame + group * GROUP + state * RENDERS + take % RENDERS


def make_store(seed: int, *, singles: int, blanks: int, sparse: int, groups: int, held_out: bool) -> Store:
    rng = np.random.default_rng(seed)
    half = sparse // 2
    parts = [
        sc.random_scenes(rng, singles, objects=(1, 3), text_share=0.4, held_out=held_out),
        sc.empty(rng, blanks),
        sc.random_scenes(rng, half, objects=(1, 1), text_share=0.0, held_out=held_out),
        sc.random_scenes(rng, sparse - half, objects=(0, 0), text_share=1.0, held_out=held_out),
    ]
    directions = []
    for _ in range(groups):
        frames, direction = _group(rng, held_out)
        parts.append(frames)
        directions.append(direction)
    return Store(sc.Scenes.concatenate(parts), singles, blanks, sparse, directions)


BLOCK = 256


def render_block(store: Store, seed: int, block: int) -> Array:
    """Pictures block * 256 and on. Blocks have seeds of their own, so any of them can be made alone."""
    start = block * BLOCK
    stop = min(len(store.scenes), start + BLOCK)
    return sc.render(store.scenes[slice(start, stop)], np.random.default_rng((seed, start)))


def _group(rng: np.random.Generator, held_out: bool) -> tuple[sc.Scenes, str]:
    """Six states of a scene: an object at three places of a line, and three changes from the middle one."""
    while True:
        base = sc.random_scenes(rng, 1, objects=(0, 0), text_share=0.4, held_out=held_out)
        across, line = bool(rng.integers(2)), int(rng.integers(sc.GRID))
        path = [line * sc.GRID + k if across else k * sc.GRID + line for k in range(sc.GRID)]
        backwards = bool(rng.integers(2))
        path = path[::-1] if backwards else path
        taken = {int(base.text_cell[0]), int(base.text_cell[0]) + 1} if base.text_cell[0] >= 0 else set()
        free = [c for c in range(sc.N_CELLS) if c not in taken and c not in path]
        if taken & set(path) or len(free) < 2:
            continue
        rng.shuffle(free)
        others = free[: 1 + int(rng.integers(min(2, len(free) - 1)))]
        cells = np.array([path[1], *others])
        shape, colour = sc.draw_pairs(rng, cells, held_out=held_out)
        if len(set(zip(shape, colour, strict=True))) < len(cells):
            continue
        states = sc.Scenes.concatenate([base] * STATES)
        for s in range(STATES):
            states.shape[s, cells], states.colour[s, cells] = shape, colour
        for s, cell in ((S_START, path[0]), (S_END, path[2])):
            _move(states, s, path[1], cell)
        j = int(rng.integers(len(cells)))
        states.colour[S_COLOUR, cells[j]] = (colour[j] - 1 + rng.integers(1, sc.N_COLOURS)) % sc.N_COLOURS + 1
        j = int(rng.integers(len(cells)))
        states.shape[S_SHAPE, cells[j]] = (shape[j] - 1 + rng.integers(1, sc.N_SHAPES)) % sc.N_SHAPES + 1
        free = [c for c in range(sc.N_CELLS) if c not in taken and c not in cells]
        _move(states, S_MOVED, int(cells[rng.integers(1, len(cells))]), int(rng.choice(free)))
        there = states.shape > 0
        known = ~sc.HELD_OUT[states.shape - 1, states.colour - 1, np.arange(sc.N_CELLS)[None]]
        if held_out or known[there].all():
            break
    # One look for all cells: an object keeps its size, turn and tint when it moves.
    for part, width in ((sc.L_VARIANT, 9), (sc.L_DY, 9), (sc.L_DX, 9), (sc.L_TINT, 27)):
        step = width // 9
        states.look[:, part] = np.tile(states.look[0, part][:step], 9)
    direction = ("left" if backwards else "right") if across else ("up" if backwards else "down")
    return states[np.repeat(np.arange(STATES), RENDERS)], direction


def _move(states: sc.Scenes, s: int, old: int, new: int) -> None:
    for part in (states.shape, states.colour):
        part[s, new], part[s, old] = part[s, old], 0


@dataclasses.dataclass
class Question:
    task: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()  # listed in the prompt
    implied: tuple[str, ...] = ()  # not listed, but there is no other answer: scored as a choice, too
    clues: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)  # image, cells that tell

    @property
    def prompt(self) -> str:
        return self.text + (f" Options: {', '.join(self.choices)}." if self.choices else "")


@dataclasses.dataclass
class Album:
    kind: str
    pictures: list[int]
    direction: str = ""
    mover: tuple[int, int] = (-1, -1)
    changes: tuple[str, ...] = ()  # from each picture to the next, for frames
    first: int = 1  # number of the first image; training starts elsewhere, too, to see all numbers early


def mixed(store: Store, rng: np.random.Generator, n: int) -> Album:
    """Unrelated pictures; two combinations of shape and colour are planted to make counting interesting."""
    pictures = rng.integers(0, store.n_single, n)
    slots = rng.permutation(n)
    pairs = list(store.by_pair)
    for _ in range(2):
        count = int(rng.integers(0, min(MAX_COUNT, n) + 1))
        members = store.by_pair[pairs[rng.integers(len(pairs))]]
        pictures[slots[:count]] = members[rng.integers(0, len(members), len(slots[:count]))]
        slots = slots[count:]
    return Album("mixed", [int(p) for p in pictures])


def frames(store: Store, rng: np.random.Generator, n: int) -> Album:
    """Near-duplicate frames: something moves along a line, or single changes come and go."""
    group = int(rng.integers(store.n_groups))
    if rng.random() < 0.5:
        cuts = np.sort(rng.choice(np.arange(1, n), min(n - 1, 1 + int(rng.integers(2))), replace=False))
        states = np.searchsorted(cuts, np.arange(n), side="right")
        if len(cuts) == 1:
            states += int(rng.integers(2))
        direction, moving = store.directions[group], True
        if rng.random() < 0.5:
            states = 2 - states
            direction = {"left": "right", "right": "left", "up": "down", "down": "up"}[direction]
    else:
        stay = 0.35 if n <= 8 else 0.6
        state = S_MIDDLE if rng.random() < 0.5 else int(rng.integers(STATES))
        walk = [state]
        for _ in range(n - 1):
            if rng.random() > stay:
                state = S_MIDDLE if state != S_MIDDLE else int(rng.choice([0, 2, S_COLOUR, S_SHAPE, S_MOVED]))
            walk.append(state)
        states, direction, moving = np.array(walk), "", False
    takes = rng.integers(0, RENDERS) + np.arange(n)
    pictures = [store.frame(group, int(s), int(t)) for s, t in zip(states, takes, strict=True)]
    kinds = dict.fromkeys((S_START, S_END, S_MOVED), "position") | {S_COLOUR: "colour", S_SHAPE: "shape"}
    changes = tuple(
        "nothing" if a == b else kinds[int(a if b == S_MIDDLE else b)] for a, b in itertools.pairwise(states)
    )
    album = Album("frames", pictures, direction, changes=changes)
    if moving:
        start, end = (store.scenes[np.array([store.frame(group, s, 0)])] for s in (S_START, S_END))
        cell = int(np.flatnonzero((start.shape[0] > 0) & (end.shape[0] == 0))[0])
        album.mover = (int(start.shape[0, cell]) - 1, int(start.colour[0, cell]) - 1)
    return album


def haystack(store: Store, rng: np.random.Generator, n: int) -> Album:
    """One informative picture among near-blank ones, or a text among near-duplicates without any."""
    needle = int(store.sparse[rng.integers(len(store.sparse))])
    if store.texts[needle] and rng.random() < 0.5:
        while True:
            group = int(rng.integers(store.n_groups))
            if not store.texts[store.frame(group, S_MIDDLE, 0)]:
                break
        hay = [store.frame(group, S_MIDDLE, t) for t in range(n)]
    else:
        hay = [int(p) for p in store.n_single + rng.integers(0, store.n_blank, n)]
    hay[int(rng.integers(n))] = needle
    return Album("haystack", hay)


MAKERS: dict[str, Callable[[Store, np.random.Generator, int], Album]] = {
    "mixed": mixed,
    "frames": frames,
    "haystack": haystack,
}


def name(pair: tuple[int, int]) -> str:
    return f"{sc.COLOUR_NAMES[pair[1]]} {sc.SHAPES[pair[0]]}"


class Asker:
    """Draws questions about one album, each task among those it allows, balanced over answers."""

    def __init__(
        self, store: Store, album: Album, rng: np.random.Generator, choice_share: float = 0.3
    ) -> None:
        self.store, self.album, self.rng = store, album, rng
        self.choice_share = choice_share
        self.base = album.first
        self.where: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.total: dict[tuple[int, int], int] = defaultdict(int)
        for k, picture in enumerate(album.pictures):
            for pair, count in store.pairs[picture].items():
                self.where[pair].append(k)
                self.total[pair] += count
        self.with_text = [k for k, p in enumerate(album.pictures) if store.texts[p]]
        self.alone = [pair for pair, ks in self.where.items() if len(ks) == 1]

    def _cells(self, k: int, pair: tuple[int, int]) -> tuple[int, list[int]]:
        scenes, p = self.store.scenes, self.album.pictures[k]
        there = (scenes.shape[p] == pair[0] + 1) & (scenes.colour[p] == pair[1] + 1)
        return k, np.flatnonzero(there).tolist()

    def _text_cells(self, k: int) -> tuple[int, list[int]]:
        left = int(self.store.scenes.text_cell[self.album.pictures[k]])
        return k, [left, left + 1]

    def _changed_cells(self, k: int) -> tuple[int, list[int]]:
        scenes, (a, b) = self.store.scenes, self.album.pictures[k - 1 : k + 1]
        new = (scenes.shape[a] != scenes.shape[b]) | (scenes.colour[a] != scenes.colour[b])
        return k, np.flatnonzero(new & (scenes.shape[b] > 0)).tolist()

    def _pick(self, options: Sequence) -> object:
        return options[int(self.rng.integers(len(options)))]

    def ask(self, task: str) -> Question | None:
        """A question of the task, or None when the album allows none."""
        q = getattr(self, f"_{task}")()
        if q is not None:
            q.task = task
        return q

    def _choices(self, answer: str, others: Sequence[str], at_most: int = 4) -> tuple[str, ...]:
        """Options in random order for a share of the questions."""
        wrong = sorted(set(others) - {answer})
        if not wrong or self.rng.random() >= self.choice_share:
            return ()
        count = min(len(wrong), at_most - 1)
        picked = [wrong[i] for i in self.rng.choice(len(wrong), count, replace=False)]
        picked.insert(int(self.rng.integers(count + 1)), answer)
        return tuple(picked)

    def _numbers(self) -> list[str]:
        return [str(k + self.base) for k in range(len(self.album.pictures))]

    def _find(self) -> Question | None:
        if not self.alone:
            return None
        pair = self._pick(self.alone)
        k = self.where[pair][0]
        answer, text = str(k + self.base), f"Which image has a {name(pair)}?"
        choices = self._choices(answer, self._numbers())
        return Question("", text, answer, choices, clues=[self._cells(k, pair)])

    def _read(self) -> Question | None:
        if not self.with_text:
            return None
        k = self._pick(self.with_text)
        answer = self.store.texts[self.album.pictures[k]]
        others = [self.store.texts[self.album.pictures[i]] for i in self.with_text]
        text, choices = f"What text is in image {k + self.base}?", self._choices(answer, others, 3)
        return Question("", text, answer, choices, clues=[self._text_cells(k)])

    def _count(self) -> Question | None:
        totals: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for pair, total in self.total.items():
            if total <= MAX_COUNT:
                totals[total].append(pair)
        absent = [p for p in self.store.by_pair if p not in self.total]
        if absent:
            totals[0] = absent
        total = self._pick(sorted(totals))
        pair = self._pick(totals[total])
        answer, text = str(total), f"How many times is there a {name(pair)}?"
        choices = self._choices(answer, [str(c) for c in range(MAX_COUNT + 1)])
        # The last of them: its rows know how many there were before.
        clues = [self._cells(k, pair) for k in self.where.get(pair, [])[-1:]]
        clues = [(k, cells[-1:]) for k, cells in clues]
        return Question("", text, answer, choices, clues=clues)

    def _change_pair(self, wanted: str) -> int:
        return int(self._pick([k for k, c in enumerate(self.album.changes) if c == wanted]))

    def _same(self) -> Question | None:
        changes = self.album.changes
        if not changes:
            return None
        same = self._pick(sorted({c == "nothing" for c in changes}))
        k = int(self._pick([k for k, c in enumerate(changes) if (c == "nothing") == same]))
        answer = "yes" if same else "no"
        text = f"Are image {k + self.base} and image {k + self.base + 1} the same?"
        return Question("", text, answer, implied=("yes", "no"), clues=[self._changed_cells(k + 1)])

    def _change(self) -> Question | None:
        if not self.album.changes:
            return None
        answer = str(self._pick(sorted(set(self.album.changes))))
        k = self._change_pair(answer)
        text = f"What changed from image {k + self.base} to image {k + self.base + 1}?"
        choices = self._choices(answer, ["colour", "shape", "position", "nothing"])
        return Question("", text, answer, choices, clues=[self._changed_cells(k + 1)])

    def _direction(self) -> Question | None:
        if not self.album.direction:
            return None
        text = f"Which way does the {name(self.album.mover)} move?"
        answer = self.album.direction
        choices = self._choices(answer, ["left", "right", "up", "down"])
        moved = [k for k, change in enumerate(self.album.changes, 1) if change != "nothing"]
        clues = [self._cells(k, self.album.mover) for k in moved]
        return Question("", text, answer, choices, clues=clues)

    def _first(self) -> Question | None:
        if self.album.kind != "mixed" or len(self.alone) < 2:
            return None
        a, b = (self.alone[i] for i in self.rng.choice(len(self.alone), 2, replace=False))
        if self.where[a][0] == self.where[b][0]:
            return None
        early = a if self.where[a][0] < self.where[b][0] else b
        answer, text = name(early), f"Which is seen first, a {name(a)} or a {name(b)}?"
        clues = [self._cells(self.where[early][0], early)]
        return Question("", text, answer, implied=(name(a), name(b)), clues=clues)

    def _attribute(self) -> Question | None:
        """An attribute that the other names uniquely within its image."""
        k = int(self.rng.integers(len(self.album.pictures)))
        pairs = [p for p, c in self.store.pairs[self.album.pictures[k]].items() for _ in range(c)]
        by_shape = bool(self.rng.integers(2))
        side = 0 if by_shape else 1
        options = [p for p in pairs if sum(o[side] == p[side] for o in pairs) == 1]
        if not options:
            return None
        shape, colour = self._pick(options)
        if by_shape:
            answer, names = sc.COLOUR_NAMES[colour], sc.COLOUR_NAMES
            text = f"What colour is the {sc.SHAPES[shape]} in image {k + self.base}?"
        else:
            answer, names = sc.SHAPES[shape], sc.SHAPES
            text = f"What shape is the {sc.COLOUR_NAMES[colour]} object in image {k + self.base}?"
        clues = [self._cells(k, (shape, colour))]
        return Question("", text, answer, self._choices(answer, names), clues=clues)

    def _needle(self) -> Question | None:
        if self.album.kind != "haystack":
            return None
        if len(self.with_text) == 1:
            k = self.with_text[0]
            clues = [self._text_cells(k)]
            if self.rng.random() < 0.5:
                answer = self.store.texts[self.album.pictures[k]]
                return Question("", "What text is in the images?", answer, clues=clues)
            answer, text = str(k + self.base), "Which image has a text?"
            return Question("", text, answer, self._choices(answer, self._numbers()), clues=clues)
        shape, colour = self.alone[0]
        k = self.where[shape, colour][0]
        clues = [self._cells(k, (shape, colour))]
        form = int(self.rng.integers(3))
        if form == 0:
            answer = sc.COLOUR_NAMES[colour]
            text = f"What colour is the {sc.SHAPES[shape]}?"
            return Question("", text, answer, self._choices(answer, sc.COLOUR_NAMES), clues=clues)
        if form == 1:
            answer = sc.SHAPES[shape]
            text = f"What shape is the {sc.COLOUR_NAMES[colour]} object?"
            return Question("", text, answer, self._choices(answer, sc.SHAPES), clues=clues)
        answer, text = str(k + self.base), f"Which image has a {name((shape, colour))}?"
        return Question("", text, answer, self._choices(answer, self._numbers()), clues=clues)


# Which album each task is asked about. Several tasks make up one of the seven of the table.
TASKS: dict[str, str] = {
    "find": "mixed",
    "read": "mixed",
    "count": "mixed",
    "same": "frames",
    "change": "frames",
    "direction": "frames",
    "first": "mixed",
    "attribute": "mixed",
    "needle": "haystack",
}
TABLE = {
    "find": "1-find",
    "read": "2-read",
    "count": "3-count",
    "same": "4-change",
    "change": "4-change",
    "direction": "5-order",
    "first": "5-order",
    "attribute": "6-attribute",
    "needle": "7-needle",
}
