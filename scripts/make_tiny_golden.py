#!/usr/bin/env python3
"""Writes tiny random models of every architecture and llama.cpp's logits for them.

    make_tiny_golden.py OUT_DIR [CASE...]

Needs the Python packages `gguf`, `numpy` and `llama-cpp-python` (see testdata/golden/README.md for the versions). Writes
`OUT_DIR/<case>.gguf`, `OUT_DIR/<case>.logits.bin` and `OUT_DIR/index.json`; with CASE names, only those and no index. The
weights come from a fixed seed and sit in the GGUF itself, so a test never has to draw them again.

The reference runs with F32 weights, an F32 KV cache and no flash attention; a quantized case is dequantized for it first.
It may not use the network or an unseeded generator.
"""
import ctypes
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import llama_cpp as ll
import numpy as np
from gguf import GGMLQuantizationType as Type

SEED = 20261
PROMPT_TOKENS = 40
GREEDY_TOKENS = 16
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


@dataclass
class Case:
    """One tiny model: the shape, what differs from the plain one, and why it is there."""

    name: str
    about: str
    arch: str = "llama"
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ffn: int = 96
    context: int = 128
    tokenizer: str = "spm"
    rope_base: float = 10000.0
    tied: bool = True
    qkv_bias: bool = False
    all_bias: bool = False
    keys: dict = field(default_factory=dict)  # further metadata under the architecture's prefix
    rope_factors: list | None = None
    types: dict = field(default_factory=dict)  # tensor suffix -> type; the rest is F32
    std: float = 0.2
    embedding_std: float = 0.5


def rope_case(name: str, about: str, **more) -> Case:
    """A smaller model for what only changes RoPE."""
    shape = dict(hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=64, layers=2)
    return Case(name, about, **{**shape, **more})


def yarn(factor: float, original: int, **more) -> dict:
    return {"rope.scaling.type": "yarn", "rope.scaling.factor": factor, "rope.scaling.original_context_length": original, **more}


MATRICES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "token_embd"]

CASES = [
    Case("llama", "plain llama: grouped queries, RoPE on neighbouring pairs, tied output"),
    rope_case("llama-untied", "its own output matrix", tied=False),
    rope_case("llama-mha", "as many key/value heads as query heads", heads=4, kv_heads=4, head_dim=8),
    rope_case("llama-mqa", "one key/value head for four query heads; odd sizes: heads of 12, a hidden size of 48, an MLP of 100",
              hidden=48, heads=4, kv_heads=1, head_dim=12, ffn=100),
    rope_case("llama-bias", "biases on Q, K, V, the attention output and the MLP", qkv_bias=True, all_bias=True),
    rope_case("llama-rope-linear", "linear RoPE scaling, factor 3", keys={"rope.scaling.type": "linear", "rope.scaling.factor": 3.0}),
    rope_case("llama-rope-base", "RoPE base 500000", rope_base=500000.0),
    rope_case("llama-rope-yarn", "YaRN, factor 4 over 32 positions, base 100 so that the ramp covers several pairs",
              rope_base=100.0, keys=yarn(4.0, 32)),
    rope_case("llama-rope-factors", "Llama 3's frequency factors (rope_freqs.weight)", rope_factors=[1.0, 1.0, 1.3, 2.1, 3.4, 5.5, 8.0, 8.0]),
    rope_case("gpt2", "learned positions, LayerNorm, fused QKV with biases, GELU, tied output", arch="gpt2", tokenizer="bpe-gpt-2",
              heads=4, kv_heads=4, head_dim=8, ffn=128, context=64),
    rope_case("gpt2-untied", "the same with its own output matrix", arch="gpt2", tokenizer="bpe-gpt-2", heads=2, kv_heads=2, head_dim=16,
              ffn=96, context=64, tied=False),
    Case("qwen2", "biases on Q, K and V, RoPE on halves, tied output", arch="qwen2", tokenizer="bpe-qwen2", qkv_bias=True, rope_base=1e6),
    rope_case("qwen2-yarn", "YaRN with RoPE on halves, factor 2 over 16 positions, an attention factor of 1.2", arch="qwen2",
              tokenizer="bpe-qwen2", qkv_bias=True, rope_base=100.0, tied=False, keys=yarn(2.0, 16, **{"rope.scaling.attn_factor": 1.2})),
    rope_case("qwen3", "RMSNorm of every head of Q and K, heads wider than hidden / heads", arch="qwen3", tokenizer="bpe-qwen2",
              hidden=48, heads=4, kv_heads=2, head_dim=24, ffn=96, rope_base=1e6),
    rope_case("qwen3-untied", "the same with one key/value head and its own output matrix", arch="qwen3", tokenizer="bpe-qwen2",
              heads=4, kv_heads=1, head_dim=16, rope_base=1e6, tied=False),
    rope_case("gemma3", "sandwich norms, head norms, GELU, scaled embeddings; six layers of which the last sees everything, window 8",
              arch="gemma3", layers=6, heads=2, kv_heads=1, head_dim=24, ffn=48, rope_base=1e6, keys={"attention.sliding_window": 8}),
    rope_case("gemma3-pattern", "every second of four layers sees everything, by its key; window 5, its own output matrix", arch="gemma3",
              layers=4, heads=4, kv_heads=2, head_dim=12, ffn=48, rope_base=1e6, tied=False,
              keys={"attention.sliding_window": 5, "attention.sliding_window_pattern": 2}),
    rope_case("llama-q8_0", "every matrix in Q8_0", types={m: Type.Q8_0 for m in MATRICES}),
    rope_case("llama-mixed", "matrices in Q4_0, Q8_0, Q5_0, Q4_1, Q5_1, F16 and BF16", types=dict(zip(MATRICES, [
        Type.Q4_0, Type.Q8_0, Type.Q5_0, Type.Q4_1, Type.Q5_1, Type.F16, Type.BF16, Type.Q8_0]))),
    rope_case("llama-kquants", "matrices in Q2_K to Q6_K", hidden=256, layers=1, heads=4, kv_heads=2, head_dim=64, ffn=256,
              std=0.1, embedding_std=0.12,
              types=dict(zip(MATRICES, [Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q3_K, Type.Q2_K, Type.Q4_K, Type.Q6_K, Type.Q6_K]))),
]


def vocabulary(kind: str) -> tuple[list[str], list[int], list[float], list[str]]:
    """Tokens, their types, scores (SentencePiece) and merges (BPE): at most 96, enough for lower-case English."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    digits = [chr(c) for c in range(ord("0"), ord("9") + 1)]
    punctuation = list(".,;:!?'\"()-/")
    if kind == "spm":
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in (0x0A, 0x09, 0x20, 0xC3, 0xA9, 0xE2, 0x82, 0xAC)]
        types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 8
        pieces = ["\u2581the", "\u2581and", "th", "he", "an", "in", "er", "\u2581t", "\u2581a", "nd", "the"] + ["\u2581"]
        pieces += letters + digits + punctuation
        pieces += [chr(c) for c in range(ord("A"), ord("Z") + 1)]
        pieces = pieces[: 96 - len(tokens)]
        scores = [0.0] * len(tokens) + [-float(i + 1) for i in range(len(pieces))]
        return tokens + pieces, types + [NORMAL] * len(pieces), scores, []
    merges = ["t h", "h e", "a n", "th e", "\u0120 t", "\u0120 a", "i n", "an d", "\u0120t he", "e r"]
    tokens = ["\u0120", "\u010a"] + letters + digits + punctuation
    tokens += [chr(c) for c in range(ord("A"), ord("Z") + 1)]
    tokens = tokens[: 96 - 1 - len(merges)] + [m.replace(" ", "") for m in merges] + ["<|endoftext|>"]
    return tokens, [NORMAL] * (len(tokens) - 1) + [CONTROL], [], merges


class Weights:
    """Draws the tensors of one model in a fixed order."""

    def __init__(self, case: Case):
        self.case = case
        self.rng = np.random.default_rng([SEED, *case.name.encode()])
        self.tensors: dict[str, np.ndarray] = {}

    def matrix(self, name: str, rows: int, columns: int, std: float | None = None) -> None:
        self.tensors[name] = self.rng.normal(0.0, std or self.case.std, (rows, columns)).astype(np.float32)

    def vector(self, name: str, size: int, mean: float, std: float) -> None:
        self.tensors[name] = self.rng.normal(mean, std, size).astype(np.float32)

    def linear(self, name: str, rows: int, columns: int, bias: bool) -> None:
        self.matrix(f"{name}.weight", rows, columns)
        if bias:
            self.vector(f"{name}.bias", rows, 0.0, 0.3)

    def norm(self, name: str, size: int, bias: bool = False) -> None:
        self.vector(f"{name}.weight", size, 1.0, 0.3)
        if bias:
            self.vector(f"{name}.bias", size, 0.0, 0.3)


def tensors(case: Case, vocab: int) -> dict[str, np.ndarray]:
    w = Weights(case)
    gpt2, gemma = case.arch == "gpt2", case.arch == "gemma3"
    q, kv = case.heads * case.head_dim, case.kv_heads * case.head_dim
    w.matrix("token_embd.weight", vocab, case.hidden, std=case.embedding_std)
    if gpt2:
        w.matrix("position_embd.weight", case.context, case.hidden, std=0.5)
    w.norm("output_norm", case.hidden, bias=gpt2)
    if not case.tied:
        w.matrix("output.weight", vocab, case.hidden, std=0.5)
    if case.rope_factors:
        w.tensors["rope_freqs.weight"] = np.array(case.rope_factors, dtype=np.float32)
    for i in range(case.layers):
        b = f"blk.{i}"
        w.norm(f"{b}.attn_norm", case.hidden, bias=gpt2)
        if gpt2:
            w.linear(f"{b}.attn_qkv", q + 2 * kv, case.hidden, bias=True)
        else:
            w.linear(f"{b}.attn_q", q, case.hidden, bias=case.qkv_bias)
            w.linear(f"{b}.attn_k", kv, case.hidden, bias=case.qkv_bias)
            w.linear(f"{b}.attn_v", kv, case.hidden, bias=case.qkv_bias)
        if case.arch in ("qwen3", "gemma3"):
            w.norm(f"{b}.attn_q_norm", case.head_dim)
            w.norm(f"{b}.attn_k_norm", case.head_dim)
        w.linear(f"{b}.attn_output", case.hidden, q, bias=gpt2 or case.all_bias)
        if gemma:
            w.norm(f"{b}.post_attention_norm", case.hidden)
        w.norm(f"{b}.ffn_norm", case.hidden, bias=gpt2)
        if not gpt2:
            w.linear(f"{b}.ffn_gate", case.ffn, case.hidden, bias=case.all_bias)
        w.linear(f"{b}.ffn_up", case.ffn, case.hidden, bias=gpt2 or case.all_bias)
        w.linear(f"{b}.ffn_down", case.hidden, case.ffn, bias=gpt2 or case.all_bias)
        if gemma:
            w.norm(f"{b}.post_ffw_norm", case.hidden)
    return w.tensors


def tensor_type(case: Case, name: str) -> Type:
    part = name.removesuffix(".weight").split(".")[-1]
    return case.types.get(part, Type.F32) if name.endswith(".weight") else Type.F32


def packed(values: np.ndarray, qtype: Type) -> np.ndarray:
    """The tensor's rows in `qtype`, as the bytes that a GGUF holds."""
    if qtype in (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K):
        quantize = ll.llama_cpp._lib.ggml_quantize_chunk  # the `gguf` package reads these types but does not write them
        quantize.restype = ctypes.c_size_t
        quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        rows, columns = values.shape
        block, size = gguf.GGML_QUANT_SIZES[qtype]
        out = np.zeros((rows, columns // block * size), dtype=np.uint8)
        quantize(int(qtype), np.ascontiguousarray(values).ctypes.data, out.ctypes.data, 0, rows, columns, None)
        return out
    return gguf.quants.quantize(values, qtype)


def write_gguf(path: Path, case: Case, weights: dict[str, np.ndarray], dequantized: bool) -> None:
    tokens, types, scores, merges = vocabulary(case.tokenizer)
    out = gguf.GGUFWriter(path, case.arch)
    out.add_name(f"tiny {case.name}")
    out.add_context_length(case.context)
    out.add_embedding_length(case.hidden)
    out.add_block_count(case.layers)
    out.add_feed_forward_length(case.ffn)
    out.add_head_count(case.heads)
    out.add_head_count_kv(case.kv_heads)
    if case.arch == "gpt2":
        out.add_layer_norm_eps(1e-5)
    else:
        out.add_layer_norm_rms_eps(1e-6)
        out.add_rope_freq_base(case.rope_base)
        out.add_rope_dimension_count(case.head_dim)
        out.add_key_length(case.head_dim)
        out.add_value_length(case.head_dim)
        out.add_vocab_size(len(tokens))
    for key, value in case.keys.items():
        add = {str: out.add_string, float: out.add_float32, int: out.add_uint32}[type(value)]
        add(f"{case.arch}.{key}", value)
    out.add_tokenizer_model("llama" if case.tokenizer == "spm" else "gpt2")
    if case.tokenizer != "spm":
        out.add_tokenizer_pre(case.tokenizer.removeprefix("bpe-"))
    out.add_token_list(tokens)
    if scores:
        out.add_token_scores(scores)
    out.add_token_types(types)
    if merges:
        out.add_token_merges(merges)
    out.add_bos_token_id(tokens.index("<s>") if scores else len(tokens) - 1)
    out.add_eos_token_id(tokens.index("</s>") if scores else len(tokens) - 1)
    out.add_add_bos_token(bool(scores))
    for name, values in weights.items():
        qtype = tensor_type(case, name)
        if qtype == Type.F32:
            out.add_tensor(name, values)
        elif dequantized:
            out.add_tensor(name, gguf.quants.dequantize(packed(values, qtype), qtype).astype(np.float32))
        else:
            out.add_tensor(name, packed(values, qtype), raw_dtype=qtype)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class Reference:
    """llama.cpp on one file."""

    def __init__(self, path: Path):
        params = ll.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False  # no repacked weights: the plain kernels
        self.model = ll.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = ll.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 64
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = ll.GGML_TYPE_F32
        params.n_seq_max = 1
        self.context = ll.llama_init_from_model(self.model, params)
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        self.batch = ll.llama_batch_init(64, 0, 1)

    def close(self) -> None:
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.context)
        ll.llama_model_free(self.model)

    def forget(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def logits(self, ids: list[int], start: int) -> np.ndarray:
        """Logits after each of `ids`, which stand at `start` and on."""
        b = self.batch
        b.n_tokens = len(ids)
        for i, token in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, start + i, 1, 1
            b.seq_id[i][0] = 0
        if ll.llama_decode(self.context, b) != 0:
            raise RuntimeError("llama_decode failed")
        out = ll.llama_get_logits(self.context)
        return np.ctypeslib.as_array(out, shape=(len(ids) * self.vocab,)).reshape(len(ids), self.vocab).copy()


def prompt_ids(case: Case, vocab: int) -> list[int]:
    """Ids from a fixed generator; never a special token except BOS in front where the model asks for one."""
    rng = np.random.default_rng([SEED, 7])
    if case.tokenizer == "spm":
        return [1] + rng.integers(11, vocab, PROMPT_TOKENS - 1).tolist()
    return rng.integers(0, vocab - 1, PROMPT_TOKENS).tolist()


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def judge(case: Case, folder: Path) -> dict:
    weights = tensors(case, len(vocabulary(case.tokenizer)[0]))
    path = folder / f"{case.name}.gguf"
    write_gguf(path, case, weights, dequantized=False)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.gguf"
        write_gguf(plain, case, weights, dequantized=True)
        reference = Reference(plain)
        ids = prompt_ids(case, reference.vocab)
        logits = reference.logits(ids, 0)
        greedy, margins, last = [], [], logits[-1]
        for step in range(GREEDY_TOKENS):
            top = np.sort(last)[-2:]
            margins.append(float(top[1] - top[0]))
            greedy.append(int(last.argmax()))
            last = reference.logits([greedy[-1]], len(ids) + step)[0]
        reference.forget()
        single = np.concatenate([reference.logits([t], i) for i, t in enumerate(ids)])
        reference.close()
    if not np.isfinite(logits).all():
        raise RuntimeError(f"{case.name}: a logit is not finite")
    (folder / f"{case.name}.logits.bin").write_bytes(logits.astype("<f4").tobytes())
    entry = {
        "name": case.name, "about": case.about, "architecture": case.arch, "model": path.name,
        "logits": f"{case.name}.logits.bin", "vocab": int(logits.shape[1]), "quantized": bool(case.types), "ids": ids,
        "greedy_ids": greedy, "greedy_margins": [round(m, 4) for m in margins],
        "logits_std": round(float(logits.std()), 4), "mean_top_probability": round(float(np.exp(log_softmax(logits).max(axis=-1)).mean()), 4),
        "reference_one_by_one_max_diff": float(f"{np.abs(single - logits).max():.3g}"),
    }
    if case.types:
        quantized = Reference(path)
        drift = np.abs(quantized.logits(ids, 0) - logits)
        quantized.close()
        entry["llamacpp_quantized_mean_diff"] = round(float(drift.mean()), 5)
        entry["llamacpp_quantized_max_diff"] = round(float(drift.max()), 5)
    return entry


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, only = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    quiet = ll.llama_log_callback(lambda level, text, data: sys.stderr.write(text.decode(errors="replace")) if level >= 4 or "TINY_LOG" in os.environ else None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    ll.llama_backend_init()
    entries = []
    for case in CASES:
        if only and case.name not in only:
            continue
        entry = judge(case, folder)
        entries.append(entry)
        size = (folder / entry["model"]).stat().st_size
        print(f"{case.name:20} {size:7} bytes  std {entry['logits_std']:.3f}  top p {entry['mean_top_probability']:.3f}  "
              f"least margin {min(entry['greedy_margins']):.4f}  one by one {entry['reference_one_by_one_max_diff']:.2g}  "
              f"drift {entry.get('llamacpp_quantized_mean_diff', '-')}")
    if not only:
        lines = ",\n".join("  " + json.dumps(e, ensure_ascii=True) for e in entries)
        (folder / "index.json").write_text(f'{{\n"reference": "llama.cpp 0c1e570 (llama-cpp-python {ll.__version__})",\n"cases": [\n{lines}\n]\n}}\n')


if __name__ == "__main__":
    main()
