"""The built-in model's tokenizer: byte-level BPE trained on the made-up world."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deltamem_agents.training.subjects import capital, lexicon
from deltamem_agents.training.world import World

VOCABULARY = 4096
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
# The genitive, words and up to three digits with their leading space, punctuation, white space.
SPLIT = r"'s| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def build_tokenizer(seed: int = 0, conversations: int = 4000) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same seed gives the same vocabulary."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(seed, conversations), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def _corpus(seed: int, conversations: int) -> Iterator[str]:
    world = World(seed)
    for _ in range(conversations):
        turns, _ = world.history(3, 2)
        for turn in turns:
            yield f"{turn.user}\n{turn.assistant}"
    # Every number of one to three digits, and every word of the lexicon, becomes one token.
    numbers = [str(n) for n in range(1000)] + [f"{n:03d}" for n in range(100)]
    numbers += [f"{n:02d}" for n in range(10)]
    words = [w for ws in lexicon()["values"].values() for w in ws]
    syllables = lexicon()["values"]["syllables"]
    for _ in range(60):
        yield "-".join(numbers)
        yield " " + " ".join([*numbers, *words])
        yield " " + " ".join(
            capital(first + second) for first in syllables for second in syllables[::7]
        )
    yield from ["user\n", "assistant\n", "system\n"] * 1000
