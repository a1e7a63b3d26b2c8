"""The sample's model: a Qwen3 with random weights, generated from a seed.

It is wide and shallow, so that a decode step is matrix work that two cores can share, and small
enough for two cores to train.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from taper_rollout.sample.tokenizer import VOCABULARY_SIZE, make_tokenizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SampleShape:
    """Sizes of a decoder. `initializer_range` is the standard deviation of every weight.

    The logits of an untrained model have a standard deviation of about
    `initializer_range * sqrt(hidden_size)`: small enough that its tokens are nearly
    uniform, and the lengths of its answers nearly geometric.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    initializer_range: float
    max_position_embeddings: int = 2048


CPU = SampleShape(
    hidden_size=2048,
    num_hidden_layers=2,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    intermediate_size=4096,
    initializer_range=0.005,
)


def make_model(directory: Path, shape: SampleShape, *, seed: int) -> None:
    """Write a float32 model and its tokenizer to `directory` in Hugging Face format.

    Equal arguments give equal weights. The global random state of torch is not changed.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = make_tokenizer(directory)
    config = Qwen3Config(
        **dataclasses.asdict(shape),
        vocab_size=VOCABULARY_SIZE,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).to(torch.float32)
    model.save_pretrained(directory)
