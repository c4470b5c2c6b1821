"""A training step of the causal language model in language.py, in micro-batches."""

import torch
from language import LanguageModel, draw_tokens

import perf


@perf.workload(global_batch_sizes=(16, 64), micro_batch_size=16, sample="sequences", about={"seq_len": 32})
def lm(case):
    """Train a small causal language model, in micro-batches."""
    torch.manual_seed(case.seed)
    model = LanguageModel(seq_len=32).to(case.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(case.seed)

    def step():
        tokens = draw_tokens(case.global_batch_size, 32, generator).to(case.device)
        loss = torch.stack([model(micro_batch) for micro_batch in tokens.split(case.micro_batch_size)]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
