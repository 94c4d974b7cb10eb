"""What a store takes from messages: whose it listens to, and the drafts that it reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from deltamem_agents.router.by_model import Extractor, verbatim_drafts
from deltamem_agents.router.extract import TEXT_LIMIT, extract, hide_secrets
from deltamem_agents.router.facts import Draft
from deltamem_agents.router.messages import Heard, Message, heard
from deltamem_agents.router.shelf import Shelf

Drafts = dict[str, tuple[Draft, ...]]
logger = logging.getLogger(__name__)


@dataclass
class Listener:
    """How messages are read.

    Attributes:
        keep_secrets: see `FactStore`.
        read_assistant: see `FactStore`.
        extractor: see `FactStore`.
    """

    keep_secrets: bool = False
    read_assistant: bool = False
    extractor: Extractor | None = None

    def read(self, shelf: Shelf, messages: Iterable[Message]) -> tuple[dict[str, Heard], Drafts]:
        """Messages by digest, and the drafts of those that tell something."""
        told = {shelf.keyed(o.digest): o for o in map(heard, messages) if self._listens(o)}
        found = {digest: self._drafts(one) for digest, one in told.items()}
        return told, {digest: drafts for digest, drafts in found.items() if drafts}

    def _listens(self, one: Heard) -> bool:
        return one.role in ("user", "tool") or (one.role == "assistant" and self.read_assistant)

    def _drafts(self, one: Heard) -> tuple[Draft, ...]:
        found = extract(one.text, keep_secrets=True)
        if one.role != "user":
            found = tuple(draft for draft in found if draft.kind != "mention")
        text = one.text[:TEXT_LIMIT]
        # All at once: what one reader calls a secret may stand in another's quote.
        drafts = (*found, *self._by_model(text, found))
        return hide_secrets(text, drafts, keep_secrets=self.keep_secrets)

    def _by_model(self, text: str, known: tuple[Draft, ...]) -> tuple[Draft, ...]:
        if self.extractor is None or not text.strip():
            return ()
        try:
            return verbatim_drafts(text, self.extractor(text), known)
        except Exception as error:  # a model that fails must not stop the conversation
            logger.warning("router: the extractor failed, patterns alone are read: %r", error)
            return ()
