"""Doubles for tests: a tiny random backbone and a byte tokenizer, real in kind, without skill.

A tiny model is a real transformers model with random weights, so that windows, replay, batching and
formats are exercised in full; it knows nothing, so that answers are noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED_TOKENS = (
    "<tools>",
    "</tools>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)


def byte_tokenizer(template: str = "chatml") -> Any:
    """Build a fast tokenizer with one token a byte and Qwen's special tokens.

    Args:
        template: the name of a shipped chat template, or a Jinja text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from deltamem_agents.runtime.template import SHIPPED, shipped

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = shipped(template) if template in SHIPPED else template
    return tokenizer


def tiny_backbone(
    *, layers: int = 2, hidden: int = 32, seed: int = 0, vocabulary: int = 512, window: int = 1024
) -> Any:
    """Build a random Qwen3 model.

    Args:
        layers: number of decoder layers.
        hidden: width, a multiple of 16.
        seed: seed of the weights.
        vocabulary: size of the embedding; at least the tokenizer's.
        window: max_position_embeddings.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 16,
        num_key_value_heads=max(1, hidden // 32),
        head_dim=16,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    return model.eval()


def tiny_model(*, adapter: Mapping[str, Any] | None = None, seed: int = 0, **backbone: Any) -> Any:
    """Build a tiny backbone with a random adapter that has a visible effect.

    Args:
        adapter: fields of DeltaMemConfig.
        seed: seed of backbone and adapter.
        **backbone: see `tiny_backbone`.
    """
    import torch

    from deltamem_agents.adapter import DeltaMemConfig, attach

    model = tiny_backbone(seed=seed, **backbone)
    fields = {"rank": 4, "heads": 2, "init": "random", "init_scale": 1.0, "update": "no_lambda"}
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        attach(model, DeltaMemConfig(**{**fields, **(adapter or {})}))
    return model


def tiny_engine(
    *,
    template: str = "chatml",
    adapter: Mapping[str, Any] | None = None,
    seed: int = 0,
    window: int = 1024,
    **engine: Any,
) -> Any:
    """Build an engine on a tiny model.

    Args:
        template: see `byte_tokenizer`.
        adapter: fields of DeltaMemConfig.
        seed: seed of backbone and adapter.
        window: max_position_embeddings.
        **engine: see `load_engine`; `context_window` above all.
    """
    from deltamem_agents.runtime.loading import load_engine

    model = tiny_model(adapter=adapter, seed=seed, window=window)
    return load_engine(model, tokenizer=byte_tokenizer(template), **engine)


def save_tiny(
    folder: str | Path,
    *,
    template: str = "chatml",
    adapter: Mapping[str, Any] | None = None,
    **backbone: Any,
) -> tuple[Path, Path]:
    """Write a tiny model and its adapter as load_engine reads them.

    Args:
        folder: where; made if it is not there.
        template: see `byte_tokenizer`.
        adapter: fields of DeltaMemConfig.
        **backbone: see `tiny_backbone`.

    Returns:
        The backbone's folder and the adapter's.
    """
    from deltamem_agents.adapter import detach, save_adapter

    model_folder, adapter_folder = Path(folder) / "backbone", Path(folder) / "adapter"
    tokenizer = byte_tokenizer(template)
    model = tiny_model(adapter=adapter, **backbone)
    save_adapter(model, adapter_folder)
    detach(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)
    return model_folder, adapter_folder


Script = Callable[[str], str]


def scripted(engine: Any, script: Script) -> Any:
    """Put a script in the place of an engine's network: for tests of the plumbing only.

    The model still runs, so that keys, values and memory are real; the logits it gives while a
    reply is generated are replaced by ones that spell the script's reply.

    Args:
        engine: an engine on a tiny model.
        script: the text of the prompt, template included, to the text of the reply.

    Returns:
        The engine.
    """
    from torch import Tensor, full_like

    from deltamem_agents.runtime.session import Feed

    tokenizer, run = engine.tokenizer, engine.runner.forward
    question = [{"role": "user", "content": "."}]
    openings = [
        engine.template.generation_prompt(question, thinking=thinking) for thinking in (False, None)
    ]

    def replaced(feeds: Sequence[Feed]) -> list[Tensor]:
        return [spell(feed, logits) for feed, logits in zip(feeds, run(feeds), strict=True)]

    def spell(feed: Feed, logits: Tensor) -> Tensor:
        session = feed.session
        if not session.marks or not session.marks[-1].open:
            return logits
        *before, current = session.marks
        ids = [*(session.pinned.ids if session.pinned else ()), *(i for m in before for i in m.ids)]
        opening = next(len(ids) for ids in openings if tuple(current.ids[: len(ids)]) == ids)
        reply = tokenizer(script(tokenizer.decode(ids)), add_special_tokens=False)["input_ids"]
        wanted = [*reply, tokenizer.eos_token_id]
        logits = full_like(logits, -100.0)
        logits[wanted[min(len(current.ids) - opening, len(wanted) - 1)]] = 100.0
        return logits

    engine.runner.forward = replaced
    return engine
