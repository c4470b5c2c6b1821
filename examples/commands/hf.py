"""Train a small BERT with Hugging Face's Trainer, on made-up sentences: nothing is downloaded, nothing is written.

Needs: pip install 'transformers[torch]'.
"""

import argparse

import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments, set_seed

LENGTH, VOCABULARY, MASK = 32, 1024, 0
MODEL = BertConfig(
    vocab_size=VOCABULARY,
    max_position_embeddings=LENGTH,
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
)


def sentences(number: int) -> list[dict[str, torch.Tensor]]:
    """Return sentences of random tokens, few of them frequent; every sixth token is to be guessed."""
    frequencies = 1 / torch.arange(1.0, VOCABULARY)
    tokens = 1 + torch.multinomial(frequencies.repeat(number, 1), LENGTH, replacement=True)
    hidden = torch.rand(number, LENGTH) < 1 / 6
    inputs, labels = tokens.masked_fill(hidden, MASK), tokens.masked_fill(~hidden, -100)
    return [{"input_ids": some, "labels": wanted} for some, wanted in zip(inputs, labels, strict=True)]


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-steps", type=int, default=40)
    parser.add_argument("--logging-steps", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--output-dir", default="output")
    arguments = parser.parse_args()
    set_seed(0)
    settings = TrainingArguments(
        output_dir=arguments.output_dir,
        per_device_train_batch_size=arguments.batch_size,
        max_steps=arguments.max_steps,
        logging_steps=arguments.logging_steps,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,  # each log is a line of its own
        seed=0,
    )
    data = sentences(arguments.batch_size * arguments.max_steps)
    Trainer(model=BertForMaskedLM(MODEL), args=settings, train_dataset=data).train()


if __name__ == "__main__":
    main()
