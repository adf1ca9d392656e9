"""OpenVINO GenAI, which reads GGUF itself, greedy. Its figures of the first token are its own."""
import time

from protocol import serve


class Model:
    def __init__(self, arguments):
        import numpy as np
        import openvino_genai as genai
        from openvino import Tensor

        self.genai, self.np, self.tensor = genai, np, Tensor
        options = {"INFERENCE_NUM_THREADS": arguments.threads}
        if arguments.variant == "f32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        scheduler = genai.SchedulerConfig()
        # A prompt seen before would be a cache hit and no measurement.
        scheduler.enable_prefix_caching = False
        # All prompts of a batch in one step, so that the steps behind it are the decode.
        scheduler.max_num_batched_tokens = 16384
        self.pipeline = genai.LLMPipeline(arguments.model, "CPU", scheduler_config=scheduler, **options)
        self.form = "the file itself, activations in " + (
            "f32" if arguments.variant == "f32" else "the precision that it chooses")

    def run(self, prompt, sequences, tokens):
        ids = self.np.array([prompt] * sequences, self.np.int64)
        inputs = self.genai.TokenizedInputs(self.tensor(ids), self.tensor(self.np.ones_like(ids)))
        config = self.genai.GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, ignore_eos=True, do_sample=False)
        return self.pipeline.generate(inputs, config)

    def generate(self, prompt, tokens):
        start = time.perf_counter()
        result = self.run(prompt, 1, tokens)
        total = time.perf_counter() - start
        first = result.perf_metrics.get_ttft().mean / 1e3
        return first, total - first, list(result.tokens[0])

    def batch(self, prompt, sequences, tokens):
        start = time.perf_counter()
        result = self.run(prompt, sequences, tokens)
        total = time.perf_counter() - start
        return total - result.perf_metrics.get_ttft().mean / 1e3, sequences * (tokens - 1)


serve(["openvino-genai", "openvino", "openvino-tokenizers"], Model)
