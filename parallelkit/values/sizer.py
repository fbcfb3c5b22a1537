"""How many items a message carries."""

from __future__ import annotations

__all__ = ["LARGEST", "LARGEST_BYTES", "LARGEST_LAZY", "Sizer"]

TARGET_SECONDS = 0.025  # of work in a chunk: long beside a message (0.1 ms), short beside a wait
LEAST_SECONDS = 0.002  # towards the end: such a wait for the last worker costs less than messages
LARGEST = 32768  # items, where they cost nothing
LARGEST_LAZY = 8192  # the same where a consumer may pause: bounds what is drawn ahead of it
LARGEST_BYTES = 8 << 20
FIRST = 16  # items of the first chunks; a worker gives back what takes too long
GROWTH = 32  # one measurement is trusted so far
SHORT_SECONDS = 0.004  # of work for each worker: then a call is cut evenly
MESSAGE_SECONDS = 0.0001  # of work that are not worth another message
WINDOW_ITEMS = 64  # per worker, see window()
WINDOW_CHUNKS = 4
WINDOW_BYTES = 256 << 20  # of arguments or results that wait, but always an item for each worker


class Sizer:
    """How many items the next chunk takes: as many as run for `TARGET_SECONDS`.

    Starts small, grows 32-fold at most at a time, and where the number of items is known never
    takes more than a third of a worker's share of what remains, so that the chunks shrink
    towards the end and all workers finish together. One worker has nobody to finish with.
    """

    def __init__(
        self,
        workers: int,
        fixed: int | None = None,
        largest: int = LARGEST,
        remembered: float = 0.0,
        pace: float = 1.0,
    ) -> None:
        self._workers = workers
        self._pace = pace  # how much more than to a process of ours a message costs
        self._remembered = remembered  # seconds per item that the function took in earlier calls
        self._even: int | None = None
        self._largest = largest
        self._parts = workers * 3 if workers > 1 else 1
        self._fixed = fixed
        self._size = fixed or FIRST
        self._cost = 0.0  # seconds per item; recent and large chunks weigh more
        self._observed = 0  # items of the last chunk that is finished
        self._inputs = 0  # bytes of the largest item that has been drawn
        self._results = 0  # bytes of a result: large ones count at once, and are forgotten slowly
        self._bytes = 0  # of the larger of both
        self._most = largest  # items of a chunk, as far as their bytes go

    def observe(self, items: int, seconds: float, nbytes: int = 0) -> None:
        """Learn from a chunk that is finished; its bytes are 0 where they are not news."""
        if seconds > SHORT_SECONDS * 2 * self._pace:  # they are not quick after all
            self._even = None
        recent = max(0.5, items / (items + self._observed))
        self._cost += recent * (seconds / items - self._cost) if self._observed else seconds / items
        self._observed = items
        if nbytes:
            self.weigh_results(items, nbytes)
        if self._fixed is None:
            wish: float = self._most
            if self._cost > 0:
                wish = min(wish, TARGET_SECONDS * self._pace / self._cost)
            self._size = max(1, min(int(wish), max(self._size, items) * GROWTH))

    def first(self, there: int) -> int:
        """Items of the next chunk where `there` are there, and more may come."""
        return self._size if self._observed or self._fixed else -(-there // self._workers)

    @property
    def seconds(self) -> float:
        """What the next chunk is expected to take; 0.0 while nothing is known."""
        return self._cost * self._size

    @property
    def nbytes(self) -> int:
        """What the next chunk, or what comes of it, may have at most; 0 while nothing is known."""
        return self._bytes * self._size

    def settle(self, total: int | None) -> None:
        """Cut a short call of `total` items evenly, where the function is remembered as quick.

        One message for each worker, and none for what takes less time than its message. Should
        the items turn out to take longer after all, a worker gives back what it has not begun.
        """
        cost, short = self._remembered, SHORT_SECONDS * self._workers * self._pace
        if total and cost and self._fixed is None and total * cost < short:
            even = -(-total // self._workers)
            self._even = max(even, int(MESSAGE_SECONDS * self._pace / cost))

    @property
    def cost(self) -> float:
        """Seconds per item, as far as was seen; 0.0 while nothing is known."""
        return self._cost

    def size(self, remaining: int | None) -> int:
        """Items of the next chunk."""
        if self._even is not None:
            return min(self._even, self._most)
        if remaining is None or self._fixed is not None:
            return self._size
        share = -(-remaining // self._parts)
        least = int(LEAST_SECONDS * self._pace / self._cost) if self._cost > 0 else 1
        return max(1, min(self._size, max(share, least)))

    def window(self) -> int:
        """How many items may be drawn ahead of what a lazy consumer took."""
        items = max(WINDOW_ITEMS * self._workers, WINDOW_CHUNKS * self._workers * self._size)
        if self._bytes:
            items = min(items, max(self._workers, int(WINDOW_BYTES / self._bytes)))
        return items

    def weigh(self, nbytes: int) -> None:
        """Learn from an item that has been drawn how many bytes one may have."""
        if nbytes > self._inputs:
            self._inputs = nbytes
            self._bound()

    def weigh_results(self, items: int, nbytes: int) -> None:
        """Learn from a chunk how many bytes results have."""
        self._results = max(nbytes // max(1, items), self._results - self._results // 4)
        self._bound()

    def _bound(self) -> None:
        """Let no chunk have more bytes than it should."""
        self._bytes = max(self._inputs, self._results)
        self._most = max(1, min(self._largest, LARGEST_BYTES // max(1, self._bytes)))
        if self._fixed is None:
            self._size = min(self._size, self._most)
