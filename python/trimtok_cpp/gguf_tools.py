"""What a GGUF file holds, and a language model merged with its projector into one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, UnsupportedError

__all__ = ["inspect_dict", "inspect_text", "merge"]

PathLike = str | os.PathLike[str]

_SHOWN_ELEMENTS = 6
_SHOWN_CHARACTERS = 72
_KINDS = {
    "language model": "language model",
    "projector": "vision tower with projector (mmproj)",
    "combined": "language model with vision tower and projector (combined)",
    "ollama": "language model with vision tower in Ollama's single-file dialect",
}


def inspect_dict(path: PathLike) -> dict[str, Any]:
    """What a GGUF file holds, as plain dicts and lists.

    Arrays of the metadata are cut to their first elements (``count`` has the real length), bytes that are no
    UTF-8 appear as ``\\xff``. Shapes are in numpy's order, sizes in bytes. Raises OSError, ModelFormatError
    or UnsupportedError for files that cannot be read.
    """
    file = _core.GgufFile(path)
    tensors = file.tensors
    types: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        total = types.setdefault(tensor["dtype"], {"tensors": 0, "bytes": 0})
        total["tensors"] += 1
        total["bytes"] += tensor["bytes"]
    stored = file.value_types
    architecture = file.metadata.get("general.architecture")
    has_language, has_vision = file.kind != "projector", file.kind in ("projector", "combined")
    return {
        "path": _valid(file.path),
        "version": file.version,
        "bytes": file.file_bytes,
        "shards": file.n_shards,
        "kind": file.kind,
        "architecture": _valid(architecture) if has_language else None,
        "language": _core.supported_decoders().get(str(architecture)) if has_language else None,
        "projector": _valid(file.projector_type) or None if has_vision else None,
        "vision": _core.supported_projectors().get(file.projector_type) if has_vision else None,
        "metadata": {key: _entry(value, *stored[key]) for key, value in file.metadata.items()},
        "tensors": [
            {"name": t["name"], "shape": list(t["shape"]), "type": t["dtype"], "bytes": t["bytes"]}
            for t in tensors
        ],
        "types": types,
        "unsupported": _unsupported(file),
        "warnings": file.warnings,
    }


def inspect_text(path: PathLike) -> str:
    """The same as `inspect_dict`, as a table for people."""
    info = inspect_dict(path)
    family = [_KINDS[info["kind"]]]
    if info["architecture"] is not None:
        family.append(f"architecture {_printable(str(info['architecture']))}{_models(info['language'])}")
    if info["projector"] is not None:
        family.append(f"projector {_printable(info['projector'])}{_models(info['vision'])}")
    shards = f" in {info['shards']} files" if info["shards"] > 1 else ""
    lines = [
        f"{_printable(info['path'])}",
        f"GGUF version {info['version']}, {_size(info['bytes'])}{shards}",
        ", ".join(family),
        "",
        f"metadata ({len(info['metadata'])} keys)",
        *_table([(key, entry["type"], _shown(entry)) for key, entry in info["metadata"].items()]),
        "",
        f"tensors ({len(info['tensors'])})",
        *_table(
            [
                (t["name"], " x ".join(map(str, t["shape"])), t["type"], _size(t["bytes"]))
                for t in info["tensors"]
            ]
        ),
        "",
        "by type",
        *_table([(name, f"{t['tensors']} tensors", _size(t["bytes"])) for name, t in info["types"].items()]),
    ]
    for title in ("unsupported", "warnings"):
        found = info[title]
        lines += (
            ["", f"{title}: none"] if not found else ["", title, *(f"  {_printable(text)}" for text in found)]
        )
    return "\n".join(lines)


def _models(names: str | None) -> str:
    return "" if names is None else f" ({names})"


def merge(
    lm_path: PathLike, mmproj_path: PathLike, out_path: PathLike, *, overwrite: bool = False
) -> list[str]:
    """Write one GGUF that holds a language model and its projector; returns remarks on what was left out.

    Tensors are copied byte for byte in their stored types. ``general.*`` comes from the language model,
    ``clip.*`` from the projector. The file appears under its name only after it was read back and compared.

    Raises ValueError for a pair that does not fit, FileExistsError when `out_path` exists and `overwrite` is
    false, OSError when writing fails, and what opening the two files raises.
    """
    out = Path(out_path)
    for source in (lm_path, mmproj_path):
        if out.exists() and out.samefile(source):
            raise ValueError(f"[merge] {out} is one of the files to merge, expected a new name")
    if out.exists() and not overwrite:
        raise FileExistsError(f"[merge] {out} exists; ask to overwrite it, or choose another name")

    notes: list[str] = list(_core.find_model_files(lm_path, mmproj_path)["notes"])
    lm, projector = _core.GgufFile(lm_path), _core.GgufFile(mmproj_path)
    if lm.kind != "language model":
        raise ValueError(f"[merge] {lm.path} already holds a vision tower, expected a plain language model")

    partial = out.with_name(out.name + ".partial")
    try:
        keys = _write(lm, projector, partial, notes)
        _check(partial, keys, [*lm.tensors, *projector.tensors])
        if out.exists() and not overwrite:
            raise FileExistsError(f"[merge] {out} appeared while the merged file was written")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return notes


def _keys(
    lm: _core.GgufFile, projector: _core.GgufFile, notes: list[str]
) -> Iterator[tuple[str, Any, tuple[int, Any]]]:
    lm_keys, lm_types = lm.metadata, lm.value_types
    for key, value in lm_keys.items():
        if not key.startswith("split."):  # the merged file is one file
            yield key, value, lm_types[key]
    projector_types = projector.value_types
    for key, value in projector.metadata.items():
        if key.startswith("clip."):
            if key in lm_keys:
                raise ValueError(
                    f"[merge] both files have the key {key!r}, expected it in {projector.path} only"
                )
            yield key, value, projector_types[key]
        elif not key.startswith("general."):
            notes.append(f"key {key!r} of {projector.path} was left out: it belongs to neither part")


def _write(lm: _core.GgufFile, projector: _core.GgufFile, partial: Path, notes: list[str]) -> dict[str, Any]:
    writer = GGUFWriter(partial, lm.metadata["general.architecture"])
    try:
        keys: dict[str, Any] = {}
        for key, value, (value_type, element_type) in _keys(lm, projector, notes):
            if value == []:
                notes.append(
                    f"key {key!r} was left out: it is an empty array, which the gguf package does not write"
                )
                continue
            keys[key] = value
            if key == "general.alignment":
                writer.add_custom_alignment(value)
            elif key != "general.architecture":  # the writer's constructor has added it
                element = None if element_type is None else GGUFValueType(element_type)
                writer.add_key_value(key, _raw_text(value), GGUFValueType(value_type), element)
        for file in (lm, projector):
            for tensor in file.tensors:
                # Any dtype but uint8 makes the writer take the shape as elements.
                any_dtype = np.dtype(np.float32)
                writer.add_tensor_info(
                    tensor["name"], tensor["shape"], any_dtype, tensor["bytes"], _type(tensor)
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for file in (lm, projector):
            for tensor in file.tensors:
                writer.write_tensor_data(file.tensor_data(tensor["name"], copy=False))
    finally:
        writer.close()
    return keys


def _check(path: Path, keys: dict[str, Any], tensors: list[dict[str, Any]]) -> None:
    merged = _core.GgufFile(path)

    def layout(listed: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(t["name"], t["type_id"], t["shape"], t["bytes"]) for t in listed]

    # repr: a NaN among the values is equal to itself here.
    if {k: repr(v) for k, v in merged.metadata.items()} != {k: repr(v) for k, v in keys.items()}:
        raise ModelFormatError(
            f"[merge] the keys of {path} are not those of its sources, expected a faithful copy"
        )
    if layout(merged.tensors) != layout(tensors):
        raise ModelFormatError(
            f"[merge] the tensors of {path} are not those of its sources, expected a faithful copy"
        )
    if merged.kind != "combined":
        raise ModelFormatError(
            f"[merge] {path} reads as {merged.kind}, expected both parts; has the projector clip.* keys?"
        )


def _type(tensor: dict[str, Any]) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(tensor["type_id"])
    except ValueError:
        raise UnsupportedError(
            f"[merge] tensor {tensor['name']!r} has type {tensor['dtype']}, "
            "which the installed gguf package does not know; install a newer one"
        ) from None


def _raw_text(value: Any) -> Any:
    """Strings as the file's bytes: they need not be UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_raw_text(element) for element in value]
    return value


def _valid(value: Any) -> Any:
    """Strings (alone or in a list) without the surrogates that stand for broken UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_valid(element) for element in value]
    return value


def _entry(value: Any, value_type: int, element_type: int | None) -> dict[str, Any]:
    name = GGUFValueType(value_type).name.lower()
    if element_type is None:
        return {"type": name, "value": _valid(value)}
    element = GGUFValueType(element_type).name.lower()
    return {"type": f"{element}[{len(value)}]", "value": _valid(value[:_SHOWN_ELEMENTS]), "count": len(value)}


def _unsupported(file: _core.GgufFile) -> list[str]:
    found = []
    if file.kind == "ollama":
        found.append("Ollama's single-file dialect: get the release with a separate mmproj file")
    architecture = file.metadata.get("general.architecture")
    if file.kind != "projector" and str(architecture) not in _core.supported_decoders():
        found.append(f"language model architecture {architecture!r}")
    if file.kind in ("projector", "combined") and file.projector_type not in _core.supported_projectors():
        found.append(f"projector type {file.projector_type!r}")
    unusable: dict[str, list[str]] = {}
    for tensor in file.tensors:
        if not tensor["usable"]:
            unusable.setdefault(tensor["dtype"], []).append(tensor["name"])
    for dtype, names in unusable.items():
        found.append(f"type {dtype} as a weight: {len(names)} tensors, the first is {names[0]!r}")
    return found


def _printable(text: str) -> str:
    """Without control characters: a file must not be able to drive the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shown(entry: dict[str, Any]) -> str:
    value = entry["value"]
    if "count" in entry:
        more = ", ..." if entry["count"] > len(value) else ""
        kind = entry["type"].partition("[")[0]
        return "[" + ", ".join(_shown({"type": kind, "value": element}) for element in value) + more + "]"
    if entry["type"] == "float32":
        return str(np.float32(value))  # the shortest digits that name it
    if isinstance(value, str):
        cut = value[:_SHOWN_CHARACTERS]
        return f'"{_printable(cut)}"' + ("..." if len(value) > len(cut) else "")
    return str(value)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _size(n: int) -> str:
    size, unit = float(n), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{n} B" if unit == "B" else f"{size:.1f} {unit}"
