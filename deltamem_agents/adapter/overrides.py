"""A method of one module in place of its class's, for what no hook is told of.

Hooks on a forward are passed over by `KeyboardInterrupt`, and `generate` has none.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn


class Override:
    """Stands in a module's own table under a method's name; the class keeps its method.

    It holds no reference to its module, so that a model goes as soon as nobody wants it, and it is
    copied and pickled with the module.

    Args:
        module: whose method.
        below: what stood there before, if that was not the class's.
    """

    #: Of the method.
    name: ClassVar[str]

    def __init__(self, module: nn.Module, below: Callable[..., Any] | None = None) -> None:
        self._module = weakref.ref(module)
        self._below = below

    @property
    def module(self) -> nn.Module:
        """Whose method this is."""
        module = self._module()
        assert module is not None
        return module

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The method that this stands for; `inspect.signature` looks here, as transformers does."""
        if self._below is not None:
            return self._below
        method: Callable[..., Any] = getattr(type(self.module), self.name).__get__(self.module)
        return method

    @classmethod
    def of(cls, module: nn.Module) -> Any:
        """The override of this kind that a module has, wrapped by others or not; or None."""
        found = module.__dict__.get(f"_delta_mem_{cls.name}")
        return found if isinstance(found, cls) else None

    def put(self) -> None:
        """Take the method's place."""
        table = self.module.__dict__
        self._below = table.get(self.name)
        table[self.name] = table[f"_delta_mem_{self.name}"] = self

    def take_away(self) -> None:
        """Give the place back; where others have wrapped this, it only calls what is below."""
        table = self.module.__dict__
        table.pop(f"_delta_mem_{self.name}", None)
        if table.get(self.name) is self:
            del table[self.name]
            if self._below is not None:
                table[self.name] = self._below

    def __reduce__(self) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name != "_module"}
        return type(self), (self.module,), state
