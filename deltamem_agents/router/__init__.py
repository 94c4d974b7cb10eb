"""Exact facts verbatim with their source; everything else from the weights."""

from deltamem_agents.router.answer import Answer
from deltamem_agents.router.by_model import by_model
from deltamem_agents.router.facts import Citation, Fact, ForgetReport, Hit, Scope
from deltamem_agents.router.policy import Decision
from deltamem_agents.router.router import HybridRouter
from deltamem_agents.router.scope import scope_of
from deltamem_agents.router.store import FactStore

__all__ = [
    "Answer",
    "Citation",
    "Decision",
    "Fact",
    "FactStore",
    "ForgetReport",
    "Hit",
    "HybridRouter",
    "Scope",
    "by_model",
    "scope_of",
]
