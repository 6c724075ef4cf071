"""Chat templates from model files, run in Jinja2's sandbox under limits.

A template is data from outside. Jinja2's sandbox keeps it away from Python's internals but not from the
machine: nested loops, recursive macros and string doubling can run for ever or take all memory. So loops,
calls and operators are counted here, every new string and list is measured, and anything whose cost cannot
be measured (unlisted filters, str.format, recursive loops) is refused.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import GeneratorType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .errors import ModelFormatError

__all__ = ["ChatTemplate"]

MAX_SOURCE_CHARS = 128 * 1024
MAX_OUTPUT_CHARS = 4 * 1024 * 1024
MAX_STRING_CHARS = 4 * 1024 * 1024  # of one string, and of all strings in one container
MAX_TOTAL_CHARS = 32 * 1024 * 1024  # of all strings made during one rendering
MAX_NODES = 50_000  # elements of one container, nested ones included
MAX_STEPS = 2_000_000  # loop iterations, calls, operators
MAX_RANGE = 10_000
MAX_INT_BITS = 256
MAX_CPU_SECONDS = 5.0

# What published templates use, and harmless relatives; the rest has no measured cost.
_PLAIN_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last",
    "length", "lower", "max", "min", "reverse", "sort", "title", "trim", "unique", "upper",
)  # fmt: skip
_LAZY_FILTERS = ("map", "reject", "rejectattr", "select", "selectattr")
_STR_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip",
    "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition",
    "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
))  # fmt: skip
_DICT_METHODS = frozenset(("get", "items", "keys", "values"))
_SEQUENCE_METHODS = frozenset(("count", "index"))
_PERCENT_WIDTH = re.compile(r"\d{4}|\*")
_STRFTIME = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")


class _LimitError(jinja2.TemplateRuntimeError):
    """The template reached a limit of this module."""


class _RefusalError(jinja2.TemplateRuntimeError):
    """The template called raise_exception."""


class _Budget:
    """What one rendering has used."""

    def __init__(self) -> None:
        self.steps = 0
        self.chars = 0
        self.deadline = time.thread_time() + MAX_CPU_SECONDS

    def tick(self, steps: int = 1) -> None:
        before = self.steps
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise _LimitError(f"it takes more than {MAX_STEPS} steps")
        # Every 64 steps: one step costs a few milliseconds at most, the clock less than a microsecond.
        if before >> 6 != self.steps >> 6 and time.thread_time() > self.deadline:
            raise _LimitError(f"it runs longer than {MAX_CPU_SECONDS:g} seconds")

    def charge(self, chars: int) -> None:
        self.chars += chars
        if chars > MAX_STRING_CHARS:
            raise _LimitError(f"it makes a string of {chars} characters, the limit is {MAX_STRING_CHARS}")
        if self.chars > MAX_TOTAL_CHARS:
            raise _LimitError(f"it makes more than {MAX_TOTAL_CHARS} characters of text")


class _Counted:
    """An iterable whose every element costs a step, and `chars` characters of constant template text."""

    def __init__(self, inner: Iterable[Any], budget: _Budget, chars: int = 0) -> None:
        self._inner, self._budget, self._chars = inner, budget, chars

    def __iter__(self) -> Iterator[Any]:
        for item in self._inner:
            self._budget.tick()
            self._budget.charge(self._chars)
            yield item

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]  # TypeError is the right answer for a generator


class _GenerationTag(Extension):
    """{% generation %}: marks assistant text for training; only its body matters here."""

    tags = {"generation"}  # noqa: RUF012 (Jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Instrument(NodeTransformer):
    """Routes loops, `~`, slices and container literals through the environment, where they are measured."""

    @staticmethod
    def _call(name: str, *args: nodes.Node, line: int) -> nodes.Call:
        return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None, lineno=line)

    def visit_For(self, node: nodes.For) -> nodes.For:
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not supported", node.lineno)
        chars = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = self._call("limit_loop", node.iter, nodes.Const(chars), line=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("limit_concat", *node.nodes, line=node.lineno)

    def _measured(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return self._call("limit_value", node, line=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        if isinstance(node.arg, nodes.Slice):
            return self._measured(node)
        self.generic_visit(node)
        return node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        if node.ctx == "load":
            return self._measured(node)
        return node

    visit_List = visit_Dict = _measured


class _Environment(ImmutableSandboxedEnvironment):
    """Hugging Face's template environment plus limits. Threads may render at the same time."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constant folding would run filters outside the budget
            finalize=self._finalize,
            extensions=[_GenerationTag, LoopControlExtension],
        )
        self._local = threading.local()
        self.filters = {name: self._guard(FILTERS[name]) for name in _PLAIN_FILTERS}
        self.filters |= {name: self._guard_lazy(FILTERS[name]) for name in _LAZY_FILTERS}
        self.filters |= {
            "indent": self._filter_indent,
            "join": self._filter_join,
            "list": self._filter_list,
            "replace": self._replace,
            "round": self._filter_round,
            "safe": self._text,
            "string": self._text,
            "tojson": self._filter_tojson,
        }
        self.globals = {
            "dict": dict,
            "namespace": jinja2.utils.Namespace,
            "raise_exception": _raise_exception,
            "range": _limited_range,
            "strftime_now": _strftime_now,
        }

    # -- budget -------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._local.budget = _Budget()

    @property
    def _budget(self) -> _Budget:
        return self._local.budget  # type: ignore[no-any-return]

    def limit_loop(self, iterable: Iterable[Any], chars: int) -> _Counted:
        return _Counted(iterable, self._budget, chars)

    def limit_concat(self, *values: Any) -> str:
        texts = [self._text(value) for value in values]
        self._budget.charge(sum(map(len, texts)))
        return "".join(texts)

    def limit_value(self, value: Any) -> Any:
        if isinstance(value, str):
            self._budget.charge(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self._weigh(value)
        elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise _LimitError(f"it makes an integer of {value.bit_length()} bits")
        return value

    def _weigh(self, container: Any) -> int:
        """The number of elements and characters; shared sub-lists count each time they are reached, because
        printing or comparing them costs that much."""
        count = chars = 0
        stack = [container]
        while stack:
            value = stack.pop()
            count += 1
            if isinstance(value, str):
                chars += len(value)
            elif isinstance(value, dict):
                stack.extend(value)
                stack.extend(value.values())
            elif isinstance(value, (list, tuple)):
                stack.extend(value)
            if count + len(stack) > MAX_NODES or chars > MAX_STRING_CHARS:
                raise _LimitError(f"it makes a list of more than {MAX_NODES} elements or too much text")
        self._budget.tick(count)
        return count + chars

    # -- printing -----------------------------------------------------------------------------------------

    def _text(self, value: Any) -> str:
        if type(value) is str:
            return value
        if isinstance(value, (list, tuple, dict)):
            self._weigh(value)
        elif not (value is None or isinstance(value, (str, int, float, Undefined))):
            raise _LimitError(f"it prints an object of type {type(value).__name__}")
        return str(value)

    @jinja2.pass_context  # a finalizer without a context would be applied at compile time
    def _finalize(self, context: Context, value: Any) -> str:
        text = self._text(value)
        self._budget.tick()
        self._budget.charge(len(text))
        return text

    # -- calls and operators ------------------------------------------------------------------------------

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._budget.tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and not isinstance(__obj, type):
            if __obj.__name__ == "replace":
                return __self._replace(owner, *args, **kwargs)
            if __obj.__name__ == "join" and len(args) == 1:
                return __self._filter_join(args[0], owner)
        return __self.limit_value(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._budget.tick()
        if operator == "*":
            self._check_product(left, right)
        elif operator == "**":
            bits = left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
            if bits > MAX_INT_BITS:
                raise _LimitError(f"it makes an integer of {bits} bits")
        elif operator == "%" and isinstance(left, (str, bytes)):
            if not isinstance(left, str) or _PERCENT_WIDTH.search(left, max(0, left.find("%"))):
                raise _LimitError("it formats text with a width above 999")
            self._budget.charge(left.count("%") * (999 + self._weigh((right,))))
        elif operator == "+":
            elements = sum(len(side) for side in (left, right) if isinstance(side, (str, list, tuple)))
            if elements > MAX_STRING_CHARS:
                raise _LimitError(f"it makes a value of {elements} elements")
        return self.limit_value(super().call_binop(context, operator, left, right))

    def _check_product(self, left: Any, right: Any) -> None:
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
                limit = MAX_STRING_CHARS if isinstance(value, (str, bytes)) else MAX_NODES
                if len(value) * times > limit:
                    raise _LimitError(f"it makes a value of {len(value) * times} elements")

    def wrap_str_format(self, value: Any) -> None:
        """str.format stays refused: a width in it allocates before anything can be measured."""
        return None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STR_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in _SEQUENCE_METHODS
        if obj is None or isinstance(obj, (int, float, complex, bytes, range, GeneratorType, type)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    # -- filters ------------------------------------------------------------------------------------------

    def _guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # keeps Jinja2's marks on the function
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._budget.tick()
            return self.limit_value(function(*args, **kwargs))

        return guarded

    def _guard_lazy(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def guarded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            return function(context, _Counted(value, self._budget), *args, **kwargs)

        return guarded

    def _filter_list(self, value: Iterable[Any]) -> list[Any]:
        items: list[Any] = []
        for item in _Counted(value, self._budget):
            if len(items) >= MAX_NODES:
                raise _LimitError(f"it makes a list of more than {MAX_NODES} elements")
            items.append(item)
        self._weigh(items)
        return items

    def _filter_join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        items = self._filter_list(value)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        texts = [self._text(item) for item in items]
        separator = self._text(d)
        self._budget.charge(sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1))
        return separator.join(texts)

    def _replace(self, value: Any, old: str, new: str, count: int | None = None) -> str:
        text = self._text(value)
        found = len(text) + 1 if old == "" else text.count(old)
        times = found if count is None or count < 0 else min(count, found)
        self._budget.charge(len(text) + times * (len(new) - len(old)))
        return text.replace(old, new, -1 if count is None else count)

    def _filter_indent(self, value: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
        text = self._text(value)
        if not isinstance(width, int) or not 0 <= width <= 64:
            raise _LimitError("it indents by something that is not in 0..64")
        self._budget.charge(len(text) + width * (text.count("\n") + 1))
        lines = text.splitlines() or [""]
        pad = " " * width
        return "\n".join(
            pad + line if (index > 0 and (blank or line)) or (index == 0 and first) else line
            for index, line in enumerate(lines)
        )

    @staticmethod
    def _filter_round(value: float, precision: int = 0, method: str = "common") -> float:
        if method != "common" or not -20 <= precision <= 20:
            raise _LimitError("it rounds by a method or precision that is not supported")
        return round(float(value), precision)

    def _filter_tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        self._weigh((value,))
        if indent is not None and (not isinstance(indent, int) or not 0 <= indent <= 16):
            raise _LimitError("it asks for JSON with an indent that is not in 0..16")
        if separators is not None and sum(map(len, separators)) > 16:
            raise _LimitError("it asks for JSON with long separators")
        text = json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        self._budget.charge(len(text))
        return text


def _raise_exception(message: Any = "") -> NoReturn:
    raise _RefusalError(str(message)[:300] if isinstance(message, str) else "no reason given")


def _limited_range(*args: int) -> range:
    numbers = range(*args)
    # len() overflows beyond sys.maxsize; slicing tells without counting.
    if numbers[MAX_RANGE:]:
        raise _LimitError(f"it makes a range of more than {MAX_RANGE} numbers")
    return numbers


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 100 or not _STRFTIME.fullmatch(pattern):
        raise _LimitError("it formats the date with a pattern that is too long or sets widths")
    return datetime.now().strftime(pattern)


def _template_line(error: BaseException) -> int | None:
    """The line of the template that was running when `error` was raised."""
    line = getattr(error, "lineno", None) if isinstance(error, jinja2.TemplateSyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class ChatTemplate:
    """A compiled template. Rendering is safe for any source text and from any thread."""

    def __init__(self, source: str, name: str = "tokenizer.chat_template") -> None:
        """Compiles `source`; `name` says in messages where it came from.

        Raises ModelFormatError when the source is no valid template or is beyond the limits.
        """
        self.source = source
        self._name = name
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelFormatError(
                f"[chat template] {name} has {len(source)} characters, the limit is {MAX_SOURCE_CHARS}; "
                "use raw=True with a prompt of your own"
            )
        self._environment = _Environment()
        self._environment.start()
        try:
            tree = self._environment.parse(source)
            self._template = self._environment.from_string(_Instrument().visit(tree))
        except Exception as error:  # hostile source brings out many kinds, MemoryError included
            raise self._error(error, "cannot be compiled") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        bos_token: str = "",
        eos_token: str = "",
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text for `messages`.

        Raises ValueError when the template itself refuses the messages (raise_exception) and
        ModelFormatError when it fails or goes beyond the limits.
        """
        self._environment.start()
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(
                messages=messages,
                bos_token=bos_token,
                eos_token=eos_token,
                add_generation_prompt=add_generation_prompt,
            ):
                size += len(piece)
                if size > MAX_OUTPUT_CHARS:
                    raise _LimitError(f"it prints more than {MAX_OUTPUT_CHARS} characters")
                pieces.append(piece)
        except _RefusalError as error:
            raise ValueError(f"[chat template] {self._name} refuses these messages: {error}") from error
        except Exception as error:  # any Python exception can come out of an expression
            raise self._error(error, "fails") from error
        return "".join(pieces)

    def _error(self, error: Exception, what: str) -> ModelFormatError:
        line = _template_line(error)
        where = f" at line {line}" if line is not None else ""
        message = error.message if isinstance(error, jinja2.TemplateError) else str(error)
        reason = (message or type(error).__name__)[:300]
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return ModelFormatError(
            f"[chat template] {self._name} {what}{where}: {kind}{reason}; "
            "use raw=True with a prompt of your own, or another file"
        )
