#!/usr/bin/env bash
# Writes the type stubs of the installed extension to DIR (default: python/trimtok_cpp/_core).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/python/trimtok_cpp/_core}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# From another folder, so that the installed package is read and not the sources.
(cd "$scratch" && python -m pybind11_stubgen trimtok_cpp._core -o "$scratch" --exit-code)
mkdir -p "$out"
cp "$scratch"/trimtok_cpp/_core/*.pyi "$out/"
