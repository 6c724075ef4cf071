"""Dimensions of real models, for files with random weights."""

from __future__ import annotations

import dataclasses

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class LmShape:
    """A decoder of llama's form; `arch` adds what its family has beside."""

    arch: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rope_base: float = 10000.0
    eps: float = 1e-5
    tied: bool = False  # the output matrix is that of the embeddings
    special: tuple[str, ...] = ()  # control tokens of its prompts

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_heads


@dataclasses.dataclass(frozen=True)
class TowerShape:
    """A vision transformer; `projector` decides what lies behind it."""

    projector: str
    n_layers: int
    width: int
    n_heads: int
    n_ff: int
    image_size: int
    patch: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


@dataclasses.dataclass(frozen=True)
class Shape:
    lm: LmShape
    tower: TowerShape
    picture: int  # side of the square pictures that it is timed with
    rows: int  # of the prompt for one of them, or a little less


_QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
_SMOLVLM_TOKENS = (
    "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
)  # fmt: skip

SHAPES = {
    # TinyLlama 1.1B with CLIP ViT-L/14-336: the shapes of LLaVA-1.5 at a size that two cores can time.
    "llava-1.1b": Shape(
        LmShape("llama", 22, 2048, 32, 4, 5632, 32000, 4096),
        TowerShape("mlp", 23, 1024, 16, 4096, 336, 14),
        picture=336,
        rows=580,
    ),
    # SmolLM2-135M with SigLIP-B/16-512: a picture of 2048 pixels is 16 tiles and an overview.
    "smolvlm-256m": Shape(
        LmShape("llama", 30, 576, 9, 3, 1536, 49280, 8192, 100000.0, tied=True, special=_SMOLVLM_TOKENS),
        TowerShape("idefics3", 12, 768, 12, 3072, 512, 16, HALF, HALF),
        picture=512,
        rows=1200,
    ),
    "qwen2-vl-2b": Shape(
        LmShape(
            "qwen2vl", 28, 1536, 12, 2, 8960, 151936, 32768, 1e6, eps=1e-6, tied=True, special=_QWEN_TOKENS
        ),
        TowerShape("qwen2vl_merger", 32, 1280, 16, 5120, 560, 14),
        picture=448,
        rows=260,
    ),
    # Loads and answers in a moment: for trying the API.
    "demo": Shape(
        LmShape("llama", 4, 256, 8, 2, 768, 4096, 4096),
        TowerShape("mlp", 4, 192, 4, 768, 112, 14),
        picture=112,
        rows=70,
    ),
}
