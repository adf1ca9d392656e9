"""PyTorch with transformers, eager: the model's own forward pass and cache, greedy by argmax."""
import time

from protocol import serve


class Model:
    def __init__(self, arguments):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(arguments.threads)
        self.torch = torch
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[arguments.variant or "f32"]
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        self.form = f"the file's weights dequantized to {arguments.variant or 'f32'}"

    def steps(self, ids, tokens):
        """Yields the likeliest tokens after each pass, [sequences, 1]."""
        with self.torch.inference_mode():
            past = None
            for _ in range(tokens):
                result = self.model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                past, ids = result.past_key_values, result.logits[:, -1:].argmax(-1)
                yield ids

    def generate(self, prompt, tokens):
        start, first, chosen = time.perf_counter(), None, []
        for ids in self.steps(self.torch.tensor([prompt]), tokens):
            chosen.append(int(ids))
            first = first or time.perf_counter()
        return first - start, time.perf_counter() - first, chosen

    def batch(self, prompt, sequences, tokens):
        steps = self.steps(self.torch.tensor([prompt] * sequences), tokens)
        next(steps)
        start = time.perf_counter()
        for _ in steps:
            pass
        return time.perf_counter() - start, sequences * (tokens - 1)

    def logits(self, tokens, first):
        with self.torch.inference_mode():
            result = self.model(input_ids=self.torch.tensor([tokens]), use_cache=False)
        return result.logits[0, first:].float().numpy()


serve(["torch", "transformers"], Model)
