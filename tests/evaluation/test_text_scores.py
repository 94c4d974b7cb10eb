"""Scores of published data sets, against values worked out from their definitions."""

from __future__ import annotations

import pytest

from deltamem_agents.evaluation.stem import stem
from deltamem_agents.evaluation.tasks.ifeval_checks import CHECKS, followed, followed_loosely
from deltamem_agents.evaluation.text_scores import (
    exact_match,
    f1,
    several_f1,
    stemmed_f1,
    substring_match,
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"), ("ponies", "poni"), ("ties", "tie"), ("cats", "cat"),
        ("feed", "feed"), ("agreed", "agre"), ("plastered", "plaster"), ("motoring", "motor"),
        ("sing", "sing"), ("conflated", "conflat"), ("hopping", "hop"), ("falling", "fall"),
        ("filing", "file"), ("happy", "happi"), ("sky", "sky"), ("relational", "relat"),
        ("conditional", "condit"), ("vietnamization", "vietnam"), ("predication", "predic"),
        ("hopefulness", "hope"), ("formality", "formal"), ("sensibility", "sensibl"),
        ("triplicate", "triplic"), ("electrical", "electr"), ("goodness", "good"),
        ("revival", "reviv"), ("adjustable", "adjust"), ("replacement", "replac"),
        ("adoption", "adopt"), ("activate", "activ"), ("probate", "probat"), ("rate", "rate"),
        ("controlling", "control"), ("roll", "roll"), ("dying", "die"), ("enjoy", "enjoy"),
    ],
)  # fmt: skip
def test_stems_of_the_paper_s_examples(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_answers_are_compared_after_normalising() -> None:
    assert exact_match("The  Eiffel-Tower.", ["eiffeltower"]) == 1.0
    assert exact_match("a tower", ["the tower", "x"]) == 1.0
    assert exact_match("tower of London", ["tower"]) == 0.0
    assert substring_match("I think it is the Tower.", ["tower"]) == 1.0
    assert substring_match("nothing", [""]) == 0.0
    assert f1("the big red tower", ["red tower"]) == pytest.approx(0.8)
    assert f1("yes it is", ["yes"]) == 0.0
    assert f1("yes", ["yes"]) == 1.0


def test_locomo_scores_stems_and_lists() -> None:
    assert stemmed_f1("running and jumping", "she runs, jumps") == pytest.approx(0.8)
    assert stemmed_f1("", "a dog") == 0.0
    assert several_f1("camping, painting", "painted, swimming") == pytest.approx(0.5)
    assert several_f1("painting", "painting, camping") == pytest.approx(0.5)


FOLLOWED = {
    "keywords:existence": ({"keywords": ["apple", "pear"]}, "Apples and pears", "Apples"),
    "keywords:frequency": (
        {"keyword": "so", "relation": "at least", "frequency": 2}, "so, so", "so"
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "catalogue", "a cat"),
    "keywords:letter_frequency": (
        {"letter": "e", "let_relation": "less than", "let_frequency": 3}, "eel", "eeEl"
    ),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3}, "Dr. Who came. He left!", "A b. C d. E f?"
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2}, "one\n***\ntwo", "one *** two *** three"
    ),
    "length_constraints:number_words": (
        {"relation": "at least", "num_words": 3}, "one, two three", "one two"
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"},
        "Hm.\n\nWell, yes.", "Well.\n\nHm.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[a] [b]", "[a]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Hi\nP.S. more", "Hi. PS"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2}, "*a* and **b**", "*a* and b"
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "PART", "num_sections": 2}, "PART 1\nx\nPART 2\ny", "PART 1\nx"
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<A title>>\ntext", "<< >>\ntext"),
    "combination:two_responses": ({}, "one ****** two", "one ****** one"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it."}, "say it. Done.", "Done."),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So. "the end."', "The end. No."),
    "startend:quotation": ({}, '"all of it"', '"part" of it'),
    "change_case:capital_word_frequency": (
        {"capital_relation": "less than", "capital_frequency": 2}, "ONE two", "ONE TWO"
    ),
    "change_case:english_capital": ({}, "ALL OF IT", "All of it"),
    "change_case:english_lowercase": ({}, "all of it", "All of it"),
    "punctuation:no_comma": ({}, "one two", "one, two"),
}  # fmt: skip


def test_every_instruction_has_a_case_but_that_of_the_language() -> None:
    assert set(CHECKS) - set(FOLLOWED) == {"language:response_language"}


@pytest.mark.parametrize("name", FOLLOWED)
def test_an_instruction_is_followed_or_not(name: str) -> None:
    given, good, bad = FOLLOWED[name]
    assert followed(name, good, given)
    assert not followed(name, bad, given)
    assert not followed(name, " \n", given)


def test_loose_forgives_a_line_around_the_answer_and_asterisks() -> None:
    assert not followed("startend:quotation", 'Here it is:\n"so"', {})
    assert followed_loosely("startend:quotation", 'Here it is:\n"so"', {})
    assert followed_loosely("startend:quotation", '**"so"**', {})
    assert not followed_loosely("startend:quotation", 'One\ntwo\n"so"', {})
