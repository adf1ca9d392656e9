#!/usr/bin/env python3
"""Training speed of the presets beside PyTorch's (CPU, eager), alternated in one run.

    train_peers.py SMALLMIND TEXT [--threads N] [--rounds R] [--precision f32 bf16] [--preset small medium]

SMALLMIND is the release binary, TEXT any text of some 100 kB. Needs the package `torch`. PyTorch trains the same GPT-2
shape as one writes it: nn.Linear, nn.LayerNorm, scaled_dot_product_attention, AdamW (foreach) and clipping, batches that
are ready in memory. Prints each side's tokens a second over whole steps, forward, backward and optimizer, behind the first few,
which both sides begin slowly with: round by round, the best and the median. In bf16 PyTorch runs its forward pass under autocast; the ratio of that line is to PyTorch in the same precision.
"""
import argparse
import itertools
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

SHAPES = {"small": {"vocab": 256, "context": 64, "hidden": 128, "layers": 2, "heads": 4},
          "medium": {"vocab": 512, "context": 128, "hidden": 256, "layers": 4, "heads": 8}}


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, self.heads, d // self.heads).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(d, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(a)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, vocab, context, hidden, layers, heads):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, hidden), nn.Embedding(context, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, vocab, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[:ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def torch_speed(shape, batch, warm, steps, precision):
    model = Gpt2(**shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, foreach=True)
    data = torch.randint(0, shape["vocab"], (steps + warm, batch, shape["context"] + 1))
    for i, ids in enumerate(data):
        if i == warm:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
    return steps * batch * shape["context"] / (time.perf_counter() - start)


def our_speed(binary, text, preset, batch, warm, steps, threads, precision):
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "train", "--preset", preset, "--data", text, "-o", str(Path(folder) / "m.gguf"), "--steps", str(warm + steps),
                   "--batch", str(batch), "--valid", "0", "-t", str(threads), "--tokenizer", "bytes", "--precision", precision]
        done = {}
        # A line tells of a step (of long runs, of every twentieth part) when it is done.
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if step := re.match(r"step (\d+) of", line):
                    done[int(step[1])] = time.perf_counter()
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return steps * batch * SHAPES[preset]["context"] / (done[warm + steps] - done[warm])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smallmind")
    parser.add_argument("text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--preset", nargs="+", default=["small", "medium"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # Warm-up and measured steps: all together a multiple of what a run tells a line of.
    steps_of = {"small": (5, 100), "medium": (3, 15)}
    for preset, precision in itertools.product(arguments.preset, arguments.precision):
        rounds = []
        for _ in range(arguments.rounds):
            work = (16, *steps_of[preset])
            ours = our_speed(arguments.smallmind, arguments.text, preset, *work, arguments.threads, precision)
            rounds.append((ours, torch_speed(SHAPES[preset], *work, precision)))
        each = ", ".join(f"{a:.0f}/{b:.0f}" for a, b in rounds)
        for name, of in ("best", max), ("median", statistics.median):
            ours, theirs = (of(side) for side in zip(*rounds))
            print(f"{preset} {precision}, {name}: smallmind {ours:.0f} tokens/s, torch {theirs:.0f} tokens/s, {ours / theirs:.2f} times")
        print(f"  rounds: {each}", flush=True)


if __name__ == "__main__":
    main()
