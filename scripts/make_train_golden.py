#!/usr/bin/env python3
"""Makes testdata/golden/train: what PyTorch says about training, for the tests of smallmind-train.

    python3 -m venv VENV && VENV/bin/pip install torch numpy
    VENV/bin/python scripts/make_train_golden.py

For a GPT-2- and a Llama-shaped model of a few thousand weights: the weights, a batch, the loss, the gradient of every
weight, and the losses of ten AdamW steps with clipping (double precision for the first three, so that the fixture's own
rounding does not count; single precision for the steps, as one trains). FAMILY.json describes FAMILY.bin, which holds
little-endian F32: all weights, then all gradients, in the order of the description.
"""
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parent.parent / "testdata" / "golden" / "train"
STEPS = 10
ADAMW = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 0.5}

FAMILIES = {
    "gpt2": {"arch": "gpt2", "vocab": 37, "context": 12, "hidden": 20, "layers": 2, "heads": 2, "kv_heads": 2, "ffn": 36,
             "norm_eps": 1e-5, "rope_base": 10000.0, "tied": False},
    "llama": {"arch": "llama", "vocab": 41, "context": 12, "hidden": 24, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 40,
              "norm_eps": 1e-6, "rope_base": 100.0, "tied": True},
}


def shapes(c):
    """Name and shape of every weight, as a GGUF file has them (rows first)."""
    d, f, v = c["hidden"], c["ffn"], c["vocab"]
    kv = d // c["heads"] * c["kv_heads"]
    gpt2 = c["arch"] == "gpt2"
    yield "token_embd.weight", (v, d)
    if gpt2:
        yield "position_embd.weight", (c["context"], d)

    def linear(name, rows, cols):
        yield f"{name}.weight", (rows, cols)
        if gpt2:
            yield f"{name}.bias", (rows,)

    def norm(name):
        yield f"{name}.weight", (d,)
        if gpt2:
            yield f"{name}.bias", (d,)

    for i in range(c["layers"]):
        p = f"blk.{i}."
        yield from norm(p + "attn_norm")
        if gpt2:
            yield from linear(p + "attn_qkv", 3 * d, d)
        else:
            yield from linear(p + "attn_q", d, d)
            yield from linear(p + "attn_k", kv, d)
            yield from linear(p + "attn_v", kv, d)
        yield from linear(p + "attn_output", d, d)
        yield from norm(p + "ffn_norm")
        if not gpt2:
            yield from linear(p + "ffn_gate", f, d)
        yield from linear(p + "ffn_up", f, d)
        yield from linear(p + "ffn_down", d, f)
    yield from norm("output_norm")
    if not c["tied"]:
        yield "output.weight", (v, d)


def rope(x, base):
    """Turns neighbouring pairs; x is [batch, heads, seq, dim]."""
    seq, dim = x.shape[-2:]
    angle = torch.arange(seq, dtype=torch.float64)[:, None] * base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def loss_of(c, w, ids, targets):
    d, heads, kv_heads, eps = c["hidden"], c["heads"], c["kv_heads"], c["norm_eps"]
    gpt2 = c["arch"] == "gpt2"
    batch, seq = ids.shape
    dim = d // heads

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x, name):
        if gpt2:
            return F.layer_norm(x, (d,), w[f"{name}.weight"], w[f"{name}.bias"], eps)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w[f"{name}.weight"]

    def split(x, n):
        return x.view(batch, seq, n, dim).transpose(1, 2)

    x = w["token_embd.weight"][ids]
    if gpt2:
        x = x + w["position_embd.weight"][:seq]
    for i in range(c["layers"]):
        p = f"blk.{i}."
        h = norm(x, p + "attn_norm")
        if gpt2:
            q, k, v = (split(part, heads) for part in linear(h, p + "attn_qkv").split(d, -1))
        else:
            q, k, v = split(linear(h, p + "attn_q"), heads), split(linear(h, p + "attn_k"), kv_heads), split(linear(h, p + "attn_v"), kv_heads)
            q, k = rope(q, c["rope_base"]), rope(k, c["rope_base"])
            k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(dim)
        scores = scores.masked_fill(torch.ones(seq, seq, dtype=torch.bool).triu(1), -math.inf)
        a = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, seq, d)
        x = x + linear(a, p + "attn_output")
        h = norm(x, p + "ffn_norm")
        if gpt2:
            h = F.gelu(linear(h, p + "ffn_up"), approximate="tanh")
        else:
            h = F.silu(linear(h, p + "ffn_gate")) * linear(h, p + "ffn_up")
        x = x + linear(h, p + "ffn_down")
    x = norm(x, "output_norm")
    logits = F.linear(x, w["token_embd.weight" if c["tied"] else "output.weight"])
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, c in FAMILIES.items():
        rng = np.random.default_rng(20261129)
        tensors = {n: (rng.standard_normal(s) * (0.2 if len(s) == 2 else 0.1) + ("norm.weight" in n)).astype("<f4") for n, s in shapes(c)}
        ids = rng.integers(0, c["vocab"], (3, c["context"] + 1))
        inputs, targets = torch.tensor(ids[:, :-1]), torch.tensor(ids[:, 1:])
        exact = {n: torch.tensor(t, dtype=torch.float64, requires_grad=True) for n, t in tensors.items()}
        loss = loss_of(c, exact, inputs, targets)
        loss.backward()
        single = {n: torch.tensor(t, requires_grad=True) for n, t in tensors.items()}
        groups = [{"params": [p for p in single.values() if p.dim() == 2], "weight_decay": ADAMW["weight_decay"]},
                  {"params": [p for p in single.values() if p.dim() == 1], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"])
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            step_loss = loss_of(c, single, inputs, targets)
            step_loss.backward()
            torch.nn.utils.clip_grad_norm_(list(single.values()), ADAMW["clip"])
            optimizer.step()
            losses.append(float(step_loss))
        about = {"made_by": f"scripts/make_train_golden.py, torch {torch.__version__}", "model": c, "adamw": ADAMW,
                 "ids": inputs.flatten().tolist(), "targets": targets.flatten().tolist(), "loss": float(loss), "losses": losses,
                 "tensors": [{"name": n, "shape": list(t.shape)} for n, t in tensors.items()]}
        (OUT / f"{name}.json").write_text(json.dumps(about) + "\n")
        with open(OUT / f"{name}.bin", "wb") as out:
            for t in tensors.values():
                out.write(t.tobytes())
            for p in exact.values():
                out.write(p.grad.numpy().astype("<f4").tobytes())
        print(name, float(loss), losses)


if __name__ == "__main__":
    main()
