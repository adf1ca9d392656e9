"""A GPT-2 shape in PyTorch (eager) or ONNX Runtime: greedy tokens with a KV cache. What it reads was written by us: a
description with the prompt's logits as we compute them, which the side must compute as well, and the F32 weights.
"""
import json
import time
from pathlib import Path

import numpy as np

from protocol import serve

TOLERANCE = 1e-4
EPSILON = 1e-5


def read(path):
    """The description, and the tensors by name."""
    about = json.loads(path.read_text())
    values = np.fromfile(path.with_name(about["values"]), dtype="<f4")
    tensors = {}
    for tensor in about["tensors"]:
        start = tensor["offset"] // 4
        tensors[tensor["name"]] = values[start:start + int(np.prod(tensor["shape"]))].reshape(tensor["shape"])
    return about, tensors


class Torch:
    """Eager PyTorch with a preallocated cache."""

    def __init__(self, about, tensors, threads):
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.functional = torch, torch.nn.functional
        self.layers, self.heads, self.hidden = about["layers"], about["heads"], about["hidden"]
        self.w = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
        self.blocks = [{name.split(".", 2)[2]: value for name, value in self.w.items() if name.startswith(f"blk.{i}.")}
                       for i in range(self.layers)]
        shape = (self.layers, self.heads, about["context"], self.hidden // self.heads)
        self.k, self.v = torch.zeros(shape), torch.zeros(shape)
        self.length = 0

    def reset(self):
        self.length = 0

    def forward(self, tokens):
        """The logits of the last token."""
        functional, hidden = self.functional, self.hidden
        n, start = len(tokens), self.length
        end = self.length = start + n
        ids = self.torch.tensor(tokens)
        x = self.w["token_embd.weight"][ids] + self.w["position_embd.weight"][start:end]
        for i, b in enumerate(self.blocks):
            h = functional.layer_norm(x, (hidden,), b["attn_norm.weight"], b["attn_norm.bias"], EPSILON)
            qkv = functional.linear(h, b["attn_qkv.weight"], b["attn_qkv.bias"])
            q, k, v = qkv.view(n, 3, self.heads, hidden // self.heads).permute(1, 2, 0, 3)
            self.k[i, :, start:end] = k
            self.v[i, :, start:end] = v
            a = functional.scaled_dot_product_attention(
                q[None], self.k[None, i, :, :end], self.v[None, i, :, :end], is_causal=n > 1)[0]
            a = a.transpose(0, 1).reshape(n, hidden)
            x = x + functional.linear(a, b["attn_output.weight"], b["attn_output.bias"])
            h = functional.layer_norm(x, (hidden,), b["ffn_norm.weight"], b["ffn_norm.bias"], EPSILON)
            h = functional.gelu(functional.linear(h, b["ffn_up.weight"], b["ffn_up.bias"]), approximate="tanh")
            x = x + functional.linear(h, b["ffn_down.weight"], b["ffn_down.bias"])
        x = functional.layer_norm(x[-1], (hidden,), self.w["output_norm.weight"], self.w["output_norm.bias"], EPSILON)
        return functional.linear(x, self.w["output.weight"])

    def greedy(self, tokens):
        return int(self.forward(tokens).argmax())

    def logits(self, tokens):
        return self.forward(tokens).numpy()


def graph(about, tensors, n):
    """An ONNX model for `n` tokens: a prompt without a past, or one token behind a past of any length."""
    from onnx import TensorProto, helper, numpy_helper

    layers, heads, hidden = about["layers"], about["heads"], about["hidden"]
    dim, past = hidden // heads, n == 1
    nodes, constants = [], {}

    def constant(name, value):
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(name):
        return constant(name, tensors[name])

    def linear(x, name, out, bias=True):
        product = node("MatMul", [x, constant(f"{name}.weight", tensors[f"{name}.weight"].T)], f"{out}_product")
        return node("Add", [product, weight(f"{name}.bias")], out) if bias else product

    def norm(x, name, out):
        return node("LayerNormalization", [x, weight(f"{name}.weight"), weight(f"{name}.bias")], out, epsilon=EPSILON)

    def split(x, i, out):
        """Heads of the i-th third of the columns, [1, heads, n, dim]."""
        bounds = [constant(f"column{j}", np.array([j * hidden], np.int64)) for j in (i, i + 1)]
        part = node("Slice", [x, *bounds, constant("columns", np.array([1], np.int64))], f"{out}_part")
        return node("Transpose", [node("Reshape", [part, by_head], f"{out}_heads")], out, perm=[0, 2, 1, 3])

    by_head = constant("by_head", np.array([1, n, heads, dim], np.int64))
    merged = constant("merged", np.array([n, hidden], np.int64))
    scale = constant("scale", np.float32(dim ** -0.5))
    ids = node("Gather", [weight("token_embd.weight"), "ids"], "embedded")
    x = node("Add", [ids, node("Gather", [weight("position_embd.weight"), "positions"], "placed")], "x0")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [n]) for name in ("ids", "positions")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    for i in range(layers):
        b, p = f"blk.{i}.", f"l{i}_"
        h = norm(x, b + "attn_norm", p + "normed")
        qkv = linear(h, b + "attn_qkv", p + "qkv")
        q = node("Mul", [split(qkv, 0, p + "q"), scale], p + "scaled")
        cache = []
        for j, name in ((1, "k"), (2, "v")):
            new = split(qkv, j, f"{p}{name}_new" if past else f"{name}{i}")
            if past:
                inputs.append(helper.make_tensor_value_info(f"past_{name}{i}", TensorProto.FLOAT, [1, heads, "past", dim]))
                new = node("Concat", [f"past_{name}{i}", new], f"{name}{i}", axis=2)
            outputs.append(helper.make_tensor_value_info(f"{name}{i}", TensorProto.FLOAT, None))
            cache.append(new)
        scores = node("MatMul", [q, node("Transpose", [cache[0]], p + "kt", perm=[0, 1, 3, 2])], p + "scores")
        if not past:
            mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
            scores = node("Add", [scores, constant("mask", mask)], p + "masked")
        mixed = node("MatMul", [node("Softmax", [scores], p + "weights", axis=-1), cache[1]], p + "mixed")
        mixed = node("Reshape", [node("Transpose", [mixed], p + "rows", perm=[0, 2, 1, 3]), merged], p + "merged")
        x = node("Add", [x, linear(mixed, b + "attn_output", p + "attended")], p + "after_attention")
        h = linear(norm(x, b + "ffn_norm", p + "ffn_normed"), b + "ffn_up", p + "up")
        h = node("Gelu", [h], p + "gelu", approximate="tanh")
        x = node("Add", [x, linear(h, b + "ffn_down", p + "down")], p + "after_mlp")
    last = node("Gather", [x, constant("last", np.array([n - 1], np.int64))], "last_row", axis=0)
    logits = linear(norm(last, "output_norm", "final"), "output", "head", bias=False)
    node("Identity", [logits], "logits")
    whole = helper.make_graph(nodes, "gpt2", inputs, outputs, list(constants.values()))
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()


class Onnx:
    """ONNX Runtime: one graph for the prompt, one for a token; the cache stays in its own values."""

    def __init__(self, about, tensors, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.prompt, self.token = (
            onnxruntime.InferenceSession(graph(about, tensors, n), options, providers=["CPUExecutionProvider"])
            for n in (len(about["prompt"]), 1))
        self.cache = [f"{name}{i}" for i in range(about["layers"]) for name in "kv"]
        self.past, self.length = None, 0

    def reset(self):
        self.past, self.length = None, 0

    def forward(self, tokens):
        start, self.length = self.length, self.length + len(tokens)
        feed = {"ids": self.value(np.array(tokens, np.int64)),
                "positions": self.value(np.arange(start, self.length, dtype=np.int64))}
        if self.past is not None:
            feed.update(self.past)
        session = self.prompt if self.past is None else self.token
        logits, *cache = session.run_with_ort_values(["logits", *self.cache], feed)
        self.past = {f"past_{name}": value for name, value in zip(self.cache, cache)}
        return logits.numpy()[0]

    def greedy(self, tokens):
        return int(self.forward(tokens).argmax())

    logits = forward


class Model:
    def __init__(self, arguments):
        about, tensors = read(Path(arguments.model))
        self.side = {"torch": Torch, "onnx": Onnx}[arguments.variant](about, tensors, arguments.threads)
        worst = float(np.abs(self.side.logits(about["prompt"]) - np.array(about["logits"], np.float32)).max())
        if not worst <= TOLERANCE:
            raise ValueError(f"a logit differs by {worst}, more than {TOLERANCE}")
        self.form = f"the model's weights in f32; logits differ by at most {worst:.0e}"

    def generate(self, prompt, tokens):
        self.side.reset()
        start = time.perf_counter()
        chosen = [self.side.greedy(prompt)]
        first = time.perf_counter()
        for _ in range(tokens - 1):
            chosen.append(self.side.greedy([chosen[-1]]))
        return first - start, time.perf_counter() - first, chosen


serve({"torch": ["torch"], "onnx": ["onnxruntime"]}, Model)
