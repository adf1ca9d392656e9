"""onnxruntime-genai on a folder that its model builder made, greedy."""
import json
import time

from protocol import serve


class Model:
    def __init__(self, arguments):
        import numpy as np
        import onnxruntime_genai as genai

        self.genai, self.np = genai, np
        config = genai.Config(arguments.model)
        options = {"intra_op_num_threads": arguments.threads, "inter_op_num_threads": 1}
        # No end of text: every side generates as many tokens as it is asked for.
        config.overlay(json.dumps({"model": {"eos_token_id": [], "decoder": {"session_options": options}}}))
        self.model = genai.Model(config)
        exact = arguments.variant == "f32"
        self.form = ("the file's weights dequantized to f32" if exact else
                     "requantized to int4 by its builder, the output matrix, too")

    def start(self, prompt, sequences, tokens):
        """A generator that has computed the prompts."""
        params = self.genai.GeneratorParams(self.model)
        params.set_search_options(max_length=len(prompt) + tokens + 1, batch_size=sequences, do_sample=False)
        generator = self.genai.Generator(self.model, params)
        ids = self.np.array([prompt] * sequences, self.np.int32)
        generator.append_tokens(ids if sequences > 1 else ids[0])
        return generator

    def generate(self, prompt, tokens):
        start = time.perf_counter()
        generator = self.start(prompt, 1, tokens)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(tokens - 1):
            generator.generate_next_token()
        return first - start, time.perf_counter() - first, list(generator.get_sequence(0)[len(prompt):])

    def batch(self, prompt, sequences, tokens):
        generator = self.start(prompt, sequences, tokens)
        generator.generate_next_token()
        start = time.perf_counter()
        for _ in range(tokens - 1):
            generator.generate_next_token()
        return time.perf_counter() - start, sequences * (tokens - 1)

    def logits(self, tokens, first):
        return self.start(tokens, 1, 1).get_output("logits")[0, first:]


serve(["onnxruntime-genai", "onnxruntime"], Model)
