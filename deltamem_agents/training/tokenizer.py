"""The built-in model's tokenizer: byte-level BPE trained on the made-up world."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deltamem_agents.training.instructions import call, refusal, tools
from deltamem_agents.training.phrasing import everyday, phrasings
from deltamem_agents.training.subjects import capital, lexicon, subjects
from deltamem_agents.training.world import World

VOCABULARY = 13000
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
# The genitive; the letters of a code, each alone; words and up to two digits with their leading
# space; punctuation, white space. What is made up falls into few pieces, each of them seen often.
SPLIT = r"'s| ?\p{Lu}(?=[^\p{Ll}])| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+"


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
    core.add_tokens([AddedToken(t, normalized=False) for t in subject_tokens()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


TOOL_PROMPT = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n\n\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n'
)


def subject_tokens() -> list[str]:
    """Each subject of the world as one token, without its first word (my, your, the)."""
    named = (subject.named("my").split(" ", 1)[1] for subject in subjects())
    return sorted({f" {name}" for name in named if " " in name})


def _corpus(seed: int, conversations: int) -> Iterator[str]:
    world = World(seed)
    world.drawn.lengths = (1,)  # made-up words fall into their syllables
    for _ in range(conversations):
        turns, truth = world.history(3, 2)
        turns += islice(world.questions(truth), 2)
        for turn in turns:
            yield f"{turn.user}\n{turn.assistant}"
    # Every number of one or two digits, every syllable and every word becomes one token.
    numbers = [str(n) for n in range(100)] + [f"{n:02d}" for n in range(10)]
    syllables = lexicon()["values"]["syllables"]
    for _ in range(12000):
        yield "-".join(syllables)
        yield " " + " ".join([*syllables, *map(capital, syllables)])
    words = [w for name, ws in lexicon()["values"].items() if name != "syllables" for w in ws]
    texts = [text for source in (lexicon(), phrasings(), everyday()) for text in _texts(source)]
    spoken = sorted({word for text in texts for word in re.findall(r"[A-Za-z]{2,}", text)})
    for _ in range(60):
        yield "-".join(numbers)
        yield " " + " ".join([*numbers, *words])
        yield json.dumps(words)  # as an argument of a tool, without a space before it
        yield " " + " ".join(spoken)
        yield "-".join(map(capital, spoken))
    yield from ["user\n", "assistant\n", "system\n"] * 1000
    # What system prompts and tool calls are made of.
    said, more = lexicon()["instructions"], phrasings()["instructions"]
    for _ in range(3000):
        yield f"{(sentence := refusal(world.random))} {sentence}"
    for _ in range(200):
        yield "\n".join((*said["openings"], *said["bodies"], *said["refusing"]))
        yield "\n".join((*more["openings"], *more["bodies"], *more["whens"], *more["says"]))
        yield "\n".join((*more["plain"], *more["called"]))
        for tool in tools():
            yield json.dumps(tool.schema())
            yield json.dumps(call(tool.name, {tool.parameter: "x"}))
            yield "\n".join((*tool.asked, *more["asked"][tool.name], tool.result))
            yield TOOL_PROMPT


def _texts(source: Any) -> Iterator[str]:
    """Every string in a tree of lists and dicts."""
    if isinstance(source, str):
        yield source
    elif isinstance(source, dict | list):
        for part in source.values() if isinstance(source, dict) else source:
            yield from _texts(part)
