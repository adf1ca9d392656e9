"""Turns a folder that onnxruntime-genai's builder made into one that Transformers.js loads.

    transformers_js_folder.py FOLDER OUT

The builder leaves the head dimension of the cache symbolic, which Transformers.js takes for 0: the number is written into
the graph. `config.json` comes from the folder that the builder read, which lies beside.
"""
import json
import shutil
import sys
from pathlib import Path

import onnx

source, target = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((source / "genai_config.json").read_text())["model"]["decoder"]
model = onnx.load(source / config["filename"])
for value in [*model.graph.input, *model.graph.output]:
    dimensions = value.type.tensor_type.shape.dim
    if len(dimensions) == 4:
        dimensions[1].dim_value = config["num_key_value_heads"]
        dimensions[3].dim_value = config["head_size"]
(target / "onnx").mkdir(parents=True)
onnx.save(model, target / "onnx" / "model.onnx", save_as_external_data=True, location="model.onnx_data")
shutil.copy(source.parent / "folder" / "config.json", target)
