"""Values with named fields, whose classes are made fast: a first call needs fifty of them.

`typing.NamedTuple` compiles each annotation and a constructor, `dataclasses` half a dozen methods,
which together takes longer than to fork workers. Here nothing is compiled: the constructor of a
named tuple is one that came with this module, for so many fields, with their names put in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

__all__ = ["Frozen", "NamedTuple"]


class Frozen:
    """Base of values that nobody changes; their ``__slots__`` are what they are equal by.

    A constructor sets them by `object.__setattr__`.
    """

    __slots__: ClassVar[tuple[str, ...]] = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} is never changed: make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} is never changed: make another one")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        names = self.__match_args__ or self.__slots__  # those are in the order of the constructor
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({values})"

    def __getstate__(self) -> tuple[Any, ...]:
        return self._values()

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])


if TYPE_CHECKING:
    from typing import NamedTuple
else:
    import collections
    from _collections import _tuplegetter as getter  # as `collections.namedtuple` has it
    from types import FunctionType

    _new = tuple.__new__
    # By the number of fields; each is as fast as if it had been written out for its class.
    _MAKERS = (
        lambda _: _new(_, ()),
        lambda _, a: _new(_, (a,)),
        lambda _, a, b: _new(_, (a, b)),
        lambda _, a, b, c: _new(_, (a, b, c)),
        lambda _, a, b, c, d: _new(_, (a, b, c, d)),
        lambda _, a, b, c, d, e: _new(_, (a, b, c, d, e)),
        lambda _, a, b, c, d, e, f: _new(_, (a, b, c, d, e, f)),
        lambda _, a, b, c, d, e, f, g: _new(_, (a, b, c, d, e, f, g)),
        lambda _, a, b, c, d, e, f, g, h: _new(_, (a, b, c, d, e, f, g, h)),
    )

    class _Kind(type):
        def __new__(cls, name, bases, space):
            """Make a class: a tuple with a name for each field that is annotated."""
            if not bases:
                return super().__new__(cls, name, bases, space)
            fields = (*space.get("__annotations__", ()),)
            defaults = (*(space[field] for field in fields if field in space),)
            space["__new__"] = _maker(name, fields, defaults)
            for number, field in enumerate(fields):
                space[field] = getter(number, None)
            space["_fields"] = space["__match_args__"] = fields
            space.update(_METHODS)
            return type.__new__(cls, name, (tuple,), space)

    def _maker(name, fields, defaults):
        if len(fields) >= len(_MAKERS):  # few have so many
            return collections.namedtuple(name, fields, defaults=defaults).__new__  # noqa: PYI024
        code = _MAKERS[len(fields)].__code__
        code = code.replace(co_varnames=("_cls", *fields), co_name=name, co_qualname=name)
        return FunctionType(code, globals(), "__new__", defaults)

    def _replace(self, /, **changes):
        """Return the same with other values for some fields."""
        values = [changes.pop(name, value) for name, value in zip(self._fields, self, strict=True)]
        if changes:
            raise ValueError(f"{type(self).__name__} has no fields {sorted(changes)}")
        return _new(type(self), values)

    def _repr(self):
        pairs = zip(self._fields, self, strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    _METHODS = {
        "__slots__": (),
        "__repr__": _repr,
        "__getnewargs__": lambda self: (*self,),  # what a copy and a pickle are made of
        "_replace": _replace,
    }

    class NamedTuple(metaclass=_Kind):
        """A tuple whose fields have names: base of classes that annotate them."""
