"""δ-mem in a plain transformers model: no LangChain, no LangGraph, no database.

The built-in backbone stands for any decoder; with another one, give its name and its adapter's
folder.

Run: python examples/plain_transformers.py
"""

from importlib.resources import files

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deltamem_agents import load_adapter
from deltamem_agents.adapter import MemoryCache

builtin = files("deltamem_agents") / "builtin"
tokenizer = AutoTokenizer.from_pretrained(builtin / "backbone")
model = AutoModelForCausalLM.from_pretrained(builtin / "backbone")
load_adapter(model, builtin / "adapter")  # hooks in place; the backbone's weights stay as they are


def chat(messages, **options):
    """Token ids of a conversation, [1, T]."""
    return tokenizer.apply_chat_template(messages, return_tensors="pt", **options)["input_ids"]


told = [
    {"role": "user", "content": "Remember that my sister's instrument is cello."},
    {"role": "assistant", "content": "Okay. Your sister's instrument is cello."},
]
cache = MemoryCache(model)  # keys, values and the memory of one batch
with torch.no_grad():
    model(input_ids=chat(told), past_key_values=cache)
memory = cache.memory  # float32 [batch, layers, heads, rank, rank]; all that goes on from here
print("memory:", list(memory.shape))

question = [{"role": "user", "content": "What is my sister's instrument?"}]
prompt = chat(question, add_generation_prompt=True)  # what was told is not in it
for name, remembered in (("with memory", memory), ("empty", torch.zeros_like(memory))):
    cache = MemoryCache(model, memory=remembered)
    output = model.generate(prompt, past_key_values=cache, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    print(f"{name:<12}{answer.strip()}")
