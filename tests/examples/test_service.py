"""The example's service refuses words that would be in every turn."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

SERVICE = Path(__file__).parents[2] / "examples" / "service.py"


@pytest.mark.parametrize("words", ["", "a", "is"])
def test_too_few_letters_forget_nothing(words: str) -> None:
    app = runpy.run_path(str(SERVICE))["app"]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            signed = {"Authorization": "Bearer token-a"}
            return await client.delete("/memory", params={"words": words}, headers=signed)

    reply = asyncio.run(ask())
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["query", "words"]
