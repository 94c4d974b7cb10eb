"""From tokens to text as it grows: characters of several tokens, and stop strings of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Detokenizer:
    """Decodes a growing list of ids without decoding the whole of it each time.

    Args:
        tokenizer: a tokenizer of transformers.
        alone: texts of single tokens, shared by the replies of one tokenizer; filled here.
    """

    def __init__(self, tokenizer: Any, alone: dict[int, str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._alone = {} if alone is None else alone
        self._ids: list[int] = []
        self._start = 0
        self._shown = ""

    def push(self, token: int) -> str:
        """Add a token; return the text that is now certain."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start :])
        if text.endswith("\ufffd") and len(self._ids) - self._start < 16:
            return ""  # a character is cut in two; its other half comes with the next tokens
        return self._take(text)

    def flush(self) -> str:
        """Return what was held back, whatever it is."""
        return self._take(self._decode(self._ids[self._start :]))

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _take(self, text: str) -> str:
        new = text[len(self._shown) :]
        # One token of context stays, since tokenizers treat the first token of a text apart.
        if self._ids:
            self._start, last = len(self._ids) - 1, self._ids[-1]
            if last not in self._alone:
                self._alone[last] = self._decode([last])
            self._shown = self._alone[last]
        return new


class StopStrings:
    """Passes text on until a stop string appears, and holds back what may become one.

    Args:
        stops: strings; the earliest in the text wins. Empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Add text; return what can be shown. After a stop string, `found` is True."""
        if not self._stops:
            return text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = held_back(self._held, self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """Return what was held back: the text is over and no stop string came."""
        shown, self._held = self._held, ""
        return shown


def held_back(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the beginning of one of `marks`."""
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if mark.startswith(text[-length:]):
                longest = length
                break
    return longest
