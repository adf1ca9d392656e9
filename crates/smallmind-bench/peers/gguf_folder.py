"""Turns a GGUF file into a folder as transformers saves it, in F32: what peers load that cannot read GGUF.

    gguf_folder.py MODEL.gguf FOLDER
"""
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, target = Path(sys.argv[1]), Path(sys.argv[2])
where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
model = AutoModelForCausalLM.from_pretrained(
    **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
model.save_pretrained(target)
AutoTokenizer.from_pretrained(**where).save_pretrained(target)
