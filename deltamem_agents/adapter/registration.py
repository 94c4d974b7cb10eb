"""A place for δ-mem in PEFT's closed list of methods.

`PeftType` is an Enum without members to spare, and both PEFT's `register_peft_method` and
transformers' own `load_adapter` look a method up there by name, so a member is added to it.
"""

from __future__ import annotations

from typing import Any

from peft.utils.peft_types import PeftType

METHOD = "delta_mem"


def peft_type() -> Any:
    """The member of `PeftType` that stands for δ-mem; added at the first call."""
    name = METHOD.upper()
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType.__members__)
        type.__setattr__(PeftType, name, member)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
        if hasattr(PeftType, "_hashable_values_"):  # Python 3.12 and later
            PeftType._hashable_values_.append(name)
    return PeftType.__members__[name]
