#!/usr/bin/env bash
# Writes the type stub of the installed extension to DIR/_core.pyi (default: into the package).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/python/trimtok_cpp}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# From another folder, so that the installed package is read and not the sources.
(cd "$scratch" && python -m pybind11_stubgen trimtok_cpp._core -o "$scratch" --exit-code)
mkdir -p "$out"
found=$(find "$scratch" -path '*trimtok_cpp/_core*.pyi' | sort)
if [ "$(printf '%s\n' "$found" | wc -l)" = 1 ]; then
  cp "$found" "$out/_core.pyi"
else
  rm -rf "$out/_core"
  mkdir -p "$out/_core"
  cp "$scratch"/trimtok_cpp/_core/*.pyi "$out/_core/"
fi
