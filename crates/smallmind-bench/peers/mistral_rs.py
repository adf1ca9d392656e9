"""mistral.rs, which reads GGUF itself, greedy. Its figures are its own. It takes text, so the prompt's tokens become text first;
where it reads that text as another number of tokens, it says so instead of a figure."""
import os

from protocol import serve


class Model:
    def __init__(self, arguments):
        from mistralrs import CompletionRequest, Runner, Which

        folder, file = os.path.split(arguments.model)
        which = Which.GGUF(quantized_model_id=folder, quantized_filename=file)
        # A prompt seen before would be a cache hit and no measurement.
        self.runner = Runner(which=which, prefix_cache_n=0)
        self.request = CompletionRequest
        self.form = "the file itself, as text of the same tokens"

    def generate(self, prompt, tokens):
        text = self.runner.detokenize_text(prompt, False)
        request = self.request(model="default", prompt=text, max_tokens=tokens, temperature=0.0, top_k=1, ignore_eos=True)
        result = self.runner.send_completion_request(request)
        usage = result.usage
        if usage.prompt_tokens != len(prompt):
            raise ValueError(f"it reads the prompt as {usage.prompt_tokens} tokens, we as {len(prompt)}")
        if usage.completion_tokens != tokens:
            raise ValueError(f"it made {usage.completion_tokens} tokens where {tokens} were asked for")
        chosen = self.runner.tokenize_text(result.choices[0].text, False, False)
        # Text that is cut otherwise than it was made does not tell the tokens.
        chosen = chosen if len(chosen) == tokens else []
        return usage.total_prompt_time_sec, usage.total_completion_time_sec, chosen


serve(["mistralrs"], Model)
