"""vLLM's offline engine on the GGUF file, greedy. The first token is timed by a generation of one token, the others are the rest of
a generation of all.

Written by vLLM's documentation: where it was tried it did not get as far as its first token (docs/adding-a-peer.md)."""
import time

from protocol import serve


class Model:
    def __init__(self, arguments):
        from vllm import LLM, SamplingParams

        self.sampling = SamplingParams
        # A prompt seen before would be a cache hit and no measurement.
        self.engine = LLM(model=arguments.model, max_model_len=arguments.context or None, enable_prefix_caching=False)
        self.form = "the file itself"

    def run(self, prompts, tokens):
        start = time.perf_counter()
        sampling = self.sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        results = self.engine.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
        return time.perf_counter() - start, list(results[0].outputs[0].token_ids)

    def generate(self, prompt, tokens):
        first, chosen = self.run([prompt], 1)
        if tokens > 1:
            total, chosen = self.run([prompt], tokens)
            return first, total - first, chosen
        return first, 0.0, chosen

    def batch(self, prompt, sequences, tokens):
        first, _ = self.run([prompt] * sequences, 1)
        total, _ = self.run([prompt] * sequences, tokens)
        return total - first, sequences * (tokens - 1)


serve(["vllm"], Model)
