"""What a worker's items have made of the script, for calls of theirs that other workers help with.

::

    news from the caller ── note() ──► what globals and attributes were then, in all workers
    an item sets or fills some of them
    a call that it makes ── changed() ──► a helper ── standing_in() ──► its items run as with these

Between such items the helper has its own again. What cannot be pickled is each worker's own, such
as a connection, and so is what was filled in place until it was large, such as a cache. Modules
that workers import are left out.
"""

from __future__ import annotations

import abc
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from ..place.records import NamedTuple
from ..place.sigint import pass_on
from . import carried
from .importable import IMPORTED

__all__ = ["Own", "Sent", "State", "Told", "WithOwn", "sent"]

SMALL = 1 << 14  # bytes of a pickle; what is larger when it comes is not looked into
LARGE = 1 << 20  # likewise; what has become larger since, and not `SHORT`, is a cache
SHORT = 1000  # elements
ABSENT = object()
STAYS = object()  # in place of a value that cannot be pickled
Place = str | tuple[str]  # token of a function or class; or the key of a module's globals
State = dict[tuple[Place, str], Any]  # by place and name; `ABSENT` for what is not bound
Refused = Callable[[Any], bool]  # whether a value cannot be pickled
Undisturbed = Callable[[], AbstractContextManager[None]]
Sent = tuple[tuple[Place, str, tuple[Any, ...] | None], ...]
_USUAL = (type, abc.ABCMeta)  # metaclasses; a library's may do with its classes what it likes


class _Large(Exception):
    """A pickle has become too long."""


class _Limited:
    """File for a pickle that is not to become long."""

    def __init__(self, most: int) -> None:
        self.pieces: list[bytes] = []
        self._left = most

    def write(self, data: Any) -> None:
        """Take a piece of the pickle."""
        self._left -= len(data)
        if self._left < 0:
            raise _Large
        self.pieces.append(bytes(data))


def _content(value: Any, most: int) -> bytes:
    file = _Limited(most)
    pickle.Pickler(file, 5).dump(value)
    return b"".join(file.pieces)


def _is_short(value: Any) -> bool:
    try:
        return len(value) < SHORT
    except Exception as error:  # noqa: BLE001 - it has no length
        pass_on(error)
        return True


class _Note:
    """A value as it was: the object, and its content where that is small and plain enough to tell.

    Attributes
    ----------
    content : bytes or None
        Pickle of the value; empty if nobody knows what it was.
    """

    __slots__ = ("content", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.content: bytes | None = None

    def look(self, late: bool = False) -> None:
        """Keep the content in mind; not if it is too late for that, since it may have changed."""
        if _is_short(self.value) and carried.may_change(self.value):
            try:
                self.content = b"" if late else _content(self.value, SMALL)
            except Exception as error:  # noqa: BLE001 - it is too large, or cannot be pickled
                pass_on(error)

    def same(self, value: Any) -> bool:
        """Whether `value` is what it was, or has grown to what stays where it is."""
        if value is not self.value:
            return False
        if self.content is None:
            return True
        try:
            return _content(value, LARGE) == self.content
        except _Large:
            if _is_short(value):
                return False
            self.content = None
        except Exception as error:  # noqa: BLE001 - it holds what cannot be pickled now
            pass_on(error)
        return True

    def original(self) -> Any:
        """The value as it was."""
        if not self.content or self.same(self.value):
            return self.value
        return pickle.loads(self.content)


class Own:
    """What the script's globals, classes and functions were when the caller sent them.

    Parameters
    ----------
    spaces : mapping
        Globals by the keys of their modules.
    known : mapping
        Functions and classes by their tokens.
    """

    def __init__(self, spaces: Mapping[str, dict[str, Any]], known: Mapping[str, Any]) -> None:
        self._spaces = spaces
        self._known = known
        self._notes: dict[Place, dict[str, _Note]] = {}
        self._last: Told | None = None  # whose items were the last to run
        self._watching = False
        self._lock = threading.RLock()
        self.standing = 0  # chunks that run as with another worker's, one within the other

    def note(self, place: Place, names: Iterable[str] | None = None) -> None:
        """Keep in mind what came from the caller, under these names or as a whole."""
        known = None if isinstance(place, tuple) else self._known.get(place)
        if isinstance(known, type) and type(known) not in _USUAL:
            return
        notes, there = self._notes.setdefault(place, {}), self._there(place)
        for name in [*there, *notes] if names is None else names:
            if name not in there:
                notes.pop(name, None)
            elif not _is_pythons(name):
                note = notes[name] = _Note(there[name])
                if self._watching:
                    note.look()

    def watch(self, late: bool = False) -> None:
        """Look into values from now on: items may make calls that other workers help with.

        Until then it costs next to nothing to keep values in mind. It is `late` where an item may
        have changed them already: all that could have been is then sent.
        """
        if not self._watching:
            self._watching = True
            for notes in list(self._notes.values()):
                for note in list(notes.values()):
                    note.look(late)

    def note_all(self) -> None:
        """Keep in mind what there is: an initializer has left it."""
        for place, name in self.changed():
            self.note(place, (name,))

    def forget(self, token: str) -> None:
        """Know a function or class no more."""
        self._notes.pop(token, None)

    def changed(self) -> State:
        """What is not as the caller has sent it."""
        found: State = {}
        for key, space in list(self._spaces.items()):
            if not key.endswith(IMPORTED):
                self._compare((key,), space, found)
        for token in list(self._notes):
            if isinstance(token, str) and token in self._known:
                self._compare(token, self._known[token].__dict__, found)
        return found

    def changed_by_items(self, here: bool) -> State | None:
        """The same, unless another worker's state is in place at the moment, and not `here`."""
        with self._lock:
            return self.changed() if here or not self.standing else None

    def _compare(self, place: Place, held: Mapping[str, Any], found: State) -> None:
        notes = self._notes.get(place, {})
        if not (notes or held):
            return
        count = 0
        for name in list(held):
            value, known = held.get(name), notes.get(name)
            count += known is not None
            if known is None:
                if not _is_pythons(name):
                    found[place, name] = value
            elif value is not known.value or (known.content is not None and not known.same(value)):
                found[place, name] = value
        if count < len(notes):
            found.update(((place, name), ABSENT) for name in notes.keys() - held.keys())

    def _there(self, place: Place) -> Mapping[str, Any]:
        """Values by name, as they are now."""
        if isinstance(place, tuple):
            return self._spaces.get(place[0], {})
        return getattr(self._known.get(place), "__dict__", {})

    def _put(self, place: Place, name: str, value: Any) -> None:
        known = None if isinstance(place, tuple) else self._known.get(place)
        if isinstance(known, type):
            with suppress(AttributeError, TypeError):
                if value is ABSENT:
                    type.__delattr__(known, name)
                else:
                    type.__setattr__(known, name, value)
            return
        held = self._there(place)  # empty if nothing here can ask for it
        if isinstance(held, dict):
            if value is not ABSENT:
                held[name] = value
            else:
                held.pop(name, None)

    @contextmanager
    def standing_in(
        self, told: Told | None, refused: Refused, undisturbed: Undisturbed
    ) -> Iterator[None]:
        """Have what another worker has told, within the block, in the place of what is here.

        None stands for items of the caller's. Nothing may interrupt what is done within
        `undisturbed`. Chunks of one call may run one within the other, as may those of several.
        """
        if told is None:
            self._last = None
            yield
            return
        state = dict(told.state)
        others = [] if self._last is told else list(self.changed().items())
        for key, value in [*others, *told.kept.items()]:
            if key not in state and (value is ABSENT or not refused(value)):
                note = self._notes.get(key[0], {}).get(key[1])
                state[key] = ABSENT if note is None else note.original()
        before = self.standing
        try:
            with undisturbed(), self._lock:
                state.update((key, told.kept.pop(key)) for key in state.keys() & told.kept.keys())
                self._swap(state)
                self.standing += 1
            yield
        finally:
            with undisturbed(), self._lock:
                if self.standing > before:
                    self._swap(state)
                    self.standing -= 1
                    told.kept.update((k, state[k]) for k in state.keys() - told.state.keys())
                self._last = told

    def _swap(self, state: State) -> None:
        for (place, name), value in state.items():
            if value is not STAYS:
                state[place, name] = self._there(place).get(name, ABSENT)
                self._put(place, name, value)


class Told:
    """What a worker whose item makes a call has told of the script.

    Attributes
    ----------
    state : dict
        What its items had changed when the call was made.
    kept : dict
        What items of the call have made here of what they had not, but items here.
    """

    def __init__(self, sent: Sent) -> None:
        self.state: State = {
            (place, name): STAYS if how is None else how[0] if how else ABSENT
            for place, name, how in sent
        }
        self.kept: State = {}


class WithOwn(NamedTuple):
    """Arguments of single calls that were submitted, with what the worker's items have made."""

    columns: tuple[Any, ...]
    own: Sent


def _is_pythons(name: str) -> bool:
    return name.startswith(("__", "_abc_"))


def sent(state: State, refused: Refused | None = None) -> Sent:
    """The same as it is sent, with a word in place of what is `refused`."""
    found = []
    for (place, name), value in state.items():
        how: tuple[Any, ...] | None = () if value is ABSENT else (value,)
        if refused is not None and how and refused(value):
            how = None
        found.append((place, name, how))
    return tuple(found)
