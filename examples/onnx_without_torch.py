"""Embed sentences by an exported folder, with onnxruntime, tokenizers and numpy alone.

diffcse export mini --to onnx --output onnx-mini
python examples/onnx_without_torch.py onnx-mini "A sentence." "Another one."
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

if len(sys.argv) < 3 or not (Path(sys.argv[1]) / "export.json").is_file():
    print("usage: onnx_without_torch.py FOLDER TEXT...   (FOLDER: of diffcse export --to onnx)", file=sys.stderr)
    sys.exit(2)
folder, texts = Path(sys.argv[1]), sys.argv[2:]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
prompt = json.loads((folder / "export.json").read_text(encoding="utf-8"))["default_prompt"]
batch = tokenizer.encode_batch([prompt + text for text in texts])
inputs = {
    "input_ids": np.array([item.ids for item in batch], dtype=np.int64),
    "attention_mask": np.array([item.attention_mask for item in batch], dtype=np.int64),
}
session = onnxruntime.InferenceSession(folder / "model.onnx")
np.savetxt(sys.stdout, session.run(["sentence_embedding"], inputs)[0], fmt="%.6f")
