"""Asks the small model that comes with the package about eight pictures, at a fifth of their tokens.

    python examples/quickstart.py

Put the path of a GGUF model of your own in place of TINY, and your own pictures and words.
"""

from __future__ import annotations

from trimtok_cpp import Model
from trimtok_cpp.demo import PICTURES, TINY


def main() -> None:
    model = Model(TINY)
    pictures = sorted(PICTURES.glob("*.png"))
    question = "What text is in image 2?"

    print(question, "> ", end="")
    stream = model.generate(pictures, question, pruning=0.2, stream=True)
    for piece in stream:
        print(piece, end="", flush=True)

    result = stream.result
    print(f"\n\n{result.usage}\n{result.timings}")
    if result.pruning is not None:
        print(f"\n{result.pruning.summary()}")
        result.pruning.overlay(1).resize((384, 384)).save("kept.png")
        print("\nkept.png shows what the model read of image 2: bright cells stayed, dim ones went")


if __name__ == "__main__":
    main()
