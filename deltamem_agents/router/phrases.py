"""The words that the grammar of `plain` knows: openings, endings, people and verbs."""

from __future__ import annotations

import re

# What may stand before a statement without changing it.
LEAD = re.compile(
    r"(?:(?:since|as of|starting|effective|until|every|last|this|next)\s+(?:last |next |this )?"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)?(?:day|week|month|year|today|tomorrow|now|\d{4})\b[,:]?\s+"
    r"|(?:hey|hi|hello|so|okay|ok|listen|well|oh|also|and|but|actually|fyi|ps"
    r"|by the way|btw|just so you know|for the record|for your (?:notes|information)|in case you"
    r" (?:wonder|need it)|fun fact|note|please|remember|no longer true|scratch that|forget the old"
    r" one|it is different now|things(?: have)? changed|I was wrong|I made a mistake|as far as I"
    r" know|keep in mind|do not forget|don['’]t forget|from (?:today|now on)(?: on)?|as of today"
    r"|heads up|good news|bad news|wait|sorry|no|yes|sure|thanks|one more thing|internally"
    r"|today|now|currently)\b\s*[,:;.!-]*\s+"
    r"|(?:correction|update|news|reminder)\s*[,:;.!-]+\s*"
    r"|(?:(?:please|can you|could you|would you)\s+)*(?:note|remember|be aware|know"
    r"|I should mention|I (?:can|want to|wanted to) tell you|let me tell you|they told me"
    r"|I (?:was|am) told|someone"
    r" told me|it turns out|turns out|we (?:agreed|decided)|you (?:may|might|should) want to know"
    r"|you should know|let it be known|I(?:['’]d| would) like you to know|I (?:said|mean)|I think"
    r"|I believe|I have to say|just to say|the (?:truth|fact) is)(?:\s+that)?\s*[,:]?\s+)",
    re.IGNORECASE,
)
# What may stand after a value without belonging to it.
TAIL = re.compile(
    r"(?:[\s,]+(?:these days|nowadays|now"
    r"|for now|from now on|for years|for ages|I think|I believe|today"
    r"|currently|at the moment|by the way|btw|please|too|as well|again|already"
    r"|okay\??|ok\??|alright\??|anyway"
    r"|and nothing else|instead"
    r"|according to .*|(?:\(?not\b.*)|(?:as of (?:today|now))|since (?:last )?\w+))+$"
    r"|,\s+(?:just|I|you|we|if|so|but|which|who|because|do|does|in case|not|as|that"
    r"|and (?:I|you|we|that|it)|thanks|thank|right|by the|before"
    r"|after|until|when|while|though|although|see)\b.*$"
    r"|\s*[.!,;:)]+$|\s+$|[\"'”’`]+$",
    re.IGNORECASE,
)
_PEOPLE_WORDS = """
sister brother boss neighbour neighbor cousin mother father mom mum dad uncle aunt roommate friend
manager grandmother grandfather teacher doctor daughter son coach landlord wife husband partner
girlfriend boyfriend dentist accountant plumber trainer tenant client customer
supervisor nurse pastor fiance therapist mechanic hairdresser colleague assistant nephew niece
parents family kids grandparents team
"""
PEOPLE = frozenset(_PEOPLE_WORDS.split())


def is_person(attribute: str) -> bool:
    """Whether "my ..." is a person rather than something that has a value."""
    return attribute.lower().split()[0] in PEOPLE


# verb phrase after the subject -> attribute, whether a newer value takes the older one's place
VERBS: tuple[tuple[str, str, bool], ...] = (
    (
        r"(?:(?:currently|now|still)\s+)?(?:lives?|resides?|is living|am living)\s+(?:in|at|on)",
        "home city",
        True,
    ),
    (r"(?:have |has )?(?:moved|relocated) to(?! port)", "home city", True),
    (r"(?:(?:is|am|are)\s+(?:from|based in))", "home city", True),
    (r"settled(?: down)? in", "home city", True),
    (r"(?:works?|is working|am working|was hired) as(?: an?)?", "job", True),
    (r"(?:became|earns? money as)(?: an?)", "job", True),
    (r"(?:works?|is working|am working) (?:at|for)", "employer", True),
    (r"(?:am|is|are) (?:called|named|known as)", "name", True),
    (r"goes by|go by", "name", True),
    (r"(?:was|were) born (?:in|on)", "birthday", True),
    (
        r"(?:celebrates? (?:my|a|his|her|their) birthday|turns? a year older) (?:in|on)",
        "birthday",
        True,
    ),
    (
        r"(?:runs?|listens?|(?:is|am) (?:running|listening|bound|available|reachable)|moved)"
        r" (?:on|to) (?:the )?port",
        "port",
        True,
    ),
    (r"(?:is|are|was) (?:hosted|deployed) (?:in|on|to)(?: region)?", "region", True),
    (r"(?:is|are|was) (?:written|coded|rewritten|implemented) in", "language", True),
    (r"(?:is|are) owned by|belongs? to", "owner", True),
    (r"stores? (?:its |all )?data in|keeps? all data in", "database", True),
    (r"(?:costs?|is priced at)", "price", True),
    (r"(?:expires?|is due|are due|is due on|ends?) (?:on|by|at|in)", "due date", True),
    (r"(?:starts?|begins?) (?:on|at|in)", "start", True),
    (r"(?:(?:is|am|are) allergic) to", "allergy", False),
    (r"(?:is|am|are) married to", "spouse", True),
    (r"(?:prefers?)(?: to drink)?", "preference", False),
    (r"drinks?(?= .*every day)", "favourite drink", True),
    (r"(?:loves? eating|could eat)", "favourite food", True),
    (
        r"(?:plays?|is learning|am learning|practises?|practices?|performs? on) the",
        "instrument",
        True,
    ),
    (r"(?:owns?|adopted|bought|have|has|got)(?= an? )", "owned", False),
    (r"(?:uses?|chose|picked)", "used", False),
    (r"(?:reports? to)", "manager", True),
    (r"(?:studies|study|studied|majors? in)", "subject of study", True),
    (r"(?:drives?)(?: an?)?", "vehicle", True),
    (r"(?:weighs?)", "weight", True),
    (r"(?:speaks?)", "language", False),
    (r"(?:is|am|are)(?= \d+ years old)", "age", True),
)
