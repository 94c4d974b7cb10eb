"""Scores of free text against gold answers, as the data sets' own papers define them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from deltamem_agents.evaluation.stem import stem

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ARTICLES_AND = re.compile(r"\b(a|an|the|and)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks (SQuAD, HotpotQA)."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the answer is one of the gold answers after `normalise`."""
    return float(any(normalise(answer) == normalise(one) for one in gold))


def substring_match(answer: str, gold: Sequence[str]) -> float:
    """1 if one of the gold answers stands in the answer, both after `normalise`."""
    return float(any(normalise(one) in normalise(answer) for one in gold if normalise(one)))


def overlap(answer: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags of words."""
    same = sum((Counter(answer) & Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(answer), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def f1(answer: str, gold: Sequence[str]) -> float:
    """Best F1 over gold answers; yes, no and "no answer" count only as a whole (HotpotQA)."""
    return max((_f1(normalise(answer), normalise(one)) for one in gold), default=0.0)


def _f1(answer: str, gold: str) -> float:
    closed = {"yes", "no", "noanswer"}
    if (answer in closed or gold in closed) and answer != gold:
        return 0.0
    return overlap(answer.split(), gold.split())


def stemmed(text: str) -> list[str]:
    """Words as LoCoMo's own evaluation compares them.

    Commas go first, then case, punctuation, articles and "and"; what is left is stemmed.
    """
    plain = text.replace(",", "").lower().translate(_PUNCTUATION)
    return [stem(word) for word in _ARTICLES_AND.sub(" ", plain).split()]


def stemmed_f1(answer: str, gold: str) -> float:
    """F1 of two bags of stems (LoCoMo)."""
    return overlap(stemmed(answer), stemmed(gold))


def several_f1(answer: str, gold: str, score: Callable[[str, str], float] = stemmed_f1) -> float:
    """For answers that list things, separated by commas: for each gold one the best, then the mean.

    As LoCoMo's category 1 (multi-hop) is scored.
    """
    given = [part.strip() for part in answer.split(",")]
    wanted = [part.strip() for part in gold.split(",")]
    return sum(max(score(one, want) for one in given) for want in wanted) / len(wanted)
