"""What a worker holds while its gate runs: the job in the queue, and the claim in the registry."""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import final

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.service.claims import Claims, Standing
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.queue import Job, Queue


@final
class Lease:
    """Renews the queue's lease and the registry's claim of a job while its gate runs.

    The registry is asked in a thread of its own: one that is slow to answer holds up neither the queue's lease nor a
    stop.
    """

    def __init__(self, queue: Queue, job: Job, claims: Claims | None, standing: Standing, seconds: float) -> None:
        """`seconds` is what the queue is asked for each time."""
        self._queue, self._job, self._claims = queue, job, claims
        self._seconds, self._renewed = seconds, time.monotonic()
        self._asking = ThreadPoolExecutor(1)
        self._asked: Future[Standing] | None = None
        self.standing = standing
        """How the version stood when the registry last answered."""

    def __enter__(self) -> "Lease":
        """The lease itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits some time for an answer, so that no claim is written after the end of the work is told."""
        if self._asked is not None:
            wait([self._asked], timeout=self._seconds / 3)
            self._hear()
        self._asking.shutdown(wait=False)

    def kept(self) -> bool:
        """False once somebody else has the job, as can be after this machine slept, or the version was deleted."""
        self._hear()
        if time.monotonic() - self._renewed >= self._seconds / 3:
            self._renewed = time.monotonic()
            if not self._queue.renew(self._job, until=time.time() + self._seconds):
                self.standing = Standing(state="elsewhere")
            elif self._claims is not None and self._asked is None:
                self._asked = self._asking.submit(self._claims.renew, self.standing)
        return self.standing.state == "held"

    def _hear(self) -> None:
        if self._asked is None or not self._asked.done():
            return
        try:
            self.standing = self._asked.result()
        except RegistryError as error:
            LOGGER.warning("the claim on %s was not renewed: %s", self._job.name, error)
        self._asked = None
