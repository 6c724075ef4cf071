"""The engine on memory that is not the host's.

"isolated": the CPU's ops on pages that the host may not touch, so the results are the CPU's to the bit and a
host access that should have been a copy ends the process (tests/engine proves that it does). "cuda": the
CUDA table, on a GPU or in a build that runs its kernels on the host (tests/test_cuda_host.py makes one), for
some of the cases because that is slow; skipped elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CASES, Golden, load_golden, run
from tiny_decoder import Spec, make_model, write_model

from trimtok_cpp import Model, Pruning, Result, UnsupportedError, _core
from trimtok_cpp.images import load_image

# Before the first look at CUDA; a GPU takes no notice.
os.environ.setdefault("TRIMTOK_CUDA_HOST_ISOLATED", "1")
os.environ.setdefault("TRIMTOK_CUDA_HOST_MEMORY_MIB", "512")
NO_CUDA = _core.ops.why_no_cuda()
SELECTORS = ["trimtokenator-lc", "trimtokenator", "divprune", "cdpruner", "random", "uniform", "grid_pool"]
# Of the largest |value|: f16 tensor cores against the CPU's f32.
CUDA_TOLERANCE = 2e-2


def on_devices(name: str, values: list[Any], cuda: list[Any]) -> pytest.MarkDecorator:
    """Every value on "isolated", those of `cuda` on "cuda" too."""
    skip = pytest.mark.skipif(bool(NO_CUDA), reason=f"cuda: {NO_CUDA}")
    cases = [pytest.param("isolated", value, id=f"isolated-{value}") for value in values]
    cases += [pytest.param("cuda", value, id=f"cuda-{value}", marks=skip) for value in cuda]
    return pytest.mark.parametrize(("device", name), cases)


@pytest.fixture(autouse=True)
def isolated_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtok_cpp.model.DEVICES", ("auto", "cpu", "cuda", "isolated"))


def check_equal(device: str, found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    if device == "isolated":
        assert np.array_equal(found, expected)
    else:
        assert (np.abs(found - expected) <= CUDA_TOLERANCE * np.abs(expected).max()).all()


def steps(model: Model) -> dict[str, int]:
    return dict(model.info()["decode_steps"])


def taken(model: Model, before: dict[str, int]) -> dict[str, int]:
    return {name: count - before[name] for name, count in steps(model).items()}


def answer_steps(n: int, borders: int = 0) -> dict[str, int]:
    """Of an answer of n steps: the first one, and each that shows attention more keys, runs op by op."""
    return {"recorded": 1 + borders, "replayed": n - 1 - borders, "op_by_op": 1 + borders}


def crossed(result: Result) -> int:
    """Multiples of 256 rows that an answer has gone past."""
    n = result.usage.prompt_tokens
    return (n + len(result.token_ids) - 2) // 256 - n // 256


def decoded(model: Model, n_rows: int, ids: list[int]) -> np.ndarray:
    """Logits of one row after a prompt of n_rows equal ones, and of every id after it."""
    rows = np.repeat(model._core.embed([3]), n_rows, axis=0)
    n_pos = 3 if model.info()["arch"] in ("qwen2vl", "qwen3vl") else 1
    positions = np.tile(np.arange(n_rows, dtype=np.int32), (n_pos, 1))
    found = model._core.logits(rows, positions if n_pos > 1 else positions[0], 1, ids=ids)
    assert np.isfinite(found).all()
    return found


@on_devices("case", CASES, ["one"])
def test_logits_are_the_cpus(golden: Golden, case: str, device: str) -> None:
    cpu, other = Model(golden.lm, compute="f32", device="cpu"), Model(golden.lm, compute="f32", device=device)
    assert other.info()["device"] == device
    assert other.info()["gpu_layers"] == other.info()["n_layers"]
    rows, plan = golden.rows(cpu, case)
    check_equal(device, golden.rows(other, case)[0], rows)
    # The smaller chunk reads keys that earlier batches wrote.
    n_last, chunks = (len(rows), (512, 7)) if device == "isolated" else (2, (48,))
    for chunk in chunks:
        arguments = (rows, plan["positions"], n_last, chunk, plan["visible_end"])
        check_equal(device, other._core.logits(*arguments), cpu._core.logits(*arguments))


@on_devices("case", CASES, ["one"])
def test_greedy_is_golden(golden: Golden, case: str, device: str) -> None:
    model = Model(golden.lm, compute="f32", device=device)
    result = run(model, golden, case)
    assert result.token_ids == golden.cases[case]["greedy"]["ids"]
    assert steps(model) == answer_steps(len(result.token_ids) - 1, borders=crossed(result))


@on_devices("kv_dtype", ["f32", "bf16", "q8_0"], ["bf16", "q8_0"])
def test_kv_dtypes(fixtures: Path, kv_dtype: str, device: str) -> None:
    golden = load_golden(fixtures / "gemma3")  # its heads are wide enough for q8_0
    expected = run(Model(golden.lm, compute="f32", kv_dtype=kv_dtype, device="cpu"), golden, "multi")
    result = run(Model(golden.lm, compute="f32", kv_dtype=kv_dtype, device=device), golden, "multi")
    assert result.token_ids == expected.token_ids
    assert result.kv_bytes == expected.kv_bytes


@on_devices("selector", SELECTORS, [])
def test_pruning_picks_the_same(golden: Golden, selector: str, device: str) -> None:
    pruning = Pruning(keep=0.4, selector=selector)
    expected = run(Model(golden.lm, compute="f32", device="cpu"), golden, "multi", pruning=pruning, seed=3)
    result = run(Model(golden.lm, compute="f32", device=device), golden, "multi", pruning=pruning, seed=3)
    assert result.pruning is not None
    assert expected.pruning is not None
    for found, wanted in zip(result.pruning.kept, expected.pruning.kept, strict=True):
        assert np.array_equal(found, wanted)
    assert result.token_ids == expected.token_ids


@on_devices("selector", ["trimtokenator-lc"], ["trimtokenator-lc"])
def test_pruning_of_encoded_rows(golden: Golden, selector: str, device: str) -> None:
    """The same rows on both sides: towers of two devices differ by rounding, and picks may follow."""
    cpu, other = Model(golden.lm, compute="f32", device="cpu"), Model(golden.lm, compute="f32", device=device)
    rows = [cpu._core.encode(load_image(path)) for path in golden.case_images("multi")]
    text = cpu._core.embed(cpu._core.tokenize("Which one?", False))
    rows = [part[:, : text.shape[1]] for part in rows]  # without extra slices
    options = {"keep": 0.4, "selector": selector}
    expected = _core.prune(rows, text, options)
    found = _core.prune(rows, text, options, device=device)
    for one, wanted in zip(found["kept"], expected["kept"], strict=True):
        assert np.array_equal(one, wanted)
    result = run(other, golden, "one", pruning=Pruning(keep=0.4))
    assert result.pruning is not None
    assert result.usage.visual_tokens == result.pruning.budget


@on_devices("selector", SELECTORS[:4], SELECTORS[:4])
@pytest.mark.parametrize("stage1", ["max_min", "max_sum", "facility"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pruning_of_arrays(selector: str, stage1: str, dtype: type, device: str) -> None:
    rng = np.random.default_rng(5)
    rows = [rng.standard_normal((n, 24)).astype(dtype) for n in (30, 0, 7, 55)]
    text = rng.standard_normal((3, 24)).astype(dtype)
    budgets: list[dict[str, Any]] = [{"keep": 0.3}, {"max_tokens": 9}, {"keep": 1.0}]
    if stage1 == "max_min":
        budgets.append({"coverage": 0.7})
    if stage1 == "facility" and selector == "trimtokenator-lc":
        # Late picks of facility tie: two rows that are each other's nearest gain the same, and rounding
        # decides. With more than 3 tokens 1e-7 on the rows changes what the CPU alone picks.
        budgets = [{"max_tokens": 3}, {"keep": 1.0}]
    for budget in budgets:
        options = {**budget, "selector": selector, "stage1": stage1}
        expected = _core.prune(rows, text, options)
        found = _core.prune(rows, text, options, device=device)
        for one, other in zip(found["kept"], expected["kept"], strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("selector", ["trimtokenator", "divprune", "cdpruner"])
def test_pruning_by_pages(selector: str) -> None:
    """More rows than have a whole matrix of similarities."""
    rng = np.random.default_rng(6)
    rows = [rng.standard_normal((8300, 4), np.float32)]
    options = {"max_tokens": 20, "selector": selector}
    found = _core.prune(rows, None, options, device="isolated:1024")
    assert np.array_equal(found["kept"][0], _core.prune(rows, None, options)["kept"][0])


@on_devices("case", ["multi"], ["one"])
def test_part_of_the_layers(golden: Golden, case: str, device: str) -> None:
    """The first layers on the device, the others on the CPU; rows cross between them."""
    expected = golden.cases[case]["greedy"]["ids"]
    n_layers = Model(golden.lm, compute="f32", device="cpu").info()["n_layers"]
    for n in range(n_layers + 1) if device == "isolated" else [1]:
        model = Model(golden.lm, compute="f32", device=device, gpu_layers=n)
        assert model.info()["gpu_layers"] == n
        assert run(model, golden, case).token_ids == expected
        assert (steps(model)["recorded"] > 0) == (n == n_layers)
    with pytest.raises(ValueError, match=rf"\[gpu_layers\] is {n_layers + 1}, must be in \[0, {n_layers}\]"):
        Model(golden.lm, compute="f32", device=device, gpu_layers=n_layers + 1)


@on_devices("case", ["one", "multi"], ["one"])
def test_remembered_pictures_and_two_sequences(llava15: Golden, case: str, device: str) -> None:
    model = Model(llava15.lm, compute="f32", device=device)
    expected = llava15.cases[case]["greedy"]["ids"]
    prompt, images = llava15.raw_prompt(model, case), llava15.case_images(case)
    options: dict[str, Any] = {"raw": True, "max_tokens": 16, "pruning": None}
    first = model.generate(images, prompt, stream=True, **options)
    second = model.generate(images, prompt, stream=True, **options)
    for _ in range(16):
        next(first, None)
        next(second, None)
    assert first.result.token_ids == second.result.token_ids == expected
    assert set(second.result.timings.encode) == {0.0}


IDS = [5, 9, 2, 7]


@on_devices("n_rows", [20, 254], [20])
def test_recorded_steps_are_the_ops(golden: Golden, n_rows: int, device: str) -> None:
    """The same numbers to the bit, and those of a prefill that reads all rows at once."""
    model = Model(golden.lm, compute="f32", device=device)
    before = steps(model)
    recorded = decoded(model, n_rows, IDS)
    borders = int(n_rows < 256 < n_rows + len(IDS))
    assert taken(model, before) == answer_steps(len(IDS), borders=borders)
    model._core.record_steps(False)
    before = steps(model)
    assert np.array_equal(decoded(model, n_rows, IDS), recorded)
    assert taken(model, before) == {"recorded": 0, "replayed": 0, "op_by_op": len(IDS)}
    cpu = Model(golden.lm, compute="f32", device="cpu")
    before = steps(cpu)
    check_equal(device, recorded, decoded(cpu, n_rows, IDS))
    assert taken(cpu, before) == {"recorded": 0, "replayed": 0, "op_by_op": len(IDS)}


@on_devices("kv_dtype", ["f32", "f16", "bf16"], ["f16"])
def test_more_keys_are_recorded_anew(fixtures: Path, kv_dtype: str, device: str) -> None:
    """From 256 to 257 rows attention is shown more of the cache; where the cache grows it moves as well."""
    golden = load_golden(fixtures / "qwen3vl")
    model = Model(golden.lm, compute="f32", device=device, kv_dtype=kv_dtype)
    ids = [int(i) for i in np.random.default_rng(3).integers(3, 300, 10)]
    recorded = decoded(model, 251, ids)  # room for 251 rows, then 376
    assert steps(model) == answer_steps(10, borders=1)
    model._core.record_steps(False)
    assert np.array_equal(decoded(model, 251, ids), recorded)
    if device == "isolated":
        model._core.record_steps(True)
        before = steps(model)
        decoded(model, 100, 6 * ids)  # room for 100 rows, then 150, then 225
        assert taken(model, before) == answer_steps(60, borders=1)


@on_devices("n", [3], [3])
def test_two_models_and_two_sequences_take_turns(fixtures: Path, n: int, device: str) -> None:
    """Each sequence replays its own recording, although a longer prompt makes ops move their scratch."""
    first, second = load_golden(fixtures / "qwen3vl"), load_golden(fixtures / "qwen25vl")
    model = Model(first.lm, compute="f32", device=device)
    other = Model(second.lm, compute="f32", device=device)
    turns = [(first, model, "text"), (first, model, "one"), (second, other, "text")]
    streams = []
    for golden, of, case in turns:
        prompt, images = golden.raw_prompt(of, case), golden.case_images(case)
        streams.append(of.generate(images, prompt, raw=True, max_tokens=16, pruning=None, stream=True))
        for _ in range(n):
            next(streams[-1], None)
    for _ in range(16):
        for stream in streams:
            next(stream, None)
    for (golden, _, case), stream in zip(turns, streams, strict=True):
        assert stream.result.token_ids == golden.cases[case]["greedy"]["ids"]
    # The first sequence's step is recorded again after the second one's prompt.
    assert steps(model) == {"recorded": 3, "replayed": 28, "op_by_op": 2}
    assert steps(other) == answer_steps(15)


@on_devices("stop_at", [1, 2, 3], [2])
@pytest.mark.parametrize("at_end", [False, True])
def test_answers_after_an_interrupted_step(fixtures: Path, stop_at: int, at_end: bool, device: str) -> None:
    """Steps run op by op, are recorded, replayed; this one is given up with ops put off, or not finished."""
    golden = load_golden(fixtures / "qwen3vl")
    model = Model(golden.lm, compute="f32", device=device)
    sampling = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "seed": 0}
    phases = []

    def interrupt(phase: str, done: int, total: int) -> None:
        phases.append((phase, done))
        if ("decode", stop_at) in phases and phase == "prefill" and (done == total) == at_end:
            raise KeyboardInterrupt

    prompt = golden.raw_prompt(model, "text")
    generation = model._core.generate(prompt, [], max_tokens=16, stop=[], progress=interrupt, **sampling)
    with pytest.raises(KeyboardInterrupt):
        list(iter(generation.next, None))
    assert phases[-1][0] == "prefill"
    # The step before the last was recorded and replayed: two counts.
    before = steps(model)
    assert sum(before.values()) == [0, 1 + at_end, 3][stop_at - 1]
    assert run(model, golden, "text").token_ids == golden.cases["text"]["greedy"]["ids"]
    assert taken(model, before) == answer_steps(15)


def test_devices_say_why_not(llava15: Golden) -> None:
    info = Model(llava15.lm, device="cpu").info()
    assert (info["device"], info["device_note"], info["gpu_layers"]) == ("cpu", "", 0)
    info = Model(llava15.lm, device="auto").info()
    if not NO_CUDA:  # a GPU, which auto takes, or kernels that the host runs, which it does not
        assert (info["device"] == "cuda") != ("run on the host, for tests" in info["device_note"])
        return
    assert info["device"] == "cpu"
    assert info["device_note"] == f"auto took the CPU: {NO_CUDA}"
    with pytest.raises(UnsupportedError, match=r"\[device\] cuda cannot be used: .+; use device=\"cpu\""):
        Model(llava15.lm, device="cuda")
    with pytest.raises(ValueError, match="gpu_layers"):
        Model(llava15.lm, device="cpu", gpu_layers=1)


def used(core: Any) -> int:
    return int(core.memory(0, 1, 8, 8)["used"])


@pytest.mark.parametrize("gpu_layers", [-1, 1])
def test_plan_is_what_is_used(golden: Golden, gpu_layers: int) -> None:
    core = _core.Model(golden.lm, device="isolated", gpu_layers=gpu_layers)
    weights = core.memory(0, 1, 8, 8)
    assert used(core) == pytest.approx(weights["weights"] + weights["tower"], rel=0.02, abs=1 << 16)

    image = golden.data["images"][0]
    array = load_image(golden.image_path(0))
    core.encode(array)
    prompt, sizes = "\ufdd1", [(image["width"], image["height"])]
    n_rows = core.plan(prompt, sizes)["n_rows"]
    sampling = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "seed": 0}
    generation = core.generate(prompt, [array], max_tokens=8, stop=[], **sampling)
    generation.next()
    planned = core.memory(1, n_rows + 8, *sizes[0])
    info = core.info()
    kv_bytes = generation.result()["kv_bytes"]
    assert planned["kv"] == kv_bytes // info["n_layers"] * info["gpu_layers"]
    # The rows of picture and prompt are gone by now; what ops use for themselves is on top.
    held = planned["total"] - planned["rows"]
    assert 0 <= used(core) - held < 1 << 20


def test_plan_is_for_people(llava15: Golden) -> None:
    model = Model(llava15.lm, device="cpu")
    plan = model.plan(4, 2048)
    assert plan.device == "cpu"
    assert plan.fits
    assert plan.total == pytest.approx(plan.weights + plan.tower + plan.kv + plan.rows + plan.scratch)
    assert plan.kv == pytest.approx(model.plan(4, 1024).kv * 2)
    assert plan.visual_tokens == 4 * model.plan(1, 1).visual_tokens > 0
    assert model.plan(8, 2048).rows > plan.rows
    assert "fits" in str(plan)
    huge = model.plan(0, 2**31 - 1)
    assert not huge.fits
    assert "does not fit" in str(huge)
    for arguments in ((-1, 10), (1, 0), (1.5, 10)):
        with pytest.raises((ValueError, TypeError)):
            model.plan(*arguments)  # type: ignore[arg-type]


def test_too_large_is_refused_with_numbers(llava15: Golden) -> None:
    numbers = r"isolated has 4\.0 MiB for this model, which needs \d+\.\d MiB with 512 rows of context"
    with pytest.raises(MemoryError, match=numbers + r".* use gpu_layers=2 or less, or device=\"cpu\""):
        _core.Model(llava15.lm, device="isolated:4")
    core = _core.Model(llava15.lm, device="isolated:4", gpu_layers=2)
    assert core.logits(np.zeros((3, 64), np.float32), np.arange(3, dtype=np.int32), 1).shape == (1, 32000)


def test_out_of_memory_leaves_the_model_usable(llava15: Golden) -> None:
    core = _core.Model(llava15.lm, device="isolated:64")
    info = core.info()
    rows = np.zeros((100, info["n_embd"]), np.float32)
    positions = np.arange(100, dtype=np.int32)
    expected = core.logits(rows, positions, 1)
    before = used(core)
    long = np.zeros((60000, info["n_embd"]), np.float32)
    with pytest.raises(MemoryError, match="MiB"):
        core.logits(long, np.arange(60000, dtype=np.int32), 1)
    assert used(core) == before
    assert np.array_equal(core.logits(rows, positions, 1), expected)


@on_devices("case", ["multi"], ["one"])
def test_files_may_go_when_weights_are_on_the_device(
    llava15: Golden, case: str, device: str, tmp_path: Path
) -> None:
    """Nothing reads the mapped file after loading: it is emptied, and reading it would be SIGBUS."""
    names = ["lm.gguf", "mmproj.gguf"]
    for name in names:
        (tmp_path / name).write_bytes((llava15.folder / name).read_bytes())
    model = Model(str(tmp_path / "lm.gguf"), compute="f32", device=device)
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert run(model, llava15, case).token_ids == llava15.cases[case]["greedy"]["ids"]


def test_out_of_memory_on_cuda_names_it(llava15: Golden) -> None:
    if NO_CUDA:
        pytest.skip(f"cuda: {NO_CUDA}")
    core = _core.Model(llava15.lm, device="cuda")
    positions = np.arange(8, dtype=np.int32)
    rows = np.zeros((8, core.info()["n_embd"]), np.float32)
    expected = core.logits(rows, positions, 1)
    before = used(core)
    n = core.memory(0, 1, 8, 8)["available"] // (4 * rows.shape[1]) + 1024
    if n > 2**24:
        pytest.skip(f"cuda: filling this device would take {n} rows on the host")
    with pytest.raises(MemoryError, match="on cuda: "):
        core.logits(np.zeros((n, rows.shape[1]), np.float32), np.zeros(n, np.int32), 1)
    assert used(core) == before
    assert np.array_equal(core.logits(rows, positions, 1), expected)


@on_devices("compute", ["int8"], ["int8"])
def test_compute_is_the_devices_too(compute: str, device: str, tmp_path: Path) -> None:
    path = write_model(
        make_model(Spec(qtype="Q8_0", n_heads=6, n_kv_heads=1, n_embd=96)), tmp_path / "lm.gguf"
    )
    cpu, other, usual = (
        _core.Model(path, device=name, compute=rounding)
        for name, rounding in (("cpu", compute), (device, compute), (device, "f32"))
    )
    assert other.info()["compute"] == compute
    rows = np.random.default_rng(7).standard_normal((40, 96), dtype=np.float32)
    positions = np.arange(40, dtype=np.int32)
    found = other.logits(rows, positions, 40)
    check_equal(device, found, cpu.logits(rows, positions, 40))
    assert not np.array_equal(found, usual.logits(rows, positions, 40))
    # Few rows wait for memory on CUDA, and stay exact there.
    few, few_usual = other.logits(rows[:3], positions[:3], 3), usual.logits(rows[:3], positions[:3], 3)
    assert np.array_equal(few, few_usual) == (device == "cuda")


@on_devices("compute", [], ["bf16"])
def test_what_cuda_cannot_compute_is_refused(llava15: Golden, compute: str, device: str) -> None:
    with pytest.raises(UnsupportedError, match=rf'"{compute}" has no CUDA kernels'):
        _core.Model(llava15.lm, device=device, compute=compute)
