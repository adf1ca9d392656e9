#!/usr/bin/env python3
"""Writes the dequantization fixtures: raw blocks of every tensor type and the F32 values they stand for.

    make_dequant_golden.py OUT_DIR

Needs the Python packages `gguf` and `numpy`; the values are those of `gguf.quants.dequantize`, bit for bit. The blocks
are random bytes from a fixed seed, with their scales replaced by finite ones of sane size, followed by blocks at the
edges: all-zero and all-one bits, zero, negative, subnormal and largest scales. One file per type, `OUT_DIR/<TYPE>.bin`,
little endian:

    u32  n_bytes      length of the raw blocks
    u8   raw[n_bytes]
    u32  n_floats     number of values
    f32  values[n_floats]

It may not use the network, the clock or an unseeded generator: two runs write the same bytes.
"""
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, quants

SEED = 20260
RANDOM_BLOCKS = 16

# Byte offsets of the F16 fields (scale, then minimum where there is one) inside a block.
F16_FIELDS = {
    Type.Q8_0: [0],
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}

# Bit patterns of F16 scales at the edges: +0, -0, smallest subnormal, negative subnormal, largest subnormal, smallest
# normal, one, minus one, largest finite, most negative finite, 0.1, -0.0333.
EDGE_SCALES = [0x0000, 0x8000, 0x0001, 0x8155, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x2E66, 0xA843]
# Fill bytes for the quants of the edge blocks: least, greatest, and the ones that tell nibbles and bit planes apart.
EDGE_FILLS = [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0, 0xAA, 0x55, 0x1B]


def with_scales(block: np.ndarray, qtype: Type, scales: list[int]) -> np.ndarray:
    block = block.copy()
    for offset, bits in zip(F16_FIELDS[qtype], scales):
        block[offset : offset + 2] = np.frombuffer(struct.pack("<H", bits), dtype=np.uint8)
    return block


def f16_bits(value: float) -> int:
    return int(np.float16(value).view(np.uint16))


def quantized_blocks(qtype: Type, rng: np.random.Generator) -> np.ndarray:
    size = GGML_QUANT_SIZES[qtype][1]
    blocks = []
    for _ in range(RANDOM_BLOCKS):
        block = rng.integers(0, 256, size=size, dtype=np.uint8)
        blocks.append(with_scales(block, qtype, [f16_bits(rng.normal(0.0, 0.05)) for _ in range(2)]))
    for fill in EDGE_FILLS:
        block = np.full(size, fill, dtype=np.uint8)
        blocks.append(with_scales(block, qtype, [f16_bits(0.0123), f16_bits(-0.0457)]))
    for i, bits in enumerate(EDGE_SCALES):
        block = rng.integers(0, 256, size=size, dtype=np.uint8)
        # The minimum walks the list the other way, so that edge scales meet ordinary minima and edge minima.
        blocks.append(with_scales(block, qtype, [bits, EDGE_SCALES[-1 - i]]))
    return np.concatenate(blocks)


def float_words(qtype: Type, rng: np.random.Generator) -> np.ndarray:
    """16-bit floats: ordinary values, every edge pattern, and random finite patterns. No NaN: its payload may differ."""
    exponent = 0x7C00 if qtype == Type.F16 else 0x7F80
    ordinary = rng.normal(0.0, 0.5, size=256).astype(np.float32)
    if qtype == Type.F16:
        words = ordinary.astype(np.float16).view(np.uint16)
    else:
        words = (ordinary.view(np.uint32) >> 16).astype(np.uint16)
    magnitudes = [0, 1, 2, exponent >> 8, 0x7F, 0x80, 0x3FF, 0x400, 0x3C00, 0x3F80, exponent - 1, exponent]
    edges = np.array([sign | m for sign in (0, 0x8000) for m in magnitudes], dtype=np.uint16)
    patterns = rng.integers(0, 0x10000, size=600, dtype=np.uint32).astype(np.uint16)
    patterns = patterns[(patterns & exponent) != exponent]
    words = np.concatenate([words, edges, patterns])
    return words[: len(words) // 32 * 32].astype("<u2").view(np.uint8)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for index, qtype in enumerate([Type.F16, Type.BF16, *F16_FIELDS]):
        rng = np.random.default_rng([SEED, index])
        raw = quantized_blocks(qtype, rng) if qtype in F16_FIELDS else float_words(qtype, rng)
        values = np.ascontiguousarray(quants.dequantize(raw, qtype), dtype="<f4").reshape(-1)
        if qtype in F16_FIELDS and not np.isfinite(values).all():
            sys.exit(f"{qtype.name}: a value is not finite")
        data = struct.pack("<I", raw.size) + raw.tobytes() + struct.pack("<I", values.size) + values.tobytes()
        (out / f"{qtype.name}.bin").write_bytes(data)
        print(f"{qtype.name}: {raw.size} bytes, {values.size} values")


if __name__ == "__main__":
    main()
