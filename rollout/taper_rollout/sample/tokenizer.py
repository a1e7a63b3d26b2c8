"""The sample's tokenizer: a byte-level BPE over the characters of the task, with a chat template.

The vocabulary has exactly `VOCABULARY_SIZE` entries, for two reasons. Inference engines pad vocabularies
to a multiple of 64. And a random model ends its answer with a probability of about 1/64 at each token,
so the lengths of
its answers are geometric: the 99th percentile is 6.6 times the median.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 64
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ALPHABET = string.digits + string.ascii_lowercase + " \n.,:?!-"
# Merges come from the words of the prompts and never join digits: an answer's digit is always one token.
CORPUS = ("write even digits", "user", "assistant", "system", "even digits even digits")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN_START}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{TURN_END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN_START}assistant\n{{% endif %}}"
)


def make_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer, save it to `directory` in Hugging Face format, and return it.

    Characters outside `ALPHABET` have no token and are dropped.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    symbols = sorted(
        {symbol for character in ALPHABET for symbol, _ in byte_level.pre_tokenize_str(character)}
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=symbols,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=PAD)
    fast.chat_template = CHAT_TEMPLATE
    assert len(fast) == VOCABULARY_SIZE, f"the corpus gives {len(fast)} tokens, not {VOCABULARY_SIZE}"
    fast.save_pretrained(directory)
    return fast
