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

    def put(self) -> None:
        """Take the method's place."""
        self._below = self.module.__dict__.get(self.name)
        self.module.__dict__[self.name] = self

    def take_away(self) -> None:
        """Give the place back; a no-op where somebody else has taken it since."""
        if self.module.__dict__.get(self.name) is self:
            del self.module.__dict__[self.name]
            if self._below is not None:
                self.module.__dict__[self.name] = self._below

    def __reduce__(self) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name != "_module"}
        return type(self), (self.module,), state
