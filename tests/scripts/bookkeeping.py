"""A library whose metaclass takes the fields out of a class as it is made, and keeps books of them by weak references."""

import weakref

MARK = object()
FIELDS = weakref.WeakKeyDictionary()


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
