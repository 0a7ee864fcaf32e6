"""A pool of workers that outlives any of them: who is lost is replaced, and what it was at is tried again.

flwr's pool keeps a dead actor: whatever is given to it fails at once, so that it takes most of the work. This one knows
neither Ray nor flwr, only how a worker is started and which errors mean that one is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition
from typing import Generic, Protocol, TypeVar

Actor = TypeVar("Actor")
Place = TypeVar("Place")
PlaceIn = TypeVar("PlaceIn", contravariant=True)
Result = TypeVar("Result")

TRIES = 3  # of a message: one that ends its worker every time must not end all of them
_STARTS = 3  # of a worker in the same place, one after the other


class NobodyLeft(RuntimeError):
    """There is no worker any more, and none can be started."""


class Workshop(Protocol[Actor, PlaceIn]):
    """Where workers come from.

    Attributes:
        lost: what is raised when a worker, or the reply that it had ready, is gone.
    """

    lost: tuple[type[Exception], ...]

    def start(self, place: PlaceIn) -> Actor:
        """Start a worker and wait until it can work; after one of `lost`, or TimeoutError, it is tried again."""

    def stop(self, actor: Actor) -> None:
        """See that a worker is gone."""

    def exists(self, place: PlaceIn) -> bool:
        """Whether workers can still be started there."""

    def reason(self, loss: BaseException) -> str:
        """Why a worker was lost, in a line."""


@dataclass(eq=False)
class _Slot(Generic[Actor, Place]):
    place: Place
    actor: Actor


class ActorPool(Generic[Actor, Place]):
    """Workers, each in its place.

    Args:
        workshop: where they come from.
        workers: those that there are.
        say: told in one line of every loss.
    """

    def __init__(
        self, workshop: Workshop[Actor, Place], workers: Iterable[tuple[Place, Actor]], say: Callable[[str], None]
    ) -> None:
        self._workshop, self._say = workshop, say
        self._slots = [_Slot(place, actor) for place, actor in workers]
        self._free, self._changed = list(self._slots), Condition()

    @property
    def num_actors(self) -> int:
        """How many workers there are; flwr's name for it."""
        return len(self._slots)

    def run(self, work: Callable[[Actor], Result]) -> Result:
        """Have a worker do something, once it is free; another one where it is lost.

        Raises:
            NobodyLeft: no worker is left.
            Exception: what the work raises, or the loss of the last of `TRIES` workers.
        """
        tried = 0
        while True:
            slot = self._take()
            try:
                result = work(slot.actor)
            except self._workshop.lost as loss:
                tried += 1
                self._replace(slot, loss)
                if tried == TRIES:
                    raise
            except BaseException:
                self._give_back(slot)
                raise
            else:
                self._give_back(slot)
                return result

    def stop(self) -> None:
        """End all workers."""
        with self._changed:
            slots, self._slots, self._free = self._slots, [], []
            self._changed.notify_all()
        for slot in slots:
            with suppress(Exception):
                self._workshop.stop(slot.actor)

    def _take(self) -> _Slot[Actor, Place]:
        with self._changed:
            while not self._free:
                if not self._slots:
                    raise NobodyLeft("no worker is left that could run a client")
                self._changed.wait()
            return self._free.pop()

    def _give_back(self, slot: _Slot[Actor, Place]) -> None:
        with self._changed:
            if slot in self._slots:
                self._free.append(slot)
            self._changed.notify()

    def _replace(self, slot: _Slot[Actor, Place], loss: Exception) -> None:
        """Put another worker where one was lost, or do without."""
        with suppress(Exception):
            self._workshop.stop(slot.actor)
        again: tuple[type[Exception], ...] = (*self._workshop.lost, TimeoutError)
        for _ in range(_STARTS):
            try:
                if not self._workshop.exists(slot.place):
                    break
                slot.actor = self._workshop.start(slot.place)
            except again as error:
                loss = error
            except Exception as error:  # such as that nobody can say what there is: the place is given up
                loss = error
                break
            else:
                self._say(f"a worker was lost ({self._workshop.reason(loss)}); there is another in its place")
                self._give_back(slot)
                return
        with self._changed:
            if slot in self._slots:
                self._slots.remove(slot)
            self._changed.notify_all()
        self._say(f"a worker was lost ({self._workshop.reason(loss)}); workers left: {len(self._slots)}")
