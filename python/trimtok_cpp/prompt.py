"""From messages to the prompt text that the engine takes.

The engine marks the place of a picture with U+FDD1 and drops U+FDD0, which this module puts into user text to
keep a spelled-out special token ("</s>") from becoming one. Both are Unicode noncharacters; neither is
accepted from outside.

Order of pictures and text: in `generate` a prompt with "<image>" keeps the order it spells out; without it
the pictures come first. In `chat` the model's template decides: LLaVA's prints a message's pictures before
its text, as the original processors do, others keep the order of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from .errors import ModelFormatError, UnsupportedError
from .images import ImageSource
from .templates import ChatTemplate

__all__ = [
    "IMAGE_TAG",
    "ChatFormat",
    "Message",
    "Picture",
    "last_question",
    "parse_messages",
    "place_images",
    "raw_prompt",
    "repeat_tag",
    "without_pictures",
]

IMAGE_TAG: Final = "<image>"
MARKER: Final = "\ufdd1"
GUARD: Final = "\ufdd0"
ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True)
class Picture:
    """The place of the next picture inside a message."""


Part: TypeAlias = "str | Picture"
_Form: TypeAlias = "Callable[[Sequence[Part]], Any]"


@dataclass(frozen=True)
class Message:
    """One turn: texts (cleaned, not yet guarded) and pictures in order."""

    role: str
    parts: tuple[Part, ...]


def clean(text: str, argument: str) -> str:
    """Text from outside without the two reserved noncharacters."""
    if not isinstance(text, str):
        raise TypeError(f"[{argument}] is of type {type(text).__name__}, must be str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"[{argument}] holds a lone surrogate at character {error.start}; it must be valid Unicode"
        ) from None
    return text.replace(MARKER, "").replace(GUARD, "")


def raw_prompt(prompt: str, n_images: int, bos_token: str, add_bos: bool) -> str:
    """A final prompt: "<image>" becomes the marker, without one the bare markers go in front.

    The text of the BOS token at the start is taken off when the tokenizer adds BOS itself.
    """
    text = _without_bos(clean(prompt, "prompt"), bos_token, add_bos)
    if _count_tags(text, n_images):
        return text.replace(IMAGE_TAG, MARKER)
    return MARKER * n_images + text


def place_images(prompt: str, n_images: int) -> tuple[tuple[Part, ...], bool]:
    """The parts of a user message for `generate`, and whether the prompt itself places the pictures."""
    text = clean(prompt, "prompt")
    if not _count_tags(text, n_images):
        return (*(Picture() for _ in range(n_images)), *((text,) if text else ())), False
    parts: list[Part] = []
    for index, piece in enumerate(text.split(IMAGE_TAG)):
        if index > 0:
            parts.append(Picture())
        if piece:
            parts.append(piece)
    return tuple(parts), True


def _count_tags(text: str, n_images: int) -> int:
    found = text.count(IMAGE_TAG)
    if found not in (0, n_images):
        raise ValueError(
            f"[prompt] holds {found} '{IMAGE_TAG}' marker(s) for {n_images} image(s); "
            "give every image one marker, or write none to have the images first"
        )
    return found


def repeat_tag(prompt: str, count: int) -> str:
    """The prompt with its one "<image>", which stands for a video, repeated for every frame."""
    text = clean(prompt, "prompt")
    if _count_tags(text, 1):
        return text.replace(IMAGE_TAG, IMAGE_TAG * count)
    return text


def without_pictures(prompt: str) -> str:
    """The user's words alone, for the pruner."""
    return clean(prompt, "prompt").replace(IMAGE_TAG, "")


def last_question(messages: Sequence[Message]) -> str:
    """The words of the last user message: what is being asked now."""
    for message in reversed(messages):
        if message.role == "user":
            return "".join(part for part in message.parts if isinstance(part, str))
    return ""


def parse_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Message], list[ImageSource]]:
    """Checks OpenAI-style messages; returns them with their pictures in order."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(f"[messages] is of type {type(messages).__name__}, must be a list of dictionaries")
    if not messages:
        raise ValueError("[messages] is empty; give at least one message")
    out: list[Message] = []
    sources: list[ImageSource] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise TypeError(f"[{where}] is of type {type(message).__name__}, must be a dictionary")
        role = message.get("role")
        if role not in ROLES:
            raise ValueError(f"[{where}] has role {role!r}, must be one of {', '.join(ROLES)}")
        content = message.get("content")
        parts: list[Part] = []
        if isinstance(content, str):
            parts.append(clean(content, f"{where}.content"))
        elif isinstance(content, Sequence) and not isinstance(content, bytes):
            for number, part in enumerate(content):
                _parse_part(part, f"{where}.content[{number}]", parts, sources)
        else:
            kind = type(content).__name__
            raise TypeError(f"[{where}.content] is of type {kind}, must be str or a list of parts")
        out.append(Message(str(role), tuple(parts)))
    return out, sources


def _parse_part(part: Any, where: str, parts: list[Part], sources: list[ImageSource]) -> None:
    if not isinstance(part, Mapping):
        raise TypeError(f"[{where}] is of type {type(part).__name__}, must be a dictionary")
    kind = part.get("type")
    if kind == "text":
        parts.append(clean(part.get("text"), f"{where}.text"))  # type: ignore[arg-type]  # clean() checks it
        return
    if kind == "image_url":
        source = part.get("image_url")
        if isinstance(source, Mapping):
            source = source.get("url")
        if not isinstance(source, str):
            raise TypeError(f"[{where}.image_url] must be a path or data URL, or {{'url': ...}} with one")
    elif kind == "image":
        source = part.get("image")
        if source is None:
            raise ValueError(f"[{where}] has no 'image': pass a path, bytes, a PIL.Image or a numpy array")
    else:
        raise ValueError(f"[{where}] has type {kind!r}, must be 'text', 'image_url' or 'image'")
    parts.append(Picture())
    sources.append(source)


def _without_bos(text: str, bos_token: str, add_bos: bool) -> str:
    return text.removeprefix(bos_token) if add_bos and bos_token else text


class SpecialGuard:
    """Breaks spellings of the given texts with U+FDD0, also those that only joining texts completes."""

    def __init__(self, texts: Iterable[str]) -> None:
        # One character cannot be broken; no published vocabulary has such a control token.
        self._texts = {text for text in texts if len(text) > 1}
        self._lengths = sorted({len(text) for text in self._texts})
        self._pairs = {text[:2] for text in self._texts}
        self._heads = {text[:n] for text in self._texts for n in range(1, len(text))}
        self._tails = {text[n:] for text in self._texts for n in range(1, len(text))}
        firsts = "".join(map(re.escape, sorted({text[0] for text in self._texts})))
        self._first = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def __call__(self, text: str) -> str:
        body = text.strip()
        if not body or not self._texts:
            return text
        # Templates trim texts and join them with each other and with their own; so the ends count too.
        longest = self._lengths[-1]
        before = any(body[:n] in self._tails for n in range(1, min(longest, len(body) + 1)))
        after = any(body[-n:] in self._heads for n in range(1, min(longest, len(body) + 1)))
        pieces: list[str] = []
        done = 0
        for match in self._first.finditer(body):
            start = match.start()
            if body[start : start + 2] in self._pairs and any(
                body[start : start + n] in self._texts for n in self._lengths
            ):
                pieces += (body[done : start + 1], GUARD)
                done = start + 1
        pieces.append(body[done:])
        lead = text[: len(text) - len(text.lstrip())]
        trail = text[len(text.rstrip()) :]
        return "".join((lead, GUARD if before else "", *pieces, GUARD if after else "", trail))


class ChatFormat:
    """Renders conversations with one model's chat template. Immutable, usable from several threads."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        """`info` is the extension's Model.info(). Raises ModelFormatError for a broken template."""
        self._bos: str = info["bos_token"]
        self._eos: str = info["eos_token"]
        self._add_bos: bool = info["add_bos"]
        self._placeholder: str = info["placeholder"] or ""
        named: Mapping[str, str] = info["chat_templates"]
        source = info["chat_template"] or named.get("default") or info["fallback_template"]
        if not source:
            raise UnsupportedError(
                f"[chat template] {info['lm_path']} has none, and none is published for architecture "
                f"{info['arch']!r}; use generate(..., raw=True) with a prompt of your own"
            )
        # Older LLaVA-1.6 exports end assistant turns with "<\s>" where "</s>" is meant (spec 11.2).
        source = source.replace("<\\\\s>", "</s>").replace("<\\s>", "</s>")
        self._template = ChatTemplate(source)
        self._guard = SpecialGuard((*info["special_texts"], self._placeholder))
        # Spec 11.1: a template that knows its family's placeholder takes typed parts, any other gets markers.
        self._typed = bool(self._placeholder) and self._placeholder in source
        self._ordered = self._typed and self._keeps_order()

    def render(self, messages: Sequence[Message], placed: bool = False) -> str:
        """The prompt text, one U+FDD1 per picture.

        With `placed` the order of texts and pictures is kept even if the template puts the pictures first.
        Raises ValueError when the template refuses the messages, ModelFormatError when it fails or loses one.
        """
        n_images = sum(isinstance(part, Picture) for message in messages for part in message.parts)
        loose = "" if placed else "\n"

        def as_string(parts: Sequence[Part]) -> str:
            return self._joined(parts, loose)

        def as_list(parts: Sequence[Part]) -> list[dict[str, str]]:
            return [{"type": "text", "text": self._joined(parts, loose)}]

        forms: list[_Form]
        if self._typed:
            keep = n_images > 0 and placed and not self._ordered
            forms = [as_list if keep else self._typed_parts, as_string]
        else:
            forms = [as_string, as_list]
        first_error: ValueError | None = None
        incomplete: str | None = None
        for form in forms:
            try:
                text = self._render(messages, form, n_images)
            except ValueError as error:
                first_error = first_error or error
                continue
            if self._complete(text, messages):
                return text
            incomplete = incomplete or text
        if incomplete is not None:
            return incomplete  # a template may rewrite what it prints; it did print something
        raise first_error or AssertionError

    def _render(self, messages: Sequence[Message], form: _Form, n_images: int) -> str:
        text = self._template.render(
            [{"role": message.role, "content": form(message.parts)} for message in messages],
            bos_token=self._bos,
            eos_token=self._eos,
        )
        if self._placeholder:
            text = text.replace(self._placeholder, MARKER)
        if text.count(MARKER) != n_images:
            raise ModelFormatError(
                f"[chat template] printed {text.count(MARKER)} picture(s) for {n_images} image(s); "
                "use raw=True with a prompt of your own"
            )
        if not text.strip():
            raise ModelFormatError("[chat template] printed nothing; use raw=True with a prompt of your own")
        return _without_bos(text, self._bos, self._add_bos)

    def _complete(self, text: str, messages: Sequence[Message]) -> bool:
        wanted = (part for message in messages if message.role == "user" for part in message.parts)
        return all(self._guard(part).strip() in text for part in wanted if isinstance(part, str))

    def _typed_parts(self, parts: Sequence[Part]) -> list[dict[str, str]]:
        return [
            {"type": "text", "text": self._guard(part)} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]

    def _joined(self, parts: Sequence[Part], after_picture: str) -> str:
        """One string; a newline between two texts, `after_picture` after each marker (LLaVA, InternVL)."""
        out = ""
        previous: Part | None = None
        for part in parts:
            if isinstance(part, Picture):
                out += MARKER + after_picture
            else:
                out += ("\n" if isinstance(previous, str) else "") + self._guard(part)
            previous = part
        return out

    def _keeps_order(self) -> bool:
        """Whether the template prints a picture that stands between two texts between them."""
        try:
            text = self._render([Message("user", ("before", Picture(), "after"))], self._typed_parts, 1)
        except ValueError:
            return False
        return text.find("before") < text.find(MARKER) < text.find("after")
