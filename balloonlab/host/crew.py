"""The host's threads that discard beside the device's own."""

from __future__ import annotations

import os
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt

from ..kernels import crew as kernels
from ..kernels.discard import Verb
from ..kernels.translate import Memory
from ..queue import Worker
from .backing import DONTNEED
from .policy import DISCARDS, Policy


class Crew:
    """The other threads of a device with `policy.threads`; `state` is what kernels take.

    `n_extents` is the most that is shared out at a time. A context manager: threads run within.
    """

    def __init__(self, policy: Policy, memory: Memory, verb: Verb, n_extents: int) -> None:
        self._policy, self._memory, self._verb = policy, memory, verb
        others, self._eventfds = policy.threads - 1, list[int]()
        rows = n_extents + policy.threads if others else 0
        self.state = kernels.Crew(
            starts=self._make_eventfds(others),
            finished=self._make_eventfds(others),
            shares=np.full((rows, 2), -1, np.int64),
            bounds=np.zeros(policy.threads + 1, np.int64),
            outcomes=np.zeros(3 * policy.threads, np.int64),
            control=np.zeros(2, np.int64),
            cell=np.zeros(2, np.int64),
        )
        self._workers = [
            Worker(partial(self._work, number), f"balloon-discard-{number}")
            for number in range(1, policy.threads)
        ]

    @classmethod
    def of_none(cls) -> Self:
        """Return a crew without other threads."""
        nowhere = Memory(np.zeros(0, np.uint8), 0, np.zeros((0, 4), np.int64))
        return cls(Policy(), nowhere, DONTNEED, 0)

    def _make_eventfds(self, n: int) -> npt.NDArray[np.int64]:
        made = [os.eventfd(0) for _ in range(n)]
        self._eventfds += made
        return np.array(made, np.int64)

    def _work(self, number: int) -> None:
        try:
            vectors = self._policy.make_vectors(0)
            how, cell = int(DISCARDS[self._policy.discard]), np.zeros(2, np.int64)
            kernels.work(self.state, number, how, self._memory, self._verb, vectors, cell)
        except BaseException:
            self.state.control[kernels.DEAD] = 1
            self._wake("finished")
            raise

    def timed_discard(
        self, extents: npt.NDArray[np.int64], cell: npt.NDArray[np.int64]
    ) -> tuple[int, int, int]:
        """Discard rows of offset and bytes; return the calls, how many failed, and the ns.

        `cell` is int64 scratch, shape (2,).
        """
        how, vectors = int(DISCARDS[self._policy.discard]), self._policy.make_vectors(len(extents))
        memory, verb = self._memory, self._verb
        return kernels.timed_discard(how, memory, extents, verb, vectors, self.state, cell)

    def _wake(self, side: str) -> None:
        for eventfd in getattr(self.state, side):
            os.eventfd_write(int(eventfd), 1)

    def start(self) -> None:
        """Start the threads."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End the threads and wait for them; raises what ended one, if anything did."""
        self.state.control[kernels.STOP] = 1
        self._wake("starts")
        for worker in self._workers:
            worker.join()
        for eventfd in self._eventfds:
            os.close(eventfd)
        self._eventfds.clear()
        for worker in self._workers:
            worker.result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
