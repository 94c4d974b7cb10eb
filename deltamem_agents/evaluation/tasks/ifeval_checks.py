"""The verifiable instructions of IFEval (Zhou and others 2023), one function each.

Each takes the response and the instruction's arguments as published, and says whether it was
followed. Two things differ from the original: sentences are cut by a rule of our own instead of
NLTK's model, and capital words are runs of letters. `language` needs the package langdetect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
_SENTENCE = re.compile(r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bMrs)[.!?]+[\"')\]]*(?=\s|$)")
_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _compared(count: int, relation: str | None, wanted: int) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _keywords(text: str, given: Arguments) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in given["keywords"])


def _frequency(text: str, given: Arguments) -> bool:
    count = len(re.findall(given["keyword"], text, re.IGNORECASE))
    return _compared(count, given["relation"], given["frequency"])


def _forbidden(text: str, given: Arguments) -> bool:
    words = given["forbidden_words"]
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in words)


def _letters(text: str, given: Arguments) -> bool:
    count = text.lower().count(given["letter"].lower())
    return _compared(count, given["let_relation"], given["let_frequency"])


def _language(text: str, given: Arguments) -> bool:
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0
    try:
        return bool(detect(text) == given["language"])
    except LangDetectException:  # nothing to tell a language by: counted as followed, as published
        return True


def _sentences(text: str, given: Arguments) -> bool:
    cut = [part for part in _SENTENCE.split(text.replace("\n", " ")) if part.strip()]
    return _compared(len(cut), given["relation"], given["num_sentences"])


def _paragraphs(text: str, given: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1]
    if any(not part.strip() for part in inner):
        return False
    return bool(sum(bool(part.strip()) for part in parts) == given["num_paragraphs"])


def _words(text: str, given: Arguments) -> bool:
    return _compared(len(re.findall(r"\w+", text)), given["relation"], given["num_words"])


def _first_word(text: str, given: Arguments) -> bool:
    parts = text.split("\n\n")
    filled = [part for part in parts if part.strip()]
    place = given["nth_paragraph"]
    if len(filled) != given["num_paragraphs"] or place > len(filled):
        return False
    words = parts[place - 1].split()
    if not words:
        return False
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower()
    return bool(first == given["first_word"].lower())


def _placeholders(text: str, given: Arguments) -> bool:
    return bool(len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"])


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"]
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, given: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return bool(len(stars) + len(dashes) == given["num_bullets"])


def _constrained(text: str, given: Arguments) -> bool:
    return any(choice in text for choice in _CHOICES)


def _highlights(text: str, given: Arguments) -> bool:
    found = [*re.findall(r"\*\*([^\n*]*)\*\*", text), *re.findall(r"\*([^\n*]*)\*", text)]
    return bool(sum(bool(part.strip()) for part in found) >= given["num_highlights"])


def _sections(text: str, given: Arguments) -> bool:
    parts = re.split(rf"\s?{given['section_spliter']}\s?\d+\s?", text)
    return bool(len(parts) - 1 >= given["num_sections"])


def _json(text: str, given: Arguments) -> bool:
    body = re.sub(r"^```(?:json)?", "", text.strip(), flags=re.IGNORECASE).removesuffix("```")
    try:
        json.loads(body.strip())
    except ValueError:
        return False
    return True


def _title(text: str, given: Arguments) -> bool:
    found = re.findall(r"<<[^\n]+>>", text)
    return any(title.lstrip("<").rstrip(">").strip() for title in found)


def _two(text: str, given: Arguments) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    filled = [part.strip() for part in parts if part.strip()]
    return len(filled) == 2 and filled[0] != filled[1]


def _repeat(text: str, given: Arguments) -> bool:
    return bool(text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower()))


def _ends(text: str, given: Arguments) -> bool:
    return bool(text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower()))


def _capital_words(text: str, given: Arguments) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[^\W\d_]+(?:[-'][^\W\d_]+)*", text))
    return _compared(count, given["capital_relation"], given["capital_frequency"])


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _ends,
    "startend:quotation": lambda text, given: (
        len(text.strip()) > 1 and text.strip()[0] == '"' == text.strip()[-1]
    ),
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, given: text.isupper(),
    "change_case:english_lowercase": lambda text, given: text.islower(),
    "punctuation:no_comma": lambda text, given: "," not in text,
}


def followed(name: str, text: str, given: Arguments) -> bool:
    """Whether a response follows an instruction; an empty one follows none."""
    return bool(text.strip()) and CHECKS[name](text, given)


def followed_loosely(name: str, text: str, given: Arguments) -> bool:
    """The same, forgiving a first or last line that is not the answer, and asterisks."""
    lines = text.split("\n")
    forms = {text, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])}
    forms = {form.strip() if form != text else form for form in forms}
    forms |= {form.replace("*", "") for form in forms}
    return any(followed(name, form, given) for form in forms)
