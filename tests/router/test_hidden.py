"""Secrets are hidden however they are told, and what is hidden still stands against older facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore, HybridRouter
from deltamem_agents.router.documents import drafts_of
from deltamem_agents.router.extract import extract


@pytest.mark.parametrize(
    "later",
    [
        "Could you update my port? It's 9090, the password is hunter2.",
        "Could you change my port for me? It is on https://bob:hunter2@host/x now.",
        "I need you to switch my port. That is 9090 and the password is hunter2.",
    ],
)
def test_an_update_with_a_secret_beside_it_stands_against_the_old_value(
    tmp_path: Path, later: str
) -> None:
    with SQLAlchemySaver(tmp_path / "facts.db") as saver:
        store = FactStore(saver)
        scope = store.branch("alice")
        store.record("My port is 8080.", scope)
        store.record(later, scope)
        decision = HybridRouter(store).probe("What is my port?", scope)
        assert decision.value != "8080"
        assert "hunter2" not in HybridRouter(store).as_data(decision)


def test_a_mention_with_a_secret_in_it_stays_a_mention() -> None:
    text = "Could you update my port? It's 9090, the password is hunter2."
    (mention,) = [draft for draft in extract(text) if draft.attribute == "port"]
    assert (mention.kind, mention.value) == ("mention", mention.quote)
    assert "9090" in mention.value
    assert "hunter2" not in mention.value
    assert "port" not in {draft.attribute for draft in drafts_of(text)}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("My password's hunter2.", "hunter2"),
        ("My login changed, password hunter2", "hunter2"),
        ("I typed the passwd hunter2 in", "hunter2"),
        ("Could you update my bank pin? I set 4821 for it.", "4821"),
        (
            "The passphrase we use there now: correct horse battery staple.",
            "horse battery",
        ),
        ("We met, and the passphrase is correct horse battery staple.", "horse battery"),
    ],
)
def test_secrets_told_in_passing_are_not_kept(text: str, secret: str) -> None:
    for draft in extract(text):
        assert secret not in draft.value + draft.quote


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The password policy of team9 changed: our limit is 12 characters.", "12"),
        ("The password manager runs on port 8080.", "8080"),
        ("Pin a note to the board: my gate is B7.", "B7"),
        ("Did you forget my password? My port is 8080.", "8080"),
        ("The password reset takes 15 minutes, my port is 8080.", "15"),
        ("My password changed. My port is 8080.", "8080"),
    ],
)
def test_words_around_passwords_are_no_secrets(text: str, kept: str) -> None:
    drafts = extract(text)
    assert any(kept in draft.value for draft in drafts)
    assert not any("•" in draft.quote for draft in drafts)


def test_what_the_reader_calls_a_secret_is_hidden_in_what_a_model_reads(tmp_path: Path) -> None:
    def named(text: str) -> list[dict[str, str]]:
        return [{"subject": "router", "attribute": "location", "value": "kitchen"}]

    text = "They gave me bluehorse as my wifi password when the router went to the kitchen."
    with SQLAlchemySaver(tmp_path / "facts.db") as saver:
        store = FactStore(saver, extractor=named)
        found = store.record(text, store.branch("alice"))
        assert "kitchen" in {fact.value for fact in found}
        assert not any("bluehorse" in fact.value + fact.quote for fact in found)


def test_what_is_told_behind_a_passphrase_is_no_part_of_it() -> None:
    drafts = extract("My passphrase is correct horse and my port is 8080.")
    assert ("port", "8080") in {(draft.attribute, draft.value) for draft in drafts}
    assert not any("horse" in draft.value + draft.quote for draft in drafts)
