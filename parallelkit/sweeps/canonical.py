"""The canonical form of parameters: a text that only equal values share.

It is the same for the same values, in whatever order a dict was filled, for numpy's scalars and
Python's; and differs for ``1``, ``1.0``, ``True`` and ``"1"``. What is large, code or an object is
described so that it can be told apart: arrays and the state of models by a digest, functions and
classes by the name under which they can be imported. What cannot be is :class:`NotPlain`.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any

from ..place.nesting import in_worker_process
from .values import Encoder, NotPlain, dumps, short

__all__ = ["canonical", "code", "content", "function_name", "module_name", "stated"]


def canonical(value: Any) -> str:
    """Text that is the same for the same value, and another one for any other.

    Raises
    ------
    NotPlain
        If it holds something that cannot be told apart from others reliably.
    """
    return _text(_Describing(), value)


def stated(value: Any) -> str:
    """As :func:`canonical`, but of any object by its state, and of local functions by their code.

    Raises
    ------
    NotPlain
        If it holds something without a state that can be read.
    """
    return _text(_Stating(), value)


def _text(encoder: _Describing, value: Any) -> str:
    try:
        return dumps(encoder.of(value))
    except RecursionError:
        raise NotPlain("it contains itself, or is nested too deeply") from None


class _Describing(Encoder):
    def mapping(self, value: Mapping[Any, Any]) -> Any:
        tree = super().mapping(value)
        if "~d" in tree:
            tree["~d"].sort(key=dumps)
        if type(value) is dict:
            return tree
        factory = self.of(getattr(value, "default_factory", None))
        # Others may differ in their order, or in what they have for names that are missing.
        return _is(f"{self.named(type(value))} {dumps([list(value), factory, tree])}")

    def container(self, value: Any) -> Any:
        """What derives from a plain type may differ by more than that type shows."""
        plain = (tuple, set, frozenset, type(pathlib.Path()))
        if isinstance(value, (tuple, set, frozenset, pathlib.PurePath)):
            kind = type(value)
            if kind not in plain and not hasattr(value, "_fields"):
                if not isinstance(value, pathlib.PurePath):
                    return self.other(value)
                return _is(f"{self.named(kind)} {value}")
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return _is(f"{self.named(kind)} {dumps([self.of(v) for v in tuple(value)])}")
        return super().container(value)

    def scalar(self, value: Any) -> Any:
        if value.dtype.kind == "V":  # a row of a structured array
            return _is(f"row {dumps(self.array(_as_array(value)))}")
        if value.dtype.kind in "fc" and type(value.item()) not in (float, complex):
            return _is(f"{value.dtype.str} {value!r}")  # long double
        return super().scalar(value)

    def array(self, value: Any) -> Any:
        kind = type(value)
        name = "" if kind.__name__ in ("ndarray", "memmap") else f"{kind.__name__} "
        if name and kind.__module__.partition(".")[0] != "numpy":  # such as one with a unit
            return self.other(value)
        shape = " × ".join(map(str, value.shape))
        if value.dtype.names is not None:
            # By fields: what lies between them is anything. `value.dtype.str` has no names.
            fields = [self.array(_as_array(value[name])) for name in value.dtype.names]
            digest = _digest(dumps([[list(map(str, value.dtype.descr))], fields]))
            return _is(f"{name}array {','.join(value.dtype.names)} {shape} #{digest}")
        if value.dtype.hasobject:
            tree = {"~o": [list(value.shape), [self.of(v) for v in value.ravel().tolist()]]}
            return _is(f"{name}{dumps(tree)}") if name else tree
        import numpy as np

        data: Any = np.ascontiguousarray(_as_array(value)).reshape(-1).view(np.uint8)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        return _is(f"{name}array {value.dtype.str} {shape} #{digest}")

    def other(self, value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return _is(f"{self.named(type(value))}.{value.name}")
        if type(value) is functools.partial:
            parts = [self.of(value.func), self.of(value.args), self.of(value.keywords)]
            return _is(f"partial {dumps(parts)}")
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return _is(self.named(value))
        if callable(value) and isinstance(getattr(value, "__qualname__", None), str):
            return _is(self.named(value))  # as numpy's functions, which are of classes of its own
        if isinstance(value, slice):
            return _is(f"slice {dumps(self.of((value.start, value.stop, value.step)))}")
        if hasattr(value, "get_params"):  # as scikit-learn's models
            return self._model(value)
        if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "to_numpy"):
            return _is(f"{type(value).__name__} {_digest(dumps(self._frame(value)))}")
        raise NotPlain(
            f"{short(value)} of type {type(value).__qualname__} has no canonical form; use "
            "numbers, texts, lists, dicts, arrays, functions or classes, such as a name that "
            "your function looks up"
        )

    def named(self, value: Any) -> str:
        """Name of a function or class; refused if others may have it too."""
        if not _is_importable(value):
            raise NotPlain(
                f"{short(value)} has no name under which it can be imported; write it with def or "
                "class, at the top of a module"
            )
        return function_name(value)

    def _model(self, value: Any) -> Any:
        """A model: its settings, and what it has learned."""
        params = self.of(value.get_params(deep=False))
        state = _Learned().of_state(value)
        return _is(f"{self.named(type(value))} {dumps(params)} #{_digest(dumps(state))}")

    def _frame(self, value: Any) -> Any:
        """A Series, an Index or a DataFrame, by its columns."""
        if hasattr(value, "columns"):
            columns = [self._frame(value.iloc[:, i]) for i in range(value.shape[1])]
            return [self._frame(value.columns), self._frame(value.index), columns]
        index = getattr(value, "index", None)
        names = getattr(value, "names", None) or [value.name]
        kinds = getattr(value.dtype, "categories", None)
        parts = [value.to_numpy(), str(value.dtype), list(names), type(value).__name__]
        return [
            self.of(parts),
            None if index is None else self._frame(index),
            None if kinds is None else [self._frame(kinds), value.dtype.ordered],
        ]


class _Learned(_Describing):
    """Objects by their state, as pickle has it: equal ones are the same in another process."""

    def other(self, value: Any) -> Any:
        try:
            return super().other(value)
        except NotPlain:
            if isinstance(value, (type, types.FunctionType, enum.Enum, functools.partial)):
                raise
        return self.of_state(value)

    def _model(self, value: Any) -> Any:
        return self.of_state(value)

    def of_state(self, value: Any) -> Any:
        """Describe an object by what makes it again."""
        try:
            made = value.__reduce_ex__(2)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - a user's own may raise anything
            raise NotPlain(f"{short(value)} has no state that can be read: {error}") from None
        if isinstance(made, str):
            return _is(f"{self.named(type(value))} {made}")
        func, arguments, *more = made
        rest = [list(part) if hasattr(part, "__next__") else part for part in more]
        maker = function_name(func)  # of the class, or its module; it comes with the class
        return {"~state": [maker, self.named(type(value)), self.of(arguments), self.of(rest)]}


class _Stating(_Learned):
    """What belongs to a function: local functions by their code, classes by their names alone."""

    def named(self, value: Any) -> str:
        if isinstance(value, types.FunctionType) and not _is_importable(value):
            defaults = [value.__defaults__, value.__kwdefaults__]
            cells = [content(cell) for cell in value.__closure__ or ()]
            told = dumps([code(value.__code__), self.of(defaults), self.of(cells)])
            return f"{function_name(value)} #{_digest(told)}"
        return function_name(value)


def content(cell: types.CellType) -> Any:
    """What a variable of a closure holds."""
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None


def code(value: types.CodeType) -> Any:
    """What a function does, as JSON has it; the same in every process of one Python."""
    constants = [
        code(one) if isinstance(one, types.CodeType) else _constant(one) for one in value.co_consts
    ]
    return [value.co_code.hex(), list(value.co_names), list(value.co_varnames), constants]


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):  # its order is another one in each process
        return repr(sorted(map(_constant, value)))
    return repr(value)


def function_name(value: Any) -> str:
    """``module:qualified.name`` of a function or class; a script's module is its file's name."""
    module = module_name(getattr(value, "__module__", None))
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return f"{module}:{name or type(value).__qualname__}"


def module_name(module: str | None) -> str:
    """Name of a module; that of a script is its file's."""
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None:
            return str(spec.name)
        if file is not None:
            return _stem(file)
    return module or "builtins"


@functools.lru_cache(16)
def _stem(file: str) -> str:
    return pathlib.Path(file).stem


def _is_importable(value: Any) -> bool:
    """Whether a function or class is what its module has under its name."""
    module = getattr(value, "__module__", None) or "builtins"
    found: Any = sys.modules.get(module)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is value:
        return True
    # A worker has what comes from the script by value: the script's names are not there.
    return module == "__main__" and "<" not in value.__qualname__ and in_worker_process()


def _as_array(value: Any) -> Any:
    import numpy as np

    return np.asarray(value)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is(told: str) -> Any:
    return {"~is": told}
