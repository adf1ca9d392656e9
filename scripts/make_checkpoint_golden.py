#!/usr/bin/env python3
"""Writes checkpoint folders of the tiny models in testdata/golden/tiny, as `transformers` itself saves them.

    make_checkpoint_golden.py TINY_DIR OUT_DIR [CASE...]

Needs the Python packages `gguf`, `numpy`, `safetensors`, `torch` and `transformers` (see testdata/golden/README.md for the
versions). The weights of a GGUF file are put into the model class of `transformers`, the class must give the logits that
llama.cpp gave for the GGUF file, and then it is saved. So a converter that meets the GGUF file again is right by two judges.
"""
import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

CASES = {
    # name: (config class, model class, sharded)
    "llama-untied": ("LlamaConfig", "LlamaForCausalLM", True),
    "llama-bias": ("LlamaConfig", "LlamaForCausalLM", False),
    "llama-rope-linear": ("MistralConfig", "MistralForCausalLM", False),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", False),
    "qwen2-yarn": ("Qwen2Config", "Qwen2ForCausalLM", False),
    "qwen3-untied": ("Qwen3Config", "Qwen3ForCausalLM", True),
    "gemma3-pattern": ("Gemma3TextConfig", "Gemma3ForCausalLM", False),
}
EXPRESSION = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def plain(field):
    return field.contents()


def config_of(keys: dict, arch: str, tied: bool, names: set) -> dict:
    k = lambda name, default=None: keys.get(f"{arch}.{name}", default)
    hidden, heads = k("embedding_length"), k("attention.head_count")
    vocab = len(keys["tokenizer.ggml.tokens"])
    if arch == "gpt2":
        return dict(vocab_size=vocab, n_embd=hidden, n_layer=k("block_count"), n_head=heads, n_inner=k("feed_forward_length"),
                    n_positions=k("context_length"), layer_norm_epsilon=k("attention.layer_norm_epsilon"), tie_word_embeddings=tied,
                    bos_token_id=0, eos_token_id=0)
    rope = {"rope_type": "default", "rope_theta": k("rope.freq_base", 10000.0)}
    if kind := k("rope.scaling.type"):
        rope = {"rope_type": kind, "factor": k("rope.scaling.factor"), "rope_theta": rope["rope_theta"]}
        if kind == "yarn":
            rope["original_max_position_embeddings"] = k("rope.scaling.original_context_length")
            if attention := k("rope.scaling.attn_factor"):
                rope["attention_factor"] = float(attention * (1.0 + 0.1 * np.log(rope["factor"])))
    config = dict(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=k("block_count"), num_attention_heads=heads,
                  num_key_value_heads=k("attention.head_count_kv"), intermediate_size=k("feed_forward_length"),
                  max_position_embeddings=k("context_length"), rms_norm_eps=k("attention.layer_norm_rms_epsilon"),
                  head_dim=k("attention.key_length", hidden // heads), tie_word_embeddings=tied, rope_parameters=rope,
                  bos_token_id=1, eos_token_id=2, pad_token_id=None)
    if arch == "llama":
        config |= dict(attention_bias="blk.0.attn_q.bias" in names, mlp_bias="blk.0.ffn_up.bias" in names)
    if arch == "gemma3":
        period = k("attention.sliding_window_pattern", 6)
        config |= dict(sliding_window=k("attention.sliding_window"), query_pre_attn_scalar=config["head_dim"],
                       layer_types=["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(config["num_hidden_layers"])],
                       rope_parameters={"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})
    return config


def state_of(weights: dict, arch: str, config: dict) -> dict:
    """The state dict of the class, by its own names."""
    state = {}
    for name, w in weights.items():
        if arch == "gpt2":
            part = name.replace("token_embd", "transformer.wte").replace("position_embd", "transformer.wpe").replace("output_norm", "transformer.ln_f")
            part = part.replace("blk.", "transformer.h.").replace("attn_norm", "ln_1").replace("ffn_norm", "ln_2").replace("attn_qkv", "attn.c_attn")
            part = part.replace("attn_output", "attn.c_proj").replace("ffn_up", "mlp.c_fc").replace("ffn_down", "mlp.c_proj")
            if w.ndim == 2 and "wte" not in part and "wpe" not in part:
                w = w.T
            state[part if part != "output.weight" else "lm_head.weight"] = w
            continue
        if arch == "llama" and (".attn_q." in name or ".attn_k." in name):
            heads = config["num_attention_heads"] if ".attn_q." in name else config["num_key_value_heads"]
            # Pairs (2i, 2i + 1) become halves (i, i + d/2).
            w = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
        if arch == "gemma3" and "norm" in name:
            w = w - 1.0
        part = name.replace("token_embd", "model.embed_tokens").replace("output_norm", "model.norm").replace("blk.", "model.layers.")
        part = "lm_head.weight" if part == "output.weight" else part
        for a, b in (("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm"), ("attn_q.", "self_attn.q_proj."),
                     ("attn_k.", "self_attn.k_proj."), ("attn_v.", "self_attn.v_proj."), ("attn_output.", "self_attn.o_proj."),
                     ("attn_norm", "input_layernorm"), ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"),
                     ("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm"),
                     ("ffn_norm", "pre_feedforward_layernorm" if arch == "gemma3" else "post_attention_layernorm")):
            part = part.replace(a, b)
        state[part] = w
    return state


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def sentencepiece(keys: dict) -> bytes:
    """tokenizer.model, written by the wire format of protocol buffers."""
    pieces = zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], keys["tokenizer.ggml.token_type"])
    out = b""
    for text, score, kind in pieces:
        out += field(1, field(1, text.encode()) + b"\x15" + np.float32(score).tobytes() + b"\x18" + varint(kind))
    prefix = keys.get("tokenizer.ggml.add_space_prefix", True)
    return out + field(2, b"\x18\x02") + field(3, b"\x18" + varint(int(prefix)))


def tokenizer_json(keys: dict) -> dict:
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    added = [dict(id=i, content=t, special=types[i] == 3, normalized=False, lstrip=False, rstrip=False, single_word=False)
             for i, t in enumerate(tokens) if types[i] in (3, 4)]
    pre = keys["tokenizer.ggml.pre"]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=pre == "gpt-2")
    split = dict(type="Split", pattern={"Regex": EXPRESSION.get(pre)}, behavior="Isolated", invert=False)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                pre_tokenizer=level if pre == "gpt-2" else dict(type="Sequence", pretokenizers=[split, level]),
                post_processor=None, decoder=dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
                model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                           byte_fallback=False, ignore_merges=False, vocab={t: i for i, t in enumerate(tokens) if types[i] not in (3, 4)},
                           merges=[m.split(" ") for m in keys["tokenizer.ggml.merges"]]))


def write_tokenizer(keys: dict, out: Path) -> None:
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    settings = {}
    for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if (i := keys.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            settings[f"{role}_token"] = tokens[i]
    for key in ("add_bos_token", "add_eos_token"):
        if (v := keys.get(f"tokenizer.ggml.{key}")) is not None:
            settings[key] = v
    if keys["tokenizer.ggml.model"] == "llama":
        (out / "tokenizer.model").write_bytes(sentencepiece(keys))
    else:
        (out / "tokenizer.json").write_text(json.dumps(tokenizer_json(keys), ensure_ascii=False, indent=0))
    if template := keys.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    (out / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=1) + "\n")


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    tiny, folder, only = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    index = {c["name"]: c for c in json.loads((tiny / "index.json").read_text())["cases"]}
    for name, (config_class, model_class, sharded) in CASES.items():
        if only and name not in only:
            continue
        reader = gguf.GGUFReader(tiny / f"{name}.gguf")
        keys = {f.name: plain(f) for f in reader.fields.values() if not f.name.startswith("GGUF.")}
        arch = keys["general.architecture"]
        weights = {t.name: np.array(t.data) for t in reader.tensors if t.name != "rope_freqs.weight"}
        tied = "output.weight" not in weights
        config = config_of(keys, arch, tied, set(weights))
        state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state_of(weights, arch, config).items()}
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**config)).float().eval()
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (name, missing, unexpected)
        model.tie_weights()
        case = index[name]
        expected = np.fromfile(tiny / case["logits"], "<f4").reshape(-1, case["vocab"])
        with torch.no_grad():
            found = model(torch.tensor([case["ids"]])).logits[0].numpy()
        worst = np.abs(found - expected).max()
        assert worst < 1e-3, f"{name}: transformers and llama.cpp differ by {worst}"
        out = folder / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        model.save_pretrained(out, max_shard_size="40KB" if sharded else "5GB")
        write_tokenizer(keys, out)
        size = sum(f.stat().st_size for f in out.iterdir())
        print(f"{name:20} {size:7} bytes in {len(list(out.iterdir()))} files, logits within {worst:.1e} of llama.cpp's")


if __name__ == "__main__":
    main()
