"""A method of one module in place of its class's, for what no hook is told of.

Hooks on a forward are passed over by `KeyboardInterrupt`, and `generate` has none.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

from torch import nn

from deltamem_agents.errors import StateError, UnsupportedModelError


class Override:
    """Stands in a module's own table under a method's name; the class keeps its method.

    It holds no reference to its module, so that a model goes as soon as nobody wants it, and it is
    copied and pickled with the module. Others may wrap it; when it has been taken away, it stays in
    the table as long as they do, and only calls what is below.

    Args:
        module: whose method.
    """

    #: Of the method.
    name: ClassVar[str]

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self._below: Callable[..., Any] | None = None
        self._key = ""
        self.away = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.__wrapped__ if self.away else self.run)(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the method does as long as this is in place."""
        raise NotImplementedError

    @property
    def module(self) -> nn.Module:
        """Whose method this is.

        Raises:
            StateError: it is gone, and a shallow copy of it is called.
        """
        module = self._module()
        if module is None:
            raise StateError(
                "a shallow copy of a model is called while the model is there",
                got="a model that is gone",
                remedy="Use copy.deepcopy(model), or keep the model.",
            )
        return module

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The method that this stands for; `inspect.signature` looks here, as transformers does."""
        if self._below is not None:
            return self._below
        method: Callable[..., Any] = getattr(type(self.module), self.name).__get__(self.module)
        return method

    @property
    def __func__(self) -> Callable[..., Any]:
        """As a function of the module, as of any method: wrapped and bound again, it goes with it.

        A copy of the module finds the copy of this in its own table.
        """
        key = self._key

        def method(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return module.__dict__[key](*args, **kwargs)

        own = inspect.Parameter("_module", inspect.Parameter.POSITIONAL_ONLY)
        others = inspect.signature(self.__wrapped__).parameters.values()
        method.__signature__ = inspect.Signature([own, *others])  # type: ignore[attr-defined]
        method.__name__ = self.name
        return method

    @classmethod
    def of(cls, module: nn.Module) -> Any:
        """The override of this kind that a module has, wrapped by others or not; or None."""
        table = module.__dict__.values()
        return next((x for x in table if isinstance(x, cls) and not x.away), None)

    def put(self) -> None:
        """Take the method's place."""
        table = self.module.__dict__
        self._below = table.get(self.name)
        keys = (f"_delta_mem_{self.name}_{n}" for n in count())
        self._key = next(key for key in keys if key not in table)
        table[self.name] = table[self._key] = self

    def take_away(self) -> None:
        """Give the place back; where others have wrapped this, it only calls what is below."""
        self.away = True
        table = self.module.__dict__
        if table.get(self.name) is self:
            del table[self._key], table[self.name]
            if self._below is not None:
                table[self.name] = self._below

    def __reduce__(self) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name != "_module"}
        return type(self), (self.module,), state


class Replicate(Override):
    """In place of the method by which `nn.DataParallel` copies a module, in name only."""

    name = "_replicate_for_data_parallel"

    def run(self, *_: Any, **__: Any) -> Any:
        """Refuse.

        Raises:
            UnsupportedModelError: always; the copies would run the layers of the one copied.
        """
        raise UnsupportedModelError(
            "a model with a memory runs on devices of its own",
            got="torch.nn.DataParallel over several devices",
            remedy="Use DistributedDataParallel, or one device (CUDA_VISIBLE_DEVICES=0).",
        )
