"""The comparison's protocol, for peers in Python: one JSON line in, one JSON line out (docs/adding-a-peer.md).

A driver gives `serve` the names of its packages and a function that loads the model. The object that comes back has `form`
(what of the model file it runs) and some of

    generate(prompt, tokens) -> (seconds to the first token, seconds of the others, all tokens)
    batch(prompt, sequences, tokens) -> (seconds, tokens decoded in that time)
    logits(tokens, first) -> an array of the logits of every token from `first` on, [tokens - first, vocabulary]
"""
import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import statistics
import sys
import traceback


def arguments():
    """The command line that every driver has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="what the entry of peers.toml hands over: a file or a folder")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--variant", default="", help="one of the entry's variants")
    parser.add_argument("--context", type=int, default=0, help="tokens that have to fit")
    return parser.parse_args()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_bytes(roots):
    """The bytes of the packages and of all that they ask for and that is here."""
    seen, todo, total = set(), [normal(root) for root in roots], 0
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in package.files or []:
            with contextlib.suppress(OSError):
                total += os.stat(package.locate_file(file)).st_size
        for requirement in package.requires or []:
            if "extra ==" not in requirement:
                todo.append(normal(re.match(r"[\w.-]+", requirement).group()))
    return total


def perplexity(model, windows, first):
    import math

    import numpy as np

    total, scored = 0.0, 0
    for window in windows:
        logits = np.asarray(model.logits(window, first), np.float64)[:len(window) - first - 1]
        most = logits.max(axis=1)
        normalizer = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
        total += float((normalizer - logits[np.arange(len(logits)), window[first + 1:]]).sum())
        scored += len(logits)
    return {"perplexity": math.exp(total / scored), "scored": scored}


def answer(model, request):
    (kind, what), = request.items()
    if kind == "generate":
        # A generation that is over in milliseconds is repeated within one sample, after one that does not count.
        repeats = what.get("repeats", 1)
        runs = [model.generate(what["prompt"], what["tokens"]) for _ in range(repeats + (repeats > 1))]
        runs = runs[1:] or runs
        first, rest = (1e3 * statistics.median(run[i] for run in runs) for i in (0, 1))
        return {"first_ms": first, "decode_ms": rest, "tokens": [int(t) for t in runs[0][2]]}
    if kind == "batch":
        seconds, decoded = model.batch(what["prompt"], what["sequences"], what["tokens"])
        return {"decode_ms": 1e3 * seconds, "decoded": decoded}
    if kind == "perplexity":
        return perplexity(model, what["windows"], what["first"])
    raise ValueError(f"no such request: {kind}")


def serve(packages, load):
    """Loads, says so, and answers until the other side closes the pipe. `packages`: names, or names for each variant."""
    parsed = arguments()
    packages = packages[parsed.variant] if isinstance(packages, dict) else packages
    # What libraries print must not be taken for an answer.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(document):
        out.write(json.dumps(document) + "\n")
        out.flush()

    try:
        model = load(parsed)
        versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
        offers = {"generate": "generate", "batch": "batch", "logits": "perplexity"}
        say({"ready": {"version": ", ".join(versions), "form": model.form, "installed_bytes": installed_bytes(packages),
                       "can": [name for method, name in offers.items() if hasattr(model, method)]}})
    except Exception as error:  # whatever it is, the other side is told
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    for line in sys.stdin:
        try:
            say(answer(model, json.loads(line)))
        except Exception as error:  # as above; another request may go well
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
