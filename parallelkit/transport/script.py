"""What workers know of this process's script, and what each is told before it runs something.

::

    a pickle names functions and classes ─► its needs ─► Script.prepare ─► Prepared
      and what those refer to: globals, other functions, bases              │
                                                 one worker's Sent ─► Prepared.news ─► what it lacks

What is sent as a whole is a unit (`units`), which has a version. What a worker has bound or filled
by itself stays there, since nothing is sent of a unit that has not changed here.

It is long because what is known, what a call needs of it and what a worker has are compared.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from types import FunctionType, ModuleType
from typing import Any

from ..place.records import NamedTuple
from ..place.sigint import pass_on
from . import autoreload, inheritance, parts, pickling, rebuild
from .byvalue import ByValuePickler
from .importable import NewModules, in_library, is_found, is_named, is_reachable
from .marks import ABSENT
from .mirror import IMPORTED, MAIN, forget_spaces, namespace, tokens
from .units import (
    ClassUnit,
    Entry,
    FunctionUnit,
    GlobalUnit,
    InheritedUnit,
    ModuleUnit,
    Surroundings,
    Unit,
    Unsendable,
)

__all__ = ["Prepared", "Script", "Sent", "let_go", "script"]

MOST_CLASSES = 256  # classes made within functions that are kept in mind
MOST_PLANS = 64
MOST_PLANS_SENT = 1024  # of which it is remembered that a worker has all that they need
MOST_NEWS = 4


class Sent:
    """What one worker has been sent. Belongs to the worker's handle.

    Attributes
    ----------
    versions : dict
        Units, in which version each was sent.
    plans : dict
        By the number of a `Prepared`: the stamp that it had when all of it was there.
    deaths : int
        How many units the script had let go of when the worker was last told.
    """

    __slots__ = ("_before", "deaths", "plans", "versions")

    def __init__(self) -> None:
        self.versions: dict[Unit, int] = {}
        self.plans: dict[int, int] = {}
        self.deaths = 0
        self._before: dict[Unit, int] = {}

    def copy(self) -> Sent:
        """For another worker, that has been sent the same."""
        other = Sent()
        other.versions.update(self.versions)
        other.plans.update(self.plans)
        other.deaths = self.deaths
        return other

    def took(self, units: dict[Unit, int]) -> None:
        """Take note of what is being sent, with the versions that were there before."""
        self._before = units
        self.versions.update((unit, unit.version) for unit in units)

    def undo(self) -> None:
        """Take back what was sent last: it could not be read."""
        self.plans.clear()
        self.versions.update(self._before)
        self._before = {}


class Same(NamedTuple):
    """What of that which is sent a receiver has as an object already."""

    names: Mapping[GlobalUnit, GlobalUnit]  # globals, by another name
    parts: list[tuple[Unit, parts.Path, Unit, parts.Path]]  # which, where; and where it is found

    def key(self) -> tuple[Any, ...]:
        """Another one for what is not the same."""
        pairs = tuple((id(unit), id(other)) for unit, other in self.names.items())
        return pairs, tuple((id(a), b, id(c), d) for a, b, c, d in self.parts)


class Prepared:
    """What a pickle needs, all that is below it included.

    Attributes
    ----------
    number : int
        By which a `Sent` knows it.
    roots : tuple of Unit
        What the pickle itself names.
    units : list of Unit
        These and all that they need.
    mine : collection of Unit
        Of these, those that must be there; the others are there for who asks for them by names
        that are made as the code runs, as far as they can be sent.
    stamp : int
        The latest version of all these.
    key : tuple
        Another one when something of it has changed.
    inherits : int
        How many semaphores a worker must have inherited; see `inheritance`.
    """

    __slots__ = (
        *("__weakref__", "_around", "_before", "_required", "_script"),
        *("inherits", "key", "mine", "number", "roots", "stamp", "units"),
    )

    def __init__(self, script: Script, number: int, roots: tuple[Unit, ...]) -> None:
        self._script = script
        self.number = number
        self.roots = roots
        self.units: list[Unit] = []
        self._before: list[Unit] = []  # the same before the last change
        self.stamp = self.inherits = 0
        self.key = number, 0
        self._required = 0  # how many units, at the beginning of the list, must be there
        self.mine: Collection[Unit] = ()
        self._around = False  # whether some code asks for globals by names that it makes

    def refresh(self) -> None:
        """Look whether something has changed."""
        script, changed = self._script, not self.units or self._around
        for unit in self.units[: self._required]:
            if unit.refresh(script) or unit.version > self.stamp:  # another call may have seen it
                changed = True
            if unit.around:  # these are not looked at here
                changed = True
        if script.look_at_modules() or script.reloaded > self.stamp:
            changed = True
        last = script.look_at_carried(self.mine)
        if changed or last > self.stamp:
            self._collect()
            self.stamp = max([last, *(unit.version for unit in self.units)])
            self.key = self.number, self.stamp

    def _collect(self) -> None:
        """Find all units that are needed, each looked at."""
        script = self._script
        found: dict[Unit, None] = dict.fromkeys(u for u in script.modules if u.version)
        around: list[Unit] = []
        todo = list(self.roots)
        while todo:
            unit = todo.pop()
            if unit not in found:
                unit.refresh(script)
                found[unit] = None
                if type(unit) is Surroundings:
                    around += unit.needs
                else:
                    todo += unit.needs
                    around += unit.around
        self._required, self._around, self.mine = len(found), bool(around), frozenset(found)
        todo = [*script.carried, *reversed(around)]
        left: set[Unit] = set()
        while todo:
            unit = todo.pop()
            if unit not in found and unit not in left:
                try:
                    unit.refresh(script)
                except Exception as error:  # noqa: BLE001 - only what can be sent is there by name
                    pass_on(error)
                    left.add(unit)
                    continue
                found[unit] = None
                todo += [*unit.needs, *unit.around]
        _leave_out(found, left)
        self._before, self.units = self.units, list(found)
        script.keep(found)
        inherited = (unit.sequence for unit in found if isinstance(unit, InheritedUnit))
        self.inherits = max(inherited, default=0)

    @property
    def versions(self) -> frozenset[int]:
        """Versions of all that is needed, as they are now."""
        return frozenset(unit.version for unit in self.units if unit.version)

    @property
    def held(self) -> list[Unit]:
        """What a call may still refer to, be it one that had begun before the last change."""
        return [*self.roots, *self._before, *self.units]

    def missing(self, sent: Sent) -> list[Unit]:
        """Units that a worker has not got, or in another version."""
        versions = sent.versions
        return [unit for unit in self.units if versions.get(unit, 0) != unit.version]


class Script:
    """All that this process has found out about its script."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._globals: dict[tuple[int, str], GlobalUnit] = {}
        self._named: dict[int, Unit] = {}  # by id: functions and classes of modules
        self._local: OrderedDict[int, ClassUnit] = OrderedDict()  # classes of functions
        self._around: dict[int, Surroundings] = {}
        self._inherited: dict[int, InheritedUnit] = {}
        self._plans: OrderedDict[tuple[Unit, ...], Prepared] = OrderedDict()
        self._used: weakref.WeakSet[Prepared] = weakref.WeakSet()  # by calls under way, these too
        self._news: OrderedDict[Any, Any] = OrderedDict()
        self._numbers = itertools.count(1)
        self._gone: dict[str, int] = {}  # tokens of units that were let go of; see `deaths`
        self.deaths = 0  # how many units were let go of
        self.redefined = False  # whether a name stands for another function or class than before
        self.modules: list[ModuleUnit] = []
        self.carried: list[GlobalUnit] = []  # of modules that workers import
        self._watched: dict[str, ModuleType] = {}
        self.loaded = 0  # modules, when they were last counted
        self._new = NewModules()
        self.reloaded = 0  # version of the module that was the last to be
        self._specs: list[int] = []  # by which that is seen

    # --- what there is ---------------------------------------------------------------------------

    def unit(self, obj: Any) -> Any:
        """Unit of a class that goes by value, or of a function that its script has a name for."""
        found = self._named.get(id(obj)) or self._local.get(id(obj))
        if found is not None:
            return found
        if isinstance(obj, type):
            if "<locals>" not in obj.__qualname__ and is_found(obj):
                return self._known(ClassUnit(obj), self._named)
            with self._lock:
                if len(self._local) >= MOST_CLASSES:
                    self._lose(self._local.popitem(last=False)[1])
                return self._known(ClassUnit(obj), self._local)
        if is_named(obj):
            return self._function(obj)
        return None

    def _function(self, func: FunctionType) -> Any:
        return self._known(FunctionUnit(func), self._named)

    def _known(self, unit: Any, units: MutableMapping[int, Any]) -> Any:
        with self._lock:
            unit.lost = False
            self._gone.pop(unit.token, None)  # it may have been lost, and is used again
            return units.setdefault(id(unit.place), unit)

    def _lose(self, unit: Any) -> None:
        unit.lost = True
        self.deaths += 1
        self._gone[unit.token] = self.deaths
        if len(self._gone) > 4 * MOST_CLASSES:
            for token in list(self._gone)[:MOST_CLASSES]:
                del self._gone[token]

    def keep(self, units: Iterable[Unit]) -> None:
        """Know these, of which some may have been let go of while a call was about to use them."""
        for unit in units:
            if unit.lost:
                self._known(unit, self._named)

    def _let_go(self) -> None:
        """Keep nothing of what was defined anew, unless a call or something else refers to it.

        Where it is used after all, as by another name, it is sent again.
        """
        self.redefined = False
        named = set(self._named.values())
        bound = _reached(unit for unit in list(self._globals.values()) if not unit.is_bound_anew())
        for roots in list(self._plans):
            if any(unit in named and unit not in bound for unit in roots):
                del self._plans[roots]
        wanted = _reached(unit for plan in list(self._used) for unit in plan.held)
        for unit in named - bound - wanted:
            del self._named[id(unit.place)]
            self._lose(unit)

    def bound(self, value: Any) -> Unit | None:
        """Unit of a function or class that is the value of a global, under whatever name."""
        if type(value) is FunctionType:
            if is_reachable(value):
                return None
            found = self.unit(value) or self._function(value)
            return found if isinstance(found, Unit) else None
        if isinstance(value, type) and not is_reachable(value):
            unit: Unit = self.unit(value)
            return unit
        return None

    def global_unit(self, space: dict[str, Any], name: str) -> GlobalUnit:
        """Unit of a global."""
        key = id(space), name
        unit = self._globals.get(key)
        if unit is None:  # several threads may ask at once, and are to have the same one
            made = GlobalUnit(space, name)
            unit = self._globals.setdefault(key, made)
            if unit is made and unit.key.endswith(IMPORTED):
                self.carried.append(unit)
        return unit

    def of_the_user(self) -> list[str]:
        """Names of the loaded modules that belong to no library."""
        if len(sys.modules) != self.loaded:
            with self._lock:
                self.count_modules()
        return [unit.name for unit in self.modules]

    def surroundings(self, space: dict[str, Any]) -> Surroundings:
        """All of a script."""
        unit = self._around.get(id(space))
        if unit is None:
            unit = self._around.setdefault(id(space), Surroundings(space))
        return unit

    def inherited(self, lock: Any) -> InheritedUnit:
        """A semaphore that only forked workers have."""
        number = inheritance.sequence(lock)
        unit = self._inherited.get(number)
        if unit is None:
            unit = self._inherited.setdefault(number, InheritedUnit(number))
        return unit

    # --- calls -----------------------------------------------------------------------------------

    def prepare(self, needs: Iterable[Any]) -> Prepared | None:
        """What a pickle with these needs needs in all; None if a worker has it from the start.

        Raises
        ------
        Unsendable
            If something of it cannot be pickled.
        """
        roots = tuple(needs)
        with self._lock:
            if len(sys.modules) != self.loaded:
                self.count_modules()
            plan = self._plans.get(roots)
            if plan is None:
                self.look_at_modules()
                if not roots and not self.reloaded and not self.carried:
                    return None
                plan = Prepared(self, next(self._numbers), roots)
                self._plans[roots] = plan
                self._used.add(plan)
                if len(self._plans) > MOST_PLANS:
                    self._plans.popitem(last=False)
            else:
                self._plans.move_to_end(roots)
            plan.refresh()
            if self.redefined:
                self._let_go()
            return plan

    def named(self, keys: Iterable[Any]) -> list[Any]:
        """Units by what a worker calls them: a token, or the key of a namespace and a name."""
        found: list[Any] = []
        for key in keys:
            if isinstance(key, str):
                obj = tokens.find(key)
                unit = None if obj is None else self.unit(obj) or self._function(obj)
            else:
                space = namespace(key[0], key[0].split("#")[0])
                unit = self.global_unit(space, key[1])
            if unit is not None:
                found.append(unit)
        return found

    def look_at_modules(self) -> bool:
        """Whether some of the user's modules were reloaded since the last look."""
        get = sys.modules.get
        specs = [id(getattr(get(unit.name), "__spec__", None)) for unit in self.modules]
        sources = autoreload.sources()
        if sources:
            specs += [id(sources.get(unit.name)) for unit in self.modules]
        if specs == self._specs:
            return False
        before = self.reloaded
        for unit in self.modules:
            unit.refresh(self)
        self._specs = specs
        return self.reloaded != before

    def look_at_carried(self, seen: Collection[Unit]) -> int:
        """Version of what has changed last of the globals that closures of modules have named.

        Functions that workers find by their names in these modules use them as well. Those that
        are `seen` have been looked at. Large ones are looked at in earnest by who needs them.
        """
        last = 0
        for unit in self.carried:
            value = unit.space.get(unit.name, ABSENT)
            mark = unit.mark
            if (
                not (mark.fixed and value is mark.value)
                and unit not in seen
                and not (id(value) == unit.identity and mark.is_large)
            ):
                try:
                    unit.refresh(self)
                except Exception as error:  # noqa: BLE001 - it is told when a call needs it
                    pass_on(error)
            last = max(last, unit.version)
        return last

    def count_modules(self) -> None:
        """Look for modules of the user among those that are new."""
        names = self._new.names()
        self.loaded = self._new.count
        for name in names:
            module = sys.modules.get(name)
            if self._watched.get(name) is module:
                continue
            if isinstance(module, ModuleType):
                known = name in self._watched
                self._watched[name] = module
                if not known and name != MAIN and not in_library(module):
                    self.modules.append(ModuleUnit(module, name))

    def news(self, sent: Sent, *prepared: Any) -> Any:
        """What a worker lacks of all that is needed, as a pickle; None if it has everything.

        It counts as sent from now on.
        """
        plans, versions = sent.plans, sent.versions
        for plan in prepared:
            if plan and plans.get(plan.number) != plan.stamp:
                break
        else:
            return None
        with self._lock:
            if len(plans) > MOST_PLANS_SENT:  # most are of functions that nobody has any more
                plans.clear()
            missing: dict[Unit, int] = {}
            for plan in prepared:
                if plan:
                    for unit in plan.missing(sent):
                        missing[unit] = versions.get(unit, 0)
                    plans[plan.number] = plan.stamp
            gone = self._gone_since(sent)
            if not missing and not gone:
                return None
            pickled = self._pickled_news(
                missing, gone, lambda unit: versions.get(unit) == unit.version, bool(versions)
            )
            sent.took(missing)
            return pickled

    def news_without(
        self, held: Collection[int], prepared: Iterable[Prepared]
    ) -> tuple[frozenset[int], Any]:
        """Versions of what a receiver lacks that has the versions `held`, and their pickle.

        For receivers of whom nothing is kept in mind here: a version stands for one state of one
        unit, so that its number alone tells whether that is there.
        """
        with self._lock:
            missing: dict[Unit, int] = {}
            for plan in prepared:
                for unit in plan.units:
                    if unit.version and unit.version not in held:
                        missing[unit] = 0
            pickled = self._pickled_news(
                missing, tuple(self._gone), lambda unit: unit.version in held, bool(held)
            )
            return frozenset(unit.version for unit in missing), pickled

    def _gone_since(self, sent: Sent) -> tuple[str, ...]:
        if sent.deaths == self.deaths:
            return ()
        gone = tuple(token for token, death in self._gone.items() if death > sent.deaths)
        sent.deaths, lost = self.deaths, set(gone)
        for unit in [u for u in sent.versions if getattr(u, "token", None) in lost]:
            del sent.versions[unit]
        return gone

    def _same_objects(self, missing: dict[Unit, int], has: Callable[[Unit], bool]) -> Same:
        """Of what is being sent, what the receiver has that object of, or a part of it.

        Where the caller has changed that object since, all goes along that it belongs to.
        """
        names: dict[GlobalUnit, GlobalUnit] = {}
        wanted: dict[int, list[GlobalUnit]] = {}
        for unit in missing:
            if type(unit) is GlobalUnit and not unit.mark.fixed:
                wanted.setdefault(unit.identity, []).append(unit)
        if wanted:
            for other in list(self._globals.values()):
                if other.identity not in wanted or other in missing or not has(other):
                    continue
                found = id(other.space.get(other.name, ABSENT))
                if found == other.identity and self._add_if_changed(other, missing, has):
                    names.update(dict.fromkeys(wanted[other.identity], other))
        return Same(names, self._same_parts(missing, names, has))

    def _same_parts(
        self,
        missing: dict[Unit, int],
        names: Mapping[GlobalUnit, GlobalUnit],
        has: Callable[[Unit], bool],
    ) -> list[tuple[Unit, parts.Path, Unit, parts.Path]]:
        """Parts of what is being sent that the receiver has as parts of something else."""
        found: dict[int, list[tuple[Unit, parts.Path]]] = {}
        for unit, since in missing.items():
            root = unit.root(since)
            if root is not None and unit not in names:
                for number, paths in parts.shared_outside(*root).items():
                    found.setdefault(number, []).extend((unit, path) for path in paths)
        shared: list[tuple[Unit, parts.Path, Unit, parts.Path]] = []
        count = len(missing)
        for other in self._all_units() if found else ():
            root = other.root(0)
            if root is None or other in missing or not other.version or not has(other):
                continue
            there = parts.find(*root, found)
            if there and self._add_if_changed(other, missing, has):
                for number, path in there.items():
                    shared += [(*one, other, path) for one in found.pop(number)]
        if len(missing) > count:  # what was added has parts too
            return self._same_parts(missing, names, has)
        return sorted(shared, key=lambda one: len(one[1]))

    def _all_units(self) -> list[Unit]:
        return [*self._globals.values(), *self._named.values(), *self._local.values()]

    def _add_if_changed(
        self, unit: Unit, missing: dict[Unit, int], has: Callable[[Unit], bool]
    ) -> bool:
        """Let what has changed since its last look be sent too; whether it has not."""
        added: dict[Unit, int] = {}
        try:
            if not unit.refresh(self):
                return True
            todo = [unit]
            while todo:
                one = todo.pop()
                if one.version and one not in missing and one not in added and not has(one):
                    added[one] = 0
                    for needed in one.needs:
                        needed.refresh(self)
                        todo.append(needed)
        except Unsendable:  # it is told when a call needs it
            return False
        missing.update(added)
        return False

    def _pickled_news(
        self,
        missing: dict[Unit, int],
        gone: tuple[str, ...],
        has: Callable[[Unit], bool],
        has_some: bool,
    ) -> Any:
        while True:
            same = self._same_objects(missing, has) if has_some else None
            pickled = self._pickled(missing, gone, same)
            if not self._add_what_it_names(pickled.needs, missing, has):
                return pickled

    def _add_what_it_names(
        self, needs: Iterable[Unit], missing: dict[Unit, int], has: Callable[[Unit], bool]
    ) -> bool:
        """Let that be sent too which another thread has bound since the last look."""
        count, todo = len(missing), list(needs)
        while todo:
            unit = todo.pop()
            if unit in missing or (unit.version and has(unit)):
                continue
            try:
                unit.refresh(self)
            except Exception as error:  # noqa: BLE001 - only what can be sent is there by name
                pass_on(error)
                continue
            if unit.version and not has(unit):
                missing[unit] = 0
                todo += unit.needs
        return len(missing) > count

    def _pickled(self, missing: dict[Unit, int], gone: tuple[str, ...], same: Same | None) -> Any:
        units = tuple((id(unit), unit.version, since) for unit, since in missing.items())
        key = units, gone, None if same is None else same.key()
        pickled = self._news.get(key)
        if pickled is None:
            entries = news_entries(missing, gone, same)
            defined = _defined(missing)
            for unit in () if same is None else same.names:  # the receiver has that object
                defined.pop(unit, None)
            pickled = self._news[key] = pickling.dumps_defining(entries, defined)
            if len(self._news) > MOST_NEWS:
                self._news.popitem(last=False)
        return pickled

    def ready(self, pickled: Any) -> Any:
        """Prepare what a pickle needs; it then has that in ``needs``."""
        return type(pickled)(*pickled[:-1], self.prepare(pickled.needs))

    def addressed(self, obj: Any, sent: Sent) -> Any:
        """Pickle `obj` together with what one receiver lacks, which counts as sent."""
        pickled = pickling.dumps(obj)
        if not pickled.needs:
            return pickled
        with self._lock:
            prepared = self.prepare(pickled.needs)
            assert prepared is not None
            missing = {unit: sent.versions.get(unit, 0) for unit in prepared.missing(sent)}
            if missing:
                entries = news_entries(missing, ())
                whole = Entry(second, entries, obj)
                pickled = pickling.dumps_defining(whole, _defined(missing))
                sent.took(missing)
            sent.plans[prepared.number] = prepared.stamp
            return pickled

    def forked(self) -> None:
        """In a forked child: the lock may be another thread's that is not there."""
        self._lock = threading.RLock()

    def clear(self) -> None:
        """Forget all, as a worker does that was forked."""
        self.__init__()  # type: ignore[misc]


def _leave_out(found: dict[Unit, None], left: set[Unit]) -> None:
    """Leave out what is made of what is left out. What only uses the name of such a thing stays."""
    more = set(left)
    while more:
        more = {
            unit
            for unit in found
            if any(needed in left and type(needed) is not GlobalUnit for needed in unit.needs)
        }
        left |= more
        for unit in more:
            del found[unit]


def _defined(missing: Mapping[Unit, int]) -> dict[Unit, bool]:
    return {unit: unit.is_whole(since) for unit, since in missing.items()}


def second(_: Any, obj: Any) -> Any:
    """Return `obj`, for which the first was made ready."""
    return obj


def news_entries(
    missing: dict[Unit, int], gone: tuple[str, ...], same: Same | None = None
) -> tuple[Any, ...]:
    """What is done at the receiver, in order."""
    entries = [Entry(rebuild.begin)]
    if gone:
        entries.append(Entry(rebuild.forget, gone))
    names = {} if same is None else same.names
    for unit in sorted(_needed_first(missing), key=lambda unit: unit.order):
        if type(unit) is GlobalUnit and unit in names:
            entries.append(Entry(*names[unit].bound_as(unit)))
        else:
            entries += [Entry(*entry) for entry in unit.entries(missing[unit])]
    for unit, path, other, other_path in () if same is None else same.parts:
        entries.append(Entry(rebuild.share, unit.place, path, other.place, other_path))
    return (*entries, Entry(rebuild.end))


def _needed_first(units: Iterable[Unit]) -> list[Unit]:
    """The same in an order in which each comes after what it needs, but for circles.

    To make an instance may run functions of the script, and these use its globals. Subclasses come
    in the order in which their base has them.
    """
    wanted, seen, found = dict.fromkeys(units), set[Unit](), []
    for first in wanted:
        todo = [(first, False)]
        while todo:
            unit, done = todo.pop()
            if done:
                found.append(unit)
            elif unit in wanted and unit not in seen:
                seen.add(unit)
                todo += [(other, False) for other in reversed(unit.around)]
                todo.append((unit, True))
                todo += [(needed, False) for needed in reversed(unit.needs)]
    return found


def _reached(units: Iterable[Unit]) -> set[Unit]:
    """All that these need, themselves included."""
    found: set[Unit] = set()
    todo = list(units)
    while todo:
        unit = todo.pop()
        if unit not in found:
            found.add(unit)
            todo += unit.needs
    return found


def let_go() -> None:
    """Keep nothing of the script alive any more, as the end of Python needs it.

    That takes the script apart first, so that what it has can still use what it has imported.
    """
    script.clear()
    forget_spaces()


script = Script()
ByValuePickler.knowledge = script

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=script.forked)
