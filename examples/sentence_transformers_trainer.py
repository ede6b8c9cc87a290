"""Train DiffCSE with sentence-transformers' own trainer: a checkpoint and a text file in, a plain folder out.

    python examples/sentence_transformers_trainer.py bert-base-uncased sentences.txt my-encoder

The checkpoint needs its masked-language-model head: it is also the generator.
"""

import sys
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import TrainerCallback

from diffcse.config import Method
from diffcse.integrations.sentence_transformers import DiffCSELoss


class PrintMetrics(TrainerCallback):
    """The figures that only this method has, beside the trainer's own log."""

    def __init__(self, loss: DiffCSELoss) -> None:
        self.loss = loss

    def on_log(self, args, state, control, **kwargs) -> None:
        metrics = self.loss.pop_metrics()
        if metrics:
            print(state.global_step, {name: round(value, 3) for name, value in metrics.items()})


def main(checkpoint: str, text: str, output: str, steps: int = 500) -> None:
    """Train from `checkpoint` on the lines of the file `text`, and save to the folder `output`."""
    transformer = Transformer(checkpoint)
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "cls")])
    longest, model.max_seq_length = model.max_seq_length, 32
    loss = DiffCSELoss(model, Method(pooling="cls", rtd_weight=0.005))
    sentences = [line for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=f"{output}-checkpoints",
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=7e-6,
        logging_steps=min(25, steps),
        save_strategy="no",
        report_to=[],
    )
    data = Dataset.from_dict({"text": sentences})
    trainer = SentenceTransformerTrainer(model, arguments, data, loss=loss, callbacks=[PrintMetrics(loss)])
    trainer.train()
    model.max_seq_length = longest  # the 32 tokens were for training
    model.save(output)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
