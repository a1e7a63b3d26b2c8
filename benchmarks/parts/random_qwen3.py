"""Random Qwen3 models for the benchmarks: real shapes, weights that nobody needs to download."""

from __future__ import annotations

import dataclasses
from pathlib import Path

VOCABULARY = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model; heads have 64 dimensions."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int


M71 = Shape(hidden_size=2048, layers=2, heads=16, kv_heads=4, intermediate_size=4096)
M102 = Shape(hidden_size=1536, layers=4, heads=12, kv_heads=4, intermediate_size=4096)
M210 = Shape(hidden_size=1024, layers=16, heads=16, kv_heads=8, intermediate_size=3072)
# As many parameters in a quarter of the layers. What a layer takes beside its matrix products (Python,
# norms, an all-reduce) ranks do not share: CUDA graphs make that small on a GPU, few layers do here.
W210 = Shape(hidden_size=2048, layers=4, heads=16, kv_heads=8, intermediate_size=6912)


def make_model(
    directory: Path, shape: Shape, *, dtype: str, max_tokens: int, initializer_range: float = 0.02
) -> None:
    """Write the model and its tokenizer. `initializer_range` 0.05 keeps greedy responses from settling."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from taper_rollout.sample.tokenizer import make_tokenizer

    tokenizer = make_tokenizer(directory)
    config = Qwen3Config(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=64,
        intermediate_size=shape.intermediate_size,
        vocab_size=VOCABULARY,
        max_position_embeddings=max_tokens,
        initializer_range=initializer_range,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(directory)
