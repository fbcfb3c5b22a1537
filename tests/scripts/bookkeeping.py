"""A library with a context variable, and a metaclass that keeps books of fields by weak references."""

import contextvars
import weakref

MARK = object()
CURRENT = contextvars.ContextVar("current", default=0)
FIELDS = weakref.WeakKeyDictionary()
SEEN = []
LEVEL = 1


def state(_=None):
    return LEVEL, SEEN


def remember(x):
    SEEN.append(x)


def rememberer():
    def found(x):
        SEEN.append(x)
        return state() == (LEVEL, SEEN), LEVEL, SEEN

    return found


class Booked(type):
    def __new__(cls, name, bases, space):
        fields = {key: space.pop(key) for key in list(space) if isinstance(space[key], range)}
        made = super().__new__(cls, name, bases, space)
        FIELDS[made] = fields
        made.by_class = weakref.WeakKeyDictionary({made: name})
        return made

    def fields(cls):
        return FIELDS[cls]


def base():
    """Make a class as a library does that has the script give it a name."""
    return Booked("Base", (), {"by_itself": weakref.WeakValueDictionary()})


def current():
    return CURRENT.get()
