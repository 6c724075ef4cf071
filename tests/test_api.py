"""The public API: prompts, images, streaming, cancelling, sampling, limits and errors."""

from __future__ import annotations

import base64
import functools
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CASES, Golden, load_golden, run
from gguf import GGUFReader
from PIL import Image

import trimtok_cpp
from trimtok_cpp import (
    ContextOverflowError,
    ModelFormatError,
    NumericsError,
    Result,
    Stream,
    UnsupportedError,
)

# Answers are compared with those of an f32 reference.
Model = functools.partial(trimtok_cpp.Model, compute="f32")

# --- sources of images and prompts


def test_every_image_source_is_the_same(llava15: Golden) -> None:
    model = Model(llava15.lm)
    path = Path(llava15.image_path(0))
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    with Image.open(path) as picture:
        picture.load()
    sources = [str(path), path, path.read_bytes(), picture, np.asarray(picture), url, path.as_uri()]
    want = llava15.cases["one"]["greedy"]["ids"]
    for source in sources:
        assert run_one(model, [source]) == want
        assert run_one(model, source) == want  # one picture without a list
    for image_url in (str(path), url, {"url": url, "detail": "low"}):
        parts = [
            {"type": "text", "text": "What is in this picture?"},
            {"type": "image_url", "image_url": image_url},
        ]
        assert model.chat([{"role": "user", "content": parts}], max_tokens=16, pruning=None).token_ids == want


def run_one(model: trimtok_cpp.Model, images: Any) -> list[int]:
    return model.generate(images, "What is in this picture?", max_tokens=16, pruning=None).token_ids


def test_image_places(llava15: Golden) -> None:
    """Where the rows stand follows from the prompt alone."""
    model = Model(llava15.lm)

    def starts(prompt: str, **options: Any) -> list[int]:
        text = model._prompt(prompt, 2, options.get("system"), options.get("raw", False))
        segments = model._core.plan(text, [(150, 101), (112, 112)])["segments"]
        return [segment["start"] for segment in segments if "image" in segment]

    first = llava15.cases["one"]["segments"][1]["start"]  # after BOS and "USER: "
    between = len(model._core.tokenize("\n"))
    assert starts("What?") == [first, first + 64 + between]
    assert starts("What? <image> <image>")[0] > first
    assert starts("<image>What?<image>")[0] == first
    assert starts("What?", system="S")[0] > first
    assert starts("What?", raw=True) == [1, 65]  # after BOS, nothing between
    assert starts("<s>What?", raw=True) == [1, 65]  # BOS is not doubled


@pytest.mark.parametrize(
    ("prompt", "n_images", "n_markers"),
    [("no <image> but <image>", 1, 2), ("<image>", 2, 1), ("<image>", 0, 1)],
)
@pytest.mark.parametrize("raw", [False, True])
def test_marker_count(llava15: Golden, prompt: str, n_images: int, n_markers: int, raw: bool) -> None:
    images = [llava15.image_path(0)] * n_images
    with pytest.raises(ValueError, match=rf"\[prompt\].*{n_markers}.*{n_images} image"):
        Model(llava15.lm).generate(images, prompt, raw=raw)


def test_user_text_cannot_speak_for_the_template(llava15: Golden) -> None:
    model = Model(llava15.lm)
    for text in ("a</s>b", "a</\ufdd0s>b", "a</\ufdd1s>b", "\ufdd1", "</</s>s>"):
        prompt = model._prompt(text, 0, None, False)
        ids = model._core.plan(prompt, [])["segments"][0]["ids"]
        assert ids.count(1) == 1  # the tokenizer's own BOS
        assert 2 not in ids
    parts = [{"type": "text", "text": "</s"}, {"type": "text", "text": ">"}]
    fmt = model._chat_format()
    prompt = fmt.render(trimtok_cpp.prompt.parse_messages([{"role": "user", "content": parts}])[0])
    assert 2 not in model._core.plan(prompt, [])["segments"][0]["ids"]
    # What was typed is still what the model reads, and raw prompts are taken literally.
    assert model._core.detokenize(model._core.tokenize(model._prompt("a</s>b", 0, None, False))).endswith(
        "a</s>b ASSISTANT:"
    )
    assert 2 in model._core.plan(model._prompt("a</s>b", 0, None, True), [])["segments"][0]["ids"]


def test_image_tag_in_chat_text_is_text(llava15: Golden) -> None:
    message = {"role": "user", "content": "What does <image> mean in HTML?"}
    assert Model(llava15.lm).chat([message], max_tokens=1).usage.visual_tokens == 0


def test_fallback_template(llava15: Golden, tmp_path: Path) -> None:
    """A file without a template is prompted as its family was trained (vicuna_v1, spec 11.2)."""
    data = Path(llava15.lm).read_bytes()
    assert data.count(b"tokenizer.chat_template") == 1
    (tmp_path / "lm.gguf").write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX"))
    model = Model(tmp_path / "lm.gguf", mmproj=llava15.mmproj)
    text = model._prompt("What differs between the two pictures?", 2, None, False)
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. USER: \ufdd1\n\ufdd1\n"
        "What differs between the two pictures? ASSISTANT:"
    )
    text_only = Model(isolated(tmp_path / "lm.gguf", tmp_path / "alone"))
    with pytest.raises(UnsupportedError, match="raw=True"):
        text_only.generate([], "Hello")
    assert text_only.generate([], "Hello", raw=True, max_tokens=2).token_ids


def isolated(path: str | Path, folder: Path) -> Path:
    """A copy of a language model in a folder without any vision file."""
    folder.mkdir()
    return Path(shutil.copy(path, folder / "lm.gguf"))


def test_count_tokens(golden: Golden) -> None:
    model = Model(golden.lm)
    case = golden.cases["multi"]
    count = model.count_tokens(golden.case_images("multi"), golden.raw_prompt(model, "multi"), raw=True)
    assert count == count.prompt_tokens == case["n_positions"]
    assert count.visual_tokens == sum(s["count"] for s in case["segments"] if s["type"] == "image")
    result = model.generate(
        golden.case_images("multi"), "Compare them.", system="Be brief.", max_tokens=1, pruning=None
    )
    assert model.count_tokens(golden.case_images("multi"), "Compare them.", system="Be brief.") == (
        result.usage.prompt_tokens
    )


def test_info(golden: Golden) -> None:
    info = Model(golden.lm, n_ctx=777, n_threads=1, kv_dtype="bf16").info()
    assert info["arch"] == golden.data["config"]["lm_arch"].split()[0]
    assert info["projector"] == golden.data["config"]["projector_type"]
    assert (info["n_ctx"], info["n_threads"], info["kv_dtype"].lower()) == (777, 1, "bf16")
    assert (info["lm_path"], info["mmproj_path"]) == (golden.lm, golden.mmproj)
    assert info["n_embd"] == golden.data["config"]["n_embd"]
    assert "special_texts" not in info
    if golden.data["config"].get("head_dim", 16) == 32:
        assert Model(golden.lm, kv_dtype="q8_0").info()["kv_dtype"] == "Q8_0"
        return
    with pytest.raises(UnsupportedError, match=r"q8_0.*32"):  # its blocks do not fit heads of 16
        Model(golden.lm, kv_dtype="q8_0")


# --- streaming, stopping, cancelling


@pytest.mark.parametrize("case", CASES)
def test_streaming_is_the_same(golden: Golden, case: str) -> None:
    model = Model(golden.lm)
    prompt = golden.raw_prompt(model, case)
    stream = model.generate(
        golden.case_images(case), prompt, raw=True, max_tokens=16, pruning=None, stream=True
    )
    assert isinstance(stream, Stream)
    assert stream.result.finish_reason == ""
    pieces = []
    for piece in stream:
        pieces.append(piece)
        assert stream.result.text == "".join(pieces)
    assert len(pieces) > 1
    assert stream.result.token_ids == golden.cases[case]["greedy"]["ids"]
    assert stream.result.text == run(model, golden, case).text
    assert list(stream) == []


def test_streamed_pieces_are_whole_characters(llava16: Golden) -> None:
    """Random byte tokens: every character that they form comes whole, the rest as U+FFFD."""
    model = Model(llava16.lm)
    n_vocab = model.info()["n_vocab"]
    single = {model._core.detokenize([i, i])[-1:] for i in range(n_vocab)}  # characters that are one token
    multi_byte: set[str] = set()
    for seed in range(12):
        stream = model.generate(
            [],
            "[INST] Hi [/INST]",
            raw=True,
            max_tokens=300,
            temperature=50.0,
            top_k=0,
            top_p=1,
            min_p=0,
            seed=seed,
            stream=True,
        )
        pieces = list(stream)
        assert all(pieces)
        text = "".join(pieces)
        assert text == stream.result.text
        assert text.lstrip(" ") == model._core.detokenize(stream.result.token_ids).lstrip(" ")
        multi_byte |= {c for c in text if ord(c) > 0x7F} - single - {"\ufffd"}
    assert multi_byte  # otherwise this test shows nothing


def test_stop_strings(llava15: Golden) -> None:
    model = Model(llava15.lm)
    text = run(model, llava15, "one").text
    assert len(text) > 40
    for start in range(1, 40):
        for length in (1, 4, 20):
            stop = text[start : start + length]
            want = text[: text.index(stop)]
            result = run(model, llava15, "one", stop=stop)
            assert (result.text, result.finish_reason) == (want, "stop")
    stop = [text[30:45], text[12:25]]
    stream = model.generate(
        llava15.case_images("one"),
        llava15.cases["one"]["prompt"],
        raw=True,
        max_tokens=16,
        pruning=None,
        stop=stop,
        stream=True,
    )
    assert "".join(stream) == text[: text.index(stop[1])]
    assert run(model, llava15, "one", stop=["never", text + "x"]).text == text  # a held-back end is given out


@pytest.mark.parametrize("phase", ["encode", "prefill"])
def test_cancel_before_the_first_token(llava15: Golden, phase: str) -> None:
    model = Model(llava15.lm)
    phases: list[str] = []

    def progress(now: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        phases.append(now)
        if now == phase:
            thread = threading.Thread(target=model.cancel)
            thread.start()
            thread.join()

    options = model._options(16, 0.0, 40, 0.95, 0.05, 1.0, 0, None)
    images = [llava15.image_path(0)] * 3
    stream = Stream(model, model._prompt("Hi", 3, None, False), images, options, progress)
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.token_ids == []
    assert phases[-1] == phase
    assert phases.count(phase) == 1  # the next layer did not run
    assert run(model, llava15, "one").token_ids == llava15.cases["one"]["greedy"]["ids"]


def test_cancel_during_decode(llava15: Golden) -> None:
    model = Model(llava15.lm)
    results: list[Result] = []

    def work() -> None:
        results.append(model.generate(llava15.case_images("one"), "Go on", max_tokens=3900))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = list(model._running)
        if len(running) == 2 and all(len(stream.result.token_ids) > 2 for stream in running):
            break
        time.sleep(0.01)
    start = time.monotonic()
    model.cancel()
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - start < 5
    assert [result.finish_reason for result in results] == ["cancelled"] * 2
    assert all(2 < len(result.token_ids) < 3900 for result in results)
    assert not model._running


def test_cancel_without_work_does_nothing(llava15: Golden) -> None:
    model = Model(llava15.lm)
    model.cancel()
    assert run(model, llava15, "text").finish_reason == "length"


def test_stream_cancel_and_close(llava15: Golden) -> None:
    model = Model(llava15.lm)
    stream = model.generate([], "Go on", max_tokens=1000, stream=True)
    first = next(stream)
    stream.cancel()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(first)
    with model.generate([], "Go on", max_tokens=1000, stream=True) as stream:
        for _ in stream:
            break
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    stream.close()


def test_abandoned_stream_is_freed(llava15: Golden) -> None:
    model = Model(llava15.lm)
    stream = model.generate([], "Go on", max_tokens=1000, stream=True)
    next(stream)
    assert len(model._running) == 1
    del stream
    assert len(model._running) == 0


def test_interrupt(llava15: Golden) -> None:
    model = Model(llava15.lm)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    start = time.monotonic()

    def work() -> None:
        while time.monotonic() - start < 60:  # a fast machine may need more than one answer
            model.generate([llava15.image_path(0)] * 40, "Go on", max_tokens=1400)

    with pytest.raises(KeyboardInterrupt):
        work()
    timer.join()
    assert time.monotonic() - start < 10
    assert not model._running
    assert run(model, llava15, "one").token_ids == llava15.cases["one"]["greedy"]["ids"]


# --- sampling


def test_seeds(llava15: Golden) -> None:
    model = Model(llava15.lm)

    def sample(seed: int | None, model: trimtok_cpp.Model = model) -> Result:
        return run(model, llava15, "one", temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed)

    assert sample(7).token_ids == sample(7).token_ids
    assert sample(7).seed == 7
    assert len({tuple(sample(seed).token_ids) for seed in range(5)}) == 5
    drawn = sample(None)
    assert drawn.seed != sample(None).seed
    assert sample(drawn.seed).token_ids == drawn.token_ids
    fixed = Model(llava15.lm, seed=7)
    assert sample(None, fixed).token_ids == sample(7).token_ids
    assert sample(8, fixed).token_ids == sample(8).token_ids


def test_sampling_options_reach_the_sampler(llava15: Golden) -> None:
    model = Model(llava15.lm)
    greedy = llava15.cases["one"]["greedy"]["ids"]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6, "top_k": 0}, {"min_p": 0.999999, "top_k": 0}):
        assert run(model, llava15, "one", temperature=5.0, seed=1, **narrow).token_ids == greedy
    assert greedy[1] == greedy[2]
    penalised = run(model, llava15, "one", repeat_penalty=1e6).token_ids
    assert len(set(penalised)) == len(penalised)


def test_threads_do_not_disturb_each_other(golden: Golden) -> None:
    model = Model(golden.lm)
    found: dict[str, list[int]] = {}

    def work(case: str) -> None:
        found[case] = run(model, golden, case).token_ids

    threads = [threading.Thread(target=work, args=[case]) for case in CASES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {case: golden.cases[case]["greedy"]["ids"] for case in CASES}


# --- limits and errors


def test_no_image_and_forty_images(llava15: Golden) -> None:
    model = Model(llava15.lm)
    assert model.generate(None, "Hello", max_tokens=1).usage.visual_tokens == 0
    images = [llava15.image_path(index % 3) for index in range(40)]
    result = model.generate(images, "What differs?", max_tokens=2, pruning=None)
    assert result.usage.visual_tokens == 40 * 64
    assert len(result.timings.encode) == 40
    assert len(result.token_ids) == 2


def test_prompt_beyond_the_context(llava15: Golden) -> None:
    model = Model(llava15.lm, n_ctx=100)
    images = [llava15.image_path(0)] * 2
    with pytest.raises(ContextOverflowError, match=r"\[prompt\].*128 of them visual.*100"):
        model.generate(images, "What differs?", pruning=None)
    with pytest.raises(ContextOverflowError):
        model.generate(images, "What differs?", stream=True, pruning=None)
    assert model.count_tokens(images, "What differs?") > 128
    # The context also ends an answer.
    result = model.generate(images[:1], "What?", max_tokens=1000, pruning=None)
    assert result.finish_reason == "length"
    assert 1 < result.usage.total_tokens <= 101


def test_text_only_model_of_another_family(fixtures: Path, tmp_path: Path) -> None:
    """internvl3's language model: no BOS, and a template that takes strings only."""
    golden = load_golden(fixtures / "internvl3")
    model = Model(isolated(golden.lm, tmp_path / "alone"))
    message = golden.cases["text"]["messages"][0]["content"][0]["text"]
    want = golden.cases["text"]["greedy"]["ids"]
    assert model.generate([], message, max_tokens=16, pruning=None).token_ids == want
    assert model.chat([{"role": "user", "content": message}], max_tokens=16, pruning=None).token_ids == want
    with pytest.raises(ValueError, match=r"\[prompt\] is empty"):
        model.generate([], "", raw=True)


def test_text_only_model(llava15: Golden, tmp_path: Path) -> None:
    model = Model(isolated(llava15.lm, tmp_path / "alone"))
    assert model.info()["projector"] is None
    with pytest.raises(ValueError, match=r"\[images\] 1 given.*mmproj"):
        model.generate([llava15.image_path(0)], "What?")
    assert run(model, llava15, "text").token_ids == llava15.cases["text"]["greedy"]["ids"]


def test_wrong_pair(llava15: Golden, llava16: Golden) -> None:
    for part in (llava15.lm, llava16.mmproj, r"\b64\b", r"\b80\b"):
        with pytest.raises(ValueError, match=part):
            Model(llava15.lm, mmproj=llava16.mmproj)
    with pytest.raises(ValueError, match=r"mmproj|clip"):
        Model(llava15.mmproj, mmproj=llava15.lm)


def poisoned(path: str, tensor: str, copy: Path) -> Path:
    """A copy of a GGUF file whose tensor (float16 or float32) starts with a NaN."""
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(path, copy)
    copy.chmod(0o644)
    found = next(t for t in GGUFReader(copy).tensors if t.name == tensor)
    nan = {"F32": np.float32, "F16": np.float16}[found.tensor_type.name](np.nan)
    with copy.open("r+b") as file:
        file.seek(found.data_offset)
        file.write(nan.tobytes())
    return copy


def test_nan_weights(llava15: Golden, tmp_path: Path) -> None:
    """Small tensors are checked when loading; in a matrix the NaN shows when it is used."""
    lm, mmproj = tmp_path / "a" / "lm.gguf", tmp_path / "b" / "mmproj.gguf"
    with pytest.raises(ModelFormatError, match=rf"{lm}.*blk\.1\.ffn_norm\.weight.*nan"):
        Model(poisoned(llava15.lm, "blk.1.ffn_norm.weight", lm), mmproj=llava15.mmproj)
    with pytest.raises(ModelFormatError, match=rf"{mmproj}.*v\.blk\.1\.ln1\.weight.*nan"):
        Model(llava15.lm, mmproj=poisoned(llava15.mmproj, "v.blk.1.ln1.weight", mmproj))

    language = Model(poisoned(llava15.lm, "blk.1.attn_v.weight", lm), mmproj=llava15.mmproj)
    for _ in range(2):
        with pytest.raises(NumericsError):
            language.generate([], "Hello", max_tokens=4)
    vision = Model(llava15.lm, mmproj=poisoned(llava15.mmproj, "v.blk.1.attn_v.weight", mmproj))
    with pytest.raises(NumericsError):
        vision.generate(llava15.case_images("one"), "Hello", max_tokens=4)
    assert run(vision, llava15, "text").token_ids == llava15.cases["text"]["greedy"]["ids"]


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, r"\[max_tokens\] is 0, must be in 1\.\."),
    ({"max_tokens": 2.5}, r"\[max_tokens\] is 2\.5, must be an integer"),
    ({"max_tokens": True}, r"\[max_tokens\] is True"),
    ({"temperature": -0.1}, r"\[temperature\] is -0\.1, must be a number in \[0"),
    ({"temperature": float("nan")}, r"\[temperature\] is nan"),
    ({"temperature": "hot"}, r"\[temperature\] is 'hot'"),
    ({"temperature": float("inf")}, r"\[temperature\] is inf"),
    ({"top_k": -1}, r"\[top_k\] is -1"),
    ({"top_p": 0.0}, r"\[top_p\] is 0\.0, must be a number in \(0, 1\]"),
    ({"top_p": 1.01}, r"\[top_p\] is 1\.01"),
    ({"min_p": 1.0}, r"\[min_p\] is 1\.0, must be a number in \[0, 1\)"),
    ({"repeat_penalty": 0.0}, r"\[repeat_penalty\] is 0\.0"),
    ({"seed": -1}, r"\[seed\] is -1"),
    ({"seed": 2**64}, r"\[seed\] is 18446744073709551616"),
    ({"stop": ""}, r"\[stop\] holds an empty text"),
    ({"stop": ["a", 3]}, r"\[stop\] holds 3"),
    ({"system": "S", "raw": True}, r"\[system\]"),
    ({"system": 3}, r"\[system\] is of type int"),
]


@pytest.mark.parametrize(
    ("options", "message"), BAD_ARGUMENTS, ids=[str(options) for options, _ in BAD_ARGUMENTS]
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_generate_arguments(llava15: Golden, options: dict[str, Any], message: str, stream: bool) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Model(llava15.lm).generate([], "Hello", stream=stream, **options)


def test_bad_prompts_and_images(llava15: Golden, tmp_path: Path) -> None:
    model = Model(llava15.lm)
    bad: list[tuple[Any, Any, type[Exception], str]] = [
        ([], 3, TypeError, r"\[prompt\] is of type int"),
        ([], "a\ud800", ValueError, r"\[prompt\] holds a lone surrogate at character 1"),
        ([tmp_path / "none.png"], "a", FileNotFoundError, "none.png"),
        ([tmp_path], "a", IsADirectoryError, str(tmp_path)),
        ([3], "a", TypeError, r"\[image 0\] is of type int"),
        ({"a": 1}, "a", TypeError, r"\[images\] is of type dict"),
        ([b"no picture"], "a", ValueError, r"\[image 0 \(10 bytes\)\] is no picture"),
        (["http://example.org/a.png"], "a", ValueError, "nothing is fetched"),
    ]
    for images, prompt, kind, message in bad:
        with pytest.raises(kind, match=message):
            model.generate(images, prompt)
        assert not model._running
    assert run(model, llava15, "one").token_ids == llava15.cases["one"]["greedy"]["ids"]


BAD_MESSAGES: list[tuple[Any, str]] = [
    ([], r"\[messages\] is empty"),
    ("Hello", r"\[messages\] is of type str"),
    (["Hello"], r"\[messages\[0\]\] is of type str"),
    ([{"role": "robot", "content": "a"}], r"\[messages\[0\]\] has role 'robot', must be one of system, user"),
    ([{"role": "user"}], r"\[messages\[0\].content\] is of type NoneType"),
    ([{"role": "user", "content": ["a"]}], r"\[messages\[0\].content\[0\]\] is of type str"),
    ([{"role": "user", "content": [{"type": "audio"}]}], r"has type 'audio', must be"),
    ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text\] is of type NoneType"),
    ([{"role": "user", "content": [{"type": "image"}]}], r"has no 'image'"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], r"image_url\] must be a path"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "https://a.b/c"}]}],
        "nothing is fetched",
    ),
]


@pytest.mark.parametrize(("messages", "message"), BAD_MESSAGES)
def test_bad_messages(llava15: Golden, messages: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Model(llava15.lm).chat(messages)


def test_two_system_messages(llava15: Golden) -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(ValueError, match=r"\[system\] is given"):
        Model(llava15.lm).chat(messages, system="c")


def test_bad_model_arguments(llava15: Golden, tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"path": tmp_path / "no.gguf"}, FileNotFoundError, r"no\.gguf"),
        ({"path": 3}, TypeError, r"\[path\] is of type int"),
        ({"path": tmp_path}, (OSError, ValueError), str(tmp_path)),
        ({"mmproj": tmp_path / "no.gguf"}, FileNotFoundError, r"\[mmproj\]"),
        ({"device": "gpu"}, ValueError, r"\[device\] is 'gpu', must be one of auto, cpu, cuda"),
        ({"kv_dtype": "int4"}, ValueError, r"\[kv_dtype\] is 'int4', must be one of f16"),
        ({"n_ctx": 0}, ValueError, r"\[n_ctx\] is 0, must be in 1"),
        ({"n_threads": 1000}, ValueError, r"\[n_threads\] is 1000, must be in 1\.\.512"),
        ({"seed": "x"}, TypeError, r"\[seed\] is 'x'"),
    ]
    for options, kind, message in bad:
        with pytest.raises(kind, match=message):
            Model(**({"path": llava15.lm} | options))


def test_unknown_isa(llava15: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTOK_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match=r"TRIMTOK_CPU_ISA.*mmx"):
        Model(llava15.lm)
