"""The `trimtok` command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import _core, demo, gguf_tools
from .bench import as_dict as keep_as_dict
from .bench import bench_keep, check_plot, synthetic_pictures, table, write_csv, write_plot
from .eval import command as eval_command
from .images import load_image
from .model import COMPUTES, DEVICES, KV_DTYPES, Model, _view
from .prompt import without_pictures
from .pruning import DEFAULT_PRUNING, SELECTORS, Pruning
from .stream import Stream

__all__ = ["main"]


class _ProgressBar:
    """One line on a terminal, redrawn for every phase; nothing at all elsewhere."""

    WIDTH = 30

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn = False
        self.active = out.isatty()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase == "decode":  # the text itself shows that
            return
        filled = self.WIDTH * done // max(total, 1)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        self._out.write(f"\r{phase:<8}[{bar}] {done}/{total}\x1b[K")
        self._out.flush()
        self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._drawn = False

    @property
    def callback(self) -> Callable[[str, int, int], None] | None:
        return self if self.active else None


def _load(args: argparse.Namespace, bar: _ProgressBar, **options: Any) -> Model:
    model = Model._with_progress(
        args.model,
        bar.callback,
        mmproj=args.mmproj,
        device=args.device,
        gpu_layers=args.gpu_layers,
        n_ctx=args.ctx,
        n_threads=args.threads,
        n_threads_batch=args.threads_batch,
        kv_dtype=args.kv_dtype,
        compute=args.compute,
        mmap=args.mmap,
        **options,
    )
    bar.clear()
    for warning in model.info()["warnings"]:
        print(f"trimtok: warning: {warning}", file=sys.stderr)
    return model


def _pruning(args: argparse.Namespace) -> Pruning | None:
    """The settings that --keep, --selector and their like stand for."""
    if args.no_pruning:
        return None
    budgets = {name: getattr(args, name) for name in ("keep", "max_visual", "coverage", "fit")}
    given = {name: value for name, value in budgets.items() if value is not None and value is not False}
    if not given:
        given = {"keep": DEFAULT_PRUNING.keep}
    if "max_visual" in given:
        given["max_tokens"] = given.pop("max_visual")
    return Pruning(**given, selector=args.selector)


def _write_overlays(stream: Stream, folder: str) -> None:
    report = stream.result.pruning
    if report is None:
        raise ValueError("[overlay] nothing was pruned; give pictures and leave --no-pruning out")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(report.overlays()):
        picture.save(Path(folder) / f"picture_{index}.png")


def _run(args: argparse.Namespace) -> None:
    pruning = _pruning(args)
    bar = _ProgressBar(sys.stderr)
    model = _load(args, bar)
    options = model._options(
        args.max_tokens,
        args.temperature,
        args.top_k,
        args.top_p,
        args.min_p,
        args.repeat_penalty,
        args.seed,
        args.stop,
    )
    view = _view(args.min_pixels, args.max_pixels, args.video, args.fps, len(args.image))
    options = {**options, **view}
    prompt = model._prompt(args.prompt, len(args.image), args.system, args.raw, args.video)
    question = without_pictures(args.prompt)
    with Stream(model, prompt, args.image, options, bar.callback, pruning, question) as stream:
        for piece in stream:
            bar.clear()
            if not args.json:
                sys.stdout.write(piece)
                sys.stdout.flush()
    bar.clear()
    result = stream.result
    if args.json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    else:
        print(flush=True)
        print(f"{result.usage}; {result.timings}; finish: {result.finish_reason}", file=sys.stderr)
        report = result.pruning
        if report is not None:
            why = f" ({report.reason})" if report.reason else ""
            print(
                f"kept {report.n_kept} of {report.n_total} visual tokens, {report.selector}{why}",
                file=sys.stderr,
            )
    if args.overlay:
        _write_overlays(stream, args.overlay)


def _inspect(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(gguf_tools.inspect_dict(args.file), ensure_ascii=False))
    else:
        print(gguf_tools.inspect_text(args.file))


def _merge(args: argparse.Namespace) -> None:
    for remark in gguf_tools.merge(args.lm, args.mmproj, args.output, overwrite=args.force):
        print(f"trimtok: {remark}", file=sys.stderr)
    print(f"wrote {args.output} ({Path(args.output).stat().st_size} bytes)")


def _bench(args: argparse.Namespace) -> None:
    if args.keep is None and (args.csv or args.plot):
        raise ValueError("[bench] --csv and --plot write the table of --keep; give it, as in --keep 1,0.2")
    if args.plot:
        check_plot()
    keeps = None if args.keep is None else [Pruning(keep=keep, selector=args.selector) for keep in args.keep]
    # Every run is to encode its pictures.
    model = _load(args, _ProgressBar(sys.stderr), image_cache_mb=0)
    if keeps is None:
        _bench_phases(model, args)
    else:
        _bench_keeps(model, keeps, args)


def _bench_keeps(model: Model, keeps: Sequence[Pruning], args: argparse.Namespace) -> None:
    images = args.image or synthetic_pictures(args.pictures)
    timings = bench_keep(model, images, keeps, n_decode=args.tg, repeat=args.repeat)
    info = model._info
    title = f"{len(images)} pictures, {args.selector}, {info['isa']}, {info['n_threads']} threads"
    if args.csv:
        write_csv(timings, args.csv)
    if args.plot:
        write_plot(timings, args.plot, title)
    if args.json:
        print(json.dumps({**_about(model), "results": [keep_as_dict(timing) for timing in timings]}))
    else:
        print(f"{title}, median of {args.repeat}\n{table(timings)}")


def _about(model: Model) -> dict[str, Any]:
    names = ("lm_path", "mmproj_path", "arch", "device", "gpu_layers", "isa", "n_threads")
    return {"version": _core.__version__, **{name: model._info[name] for name in names}}


def _bench_phases(model: Model, args: argparse.Namespace) -> None:
    info = model._info
    if max(args.pp + 1, args.tg + 16) > info["n_ctx"]:
        raise ValueError(
            f"[bench] --pp {args.pp} or --tg {args.tg} exceeds the context of {info['n_ctx']} rows"
        )
    rows = [_bench_encode(model, args.image[0], args.repeat)] if args.image else []
    rows += [_bench_prefill(model, args.pp, args.repeat), _bench_decode(model, args.tg, args.repeat)]
    if args.json:
        print(json.dumps({**_about(model), "results": rows}))
        return
    head = f"{'test':<10}{'rows':>7}{'seconds':>11}{'tokens/s':>11}"
    print(f"{head}   (median of {args.repeat}; {info['isa']}, {info['n_threads']} threads)")
    for row in rows:
        print(f"{row['test']:<10}{row['rows']:>7}{row['seconds']:>11.4f}{row['tokens_per_second']:>11.1f}")


def _measured(test: str, rows: int, seconds: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    rate = rows / median if median > 0 else 0.0
    return {
        "test": test,
        "rows": rows,
        "seconds": median,
        "tokens_per_second": rate,
        "all_seconds": list(seconds),
    }


def _bench_encode(model: Model, source: str, repeat: int) -> dict[str, Any]:
    image = load_image(source)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        rows = model._core.encode(image)
        seconds.append(time.perf_counter() - start)
    return _measured("encode", len(rows), seconds)


def _bench_prefill(model: Model, n: int, repeat: int) -> dict[str, Any]:
    # Any ids do: the work does not depend on them. One throw-away run touches the mapped weights.
    ids = np.random.default_rng(0).integers(0, model._info["n_vocab"], n).tolist()
    rows = model._core.embed(ids)
    positions = np.arange(n, dtype=np.int32)
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        model._core.logits(rows, positions, 1)
        seconds.append(time.perf_counter() - start)
    return _measured("prefill", n, seconds[1:])


def _bench_decode(model: Model, n: int, repeat: int) -> dict[str, Any]:
    seconds: list[float] = []
    steps = 0
    for attempt in range(repeat):
        # The first token comes out of the prefill, hence one more than the steps to be timed.
        result = model.generate([], "Once upon a time", raw=True, max_tokens=n + 1, seed=attempt)
        steps = len(result.token_ids) - 1
        seconds.append(result.timings.decode)
    if steps < 1:
        raise RuntimeError("[bench] the model ends its answer at once; decoding cannot be timed with it")
    return _measured("decode", steps, seconds)


def _kernels(args: argparse.Namespace) -> None:
    isas: list[str] = _core.ops.isas()
    served = {isa: _core.ops.served_by(isa) for isa in isas}
    active = os.environ.get("TRIMTOK_CPU_ISA") or _core.ops.best_isa()
    if active not in isas:
        raise ValueError(f"[TRIMTOK_CPU_ISA] is {active!r}, this machine and build have {', '.join(isas)}")
    if args.json:
        print(json.dumps({"active": active, "best": _core.ops.best_isa(), "served_by": served}))
        return
    heads = [f"{isa}*" if isa == active else isa for isa in isas]
    ops = list(served[active])
    first = max(len("op"), *map(len, ops)) + 2
    width = max(8, *map(len, heads)) + 2
    print(f"{'op':<{first}}" + "".join(f"{head:<{width}}" for head in heads).rstrip())
    for op in ops:
        print(f"{op:<{first}}" + "".join(f"{served[isa][op]:<{width}}" for isa in isas).rstrip())
    print(
        f"\nA column says what serves each op under that ISA. *: active ({active}); TRIMTOK_CPU_ISA lowers it"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _shares(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimtok", description="Multi-image GGUF models")
    parser.add_argument("--version", action="version", version=f"trimtok {_core.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    load = argparse.ArgumentParser(add_help=False)
    load.add_argument("model", metavar="MODEL", help="GGUF file of the language model, or of both parts")
    load.add_argument(
        "--mmproj", metavar="FILE", help="GGUF file of the vision part (default: look beside MODEL)"
    )
    load.add_argument("--device", choices=DEVICES, default="auto")
    load.add_argument(
        "--gpu-layers", type=int, metavar="N", help="of the language model, on the GPU (default: all)"
    )
    load.add_argument("--ctx", type=_positive, metavar="N", help="rows of context (default: as trained)")
    load.add_argument("--threads", type=_positive, metavar="N", help="default: every CPU")
    load.add_argument(
        "--threads-batch", type=_positive, metavar="N",
        help="while encoding and prefilling (default: as --threads)",
    )  # fmt: skip
    load.add_argument(
        "--mmap", action=argparse.BooleanOptionalAction,
        help="weights stay in the mapped files, or are copied at once (default: copied in the background)",
    )  # fmt: skip
    load.add_argument("--kv-dtype", choices=KV_DTYPES, default="f16")
    load.add_argument("--compute", choices=COMPUTES, default="auto", help="precision of matrix products")

    demonstration = commands.add_parser("demo", help="see the small model that comes along answer and prune")
    demo.add_arguments(demonstration)
    demonstration.set_defaults(function=demo.run)

    run = commands.add_parser("run", parents=[load], help="answer a question about images")
    run.add_argument("prompt", metavar="PROMPT", help='the question; "<image>" in it places an image')
    run.add_argument("-i", "--image", action="append", default=[], metavar="FILE", help="may be repeated")
    run.add_argument("--video", action="store_true", help="the images are frames of one video")
    run.add_argument("--fps", type=float, metavar="F", help="frames per second of the video (default 2)")
    run.add_argument("--min-pixels", type=int, metavar="N", help="of a scaled picture (Qwen)")
    run.add_argument("--max-pixels", type=int, metavar="N", help="of a scaled picture (Qwen)")
    run.add_argument("--system", metavar="TEXT", help="system message")
    run.add_argument("--raw", action="store_true", help="PROMPT is the final text: no chat template")
    run.add_argument("--max-tokens", type=int, default=256, metavar="N")
    run.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 (default): most likely token"
    )
    run.add_argument("--top-k", type=int, default=40, metavar="K")
    run.add_argument("--top-p", type=float, default=0.95, metavar="P")
    run.add_argument("--min-p", type=float, default=0.05, metavar="P")
    run.add_argument("--repeat-penalty", type=float, default=1.0, metavar="X")
    run.add_argument("--seed", type=int, metavar="N")
    run.add_argument("--stop", action="append", metavar="TEXT", help="ends the answer; may be repeated")
    run.add_argument(
        "--keep", type=float, metavar="SHARE",
        help=f"share of the visual tokens that the model reads, in (0, 1] (default {DEFAULT_PRUNING.keep})",
    )  # fmt: skip
    run.add_argument("--max-visual", type=int, metavar="N", help="in place of --keep: N visual tokens in all")
    run.add_argument(
        "--coverage", type=float, metavar="C",
        help="in place of --keep: as many as leave no token without a kept one at cosine C, in (0, 1)",
    )  # fmt: skip
    run.add_argument("--fit", action="store_true", help="in place of --keep: as many as fit the context")
    run.add_argument("--selector", choices=SELECTORS, default=DEFAULT_PRUNING.selector)
    run.add_argument("--no-pruning", action="store_true", help="the model reads every visual token")
    run.add_argument("--overlay", metavar="DIR", help="write pictures that show what was kept to DIR")
    run.add_argument("--json", action="store_true", help="print the whole result as JSON at the end")
    run.set_defaults(function=_run)

    inspect = commands.add_parser("inspect", help="show what a GGUF file holds")
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--json", action="store_true")
    inspect.set_defaults(function=_inspect)

    merge = commands.add_parser("merge", help="put language model and vision part into one file")
    merge.add_argument("lm", metavar="LM")
    merge.add_argument("mmproj", metavar="MMPROJ")
    merge.add_argument("-o", "--output", required=True, metavar="OUT")
    merge.add_argument("--force", action="store_true", help="overwrite OUT")
    merge.set_defaults(function=_merge)

    bench = commands.add_parser("bench", parents=[load], help="time the phases")
    bench.add_argument(
        "-i", "--image", action="append", default=[], metavar="FILE",
        help="time the encoding of this image too; may be repeated with --keep",
    )  # fmt: skip
    bench.add_argument(
        "--keep", type=_shares, metavar="A,B",
        help="compare shares of kept visual tokens, such as 1,0.5,0.2,0.1, from pictures to answer",
    )  # fmt: skip
    bench.add_argument(
        "--pictures", type=_positive, default=4, metavar="N",
        help="with --keep and without -i: N made-up pictures (default 4)",
    )  # fmt: skip
    bench.add_argument("--selector", choices=SELECTORS, default=DEFAULT_PRUNING.selector)
    bench.add_argument("--csv", metavar="FILE", help="write the table of --keep as CSV")
    bench.add_argument("--plot", metavar="FILE", help="write the table of --keep as a PNG (needs matplotlib)")
    bench.add_argument("--pp", type=_positive, default=512, metavar="N", help="rows to prefill (default 512)")
    bench.add_argument("--tg", type=_positive, default=64, metavar="N", help="tokens to decode (default 64)")
    bench.add_argument(
        "-r", "--repeat", type=_positive, default=3, metavar="N", help="runs of each (default 3)"
    )
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(function=_bench)

    evaluation = commands.add_parser(
        "eval", help="compare selectors and ratios on questions with known answers"
    )
    eval_command.add_arguments(evaluation)
    evaluation.set_defaults(function=eval_command.run)

    kernels = commands.add_parser("kernels", help="show which instruction set serves each op")
    kernels.add_argument("--json", action="store_true")
    kernels.set_defaults(function=_kernels)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process) and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding lacks
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code: int | None = args.function(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ntrimtok: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; a second flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"trimtok: error: {text}", file=sys.stderr)
        return 1
    return code or 0
