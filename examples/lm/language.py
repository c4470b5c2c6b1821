"""A causal language model written by hand, and a generated language for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB_SIZE = 128


def draw_tokens(num_sequences: int, seq_len: int, generator: torch.Generator) -> Tensor:
    """Draw token ids [num_sequences, seq_len]: after token t comes 5 t + 1 (modulo 128), but for one token in ten."""
    tokens = torch.randint(VOCAB_SIZE, (num_sequences, seq_len), generator=generator)
    follows = torch.rand(num_sequences, seq_len, generator=generator) < 0.9
    for i in range(1, seq_len):
        tokens[:, i] = torch.where(follows[:, i], (5 * tokens[:, i - 1] + 1) % VOCAB_SIZE, tokens[:, i])
    return tokens


class Block(nn.Module):
    """One layer of a transformer: causal self-attention, then a feed-forward network, each after a layer norm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden states [batch, seq_len, width] to hidden states of the same shape."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.mlp_norm(x))


class LanguageModel(nn.Module):
    """A causal language model: token ids [batch, seq_len] in, the mean loss of the next tokens out."""

    def __init__(self, seq_len: int, width: int = 96, num_layers: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB_SIZE, width), nn.Embedding(seq_len, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCAB_SIZE))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy of tokens 1 to seq_len - 1, each predicted from those before it."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        scores = self.head(self.blocks(x))
        return F.cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
