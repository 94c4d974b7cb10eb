"""δ-mem as a PEFT method: train it, save it, load it, switch it off.

The task is small enough for a minute on a CPU: a word is told, its keys and values are thrown
away, and the word is to come back out of the state alone.

Run: python examples/peft_adapter.py
"""

from importlib.resources import files
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from deltamem_agents import DeltaMemConfig
from deltamem_agents.adapter import MemoryCache

torch.manual_seed(0)
backbone = str(files("deltamem_agents") / "builtin" / "backbone")  # take a decoder of your own
tokenizer = AutoTokenizer.from_pretrained(backbone)
words = [" cello", " piano", " violin", " flute"]
answers = torch.tensor([tokenizer(word)["input_ids"][-1] for word in words])
told = torch.tensor([tokenizer("My sister plays the" + word)["input_ids"] for word in words])
asked = torch.tensor([tokenizer("Which one? The")["input_ids"]] * len(words))


def answer(model, *, remember=True):
    """Logits [words, vocabulary] of the next word; only the memory crosses from told to asked."""
    first = MemoryCache(model)
    model(input_ids=told, past_key_values=first)
    memory = first.memory if remember else torch.zeros_like(first.memory)
    second = MemoryCache(model, memory=memory)
    return model(input_ids=asked, past_key_values=second).logits[:, -1]


def right(model, **options):
    """How many words come back."""
    with torch.no_grad():
        return int((answer(model, **options).argmax(-1) == answers).sum())


model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(backbone),
    DeltaMemConfig(rank=16, heads=2, update="no_lambda"),
)
model.print_trainable_parameters()
print(f"before training: {right(model)} of {len(words)} words")

optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
for _ in range(60):
    loss = torch.nn.functional.cross_entropy(answer(model), answers)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"after training:  {right(model)} of {len(words)} words")
print(f"memory emptied:  {right(model, remember=False)} of {len(words)} words")

with TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), folder)
print(f"saved, loaded:   {right(again)} of {len(words)} words")

bare = AutoModelForCausalLM.from_pretrained(backbone)
with again.disable_adapter(), torch.no_grad():
    same = torch.equal(again(input_ids=asked).logits, bare(input_ids=asked).logits)
print("switched off, the logits are the backbone's own:", same)
