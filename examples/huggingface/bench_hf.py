"""A training step of a tiny Llama of Hugging Face's, made from a config: nothing is downloaded.

Needs: pip install transformers.
"""

import importlib.util
import unittest

import torch

import perf

if importlib.util.find_spec("transformers") is None:
    raise unittest.SkipTest("bench_hf.py needs Hugging Face's models: pip install transformers")

from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=512,
    max_position_embeddings=32,
    hidden_size=96,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
)


@perf.workload(global_batch_sizes=(8, 32), sample="sequences")
def llama(case):
    """Train a tiny Llama of Hugging Face's with its own loss."""
    torch.manual_seed(case.seed)
    model = LlamaForCausalLM(CONFIG).to(case.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    frequencies = 1 / torch.arange(1.0, 513).repeat(case.global_batch_size, 1)  # a few tokens are frequent, as in text

    def step():
        tokens = torch.multinomial(frequencies, 32, replacement=True).to(case.device)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
