"""Many programs on several processes: hands out ranges of numbers, adds up what comes back, survives dead workers.

A worker that dies, or does not move for `_PATIENCE_S`, was running a program that its engine did not survive. This is
that engine's failure; the rest of the range goes to the next worker.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

from vmm.differential.explanations import ABORTS, BARE, takes_bare_down
from vmm.differential.forms import forms
from vmm.differential.tally import Tally
from vmm.differential.worker import Place, Plan, Range, run
from vmm.errors import ConfigError

_CHUNK: Final = 50
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 1.0
_SAVE_S: Final = 20.0
_LEAVE_S: Final = 5.0

Progress = Callable[[Tally], None]


@dataclass(slots=True)
class _Worker:
    """One process, the pipe to it, what it works on, and when it was last seen to move."""

    process: Any
    pipe: Connection
    place: Place
    numbers: Range | None = None
    seen_at: tuple[int, int] = (-1, -1)
    seen_when: float = 0.0


@dataclass(slots=True)
class Campaign:
    """`programs` programs from number `first` on, by `jobs` processes. With `state`, a file, it can be interrupted;
    what failed before is then run again."""

    plan: Plan
    first: int
    programs: int
    jobs: int
    state: Path | None = None
    tally: Tally = field(default_factory=Tally)
    _todo: list[Range] = field(default_factory=list)
    _workers: list[_Worker] = field(default_factory=list)

    def run(self, progress: Progress = lambda _tally: None) -> Tally:
        """Run all that is left. Raises: ConfigError: the state file belongs to another campaign."""
        self._todo = [Range(self.first, self.first + self.programs)]
        self._load()
        forms(False), forms(True)  # once, before the processes part
        saved = time.monotonic()
        try:
            while self._feed():
                self._collect()
                progress(self.tally)
                if time.monotonic() - saved > _SAVE_S:
                    self._save()
                    saved = time.monotonic()
        finally:
            for worker in self._workers:
                self._dismiss(worker)
            self._save()
        return self.tally

    @staticmethod
    def _dismiss(worker: _Worker) -> None:
        """One that waits for work ends what its engines have started; one that works is killed."""
        if worker.numbers is None:
            worker.pipe.send(None)
            worker.process.join(_LEAVE_S)
        worker.process.kill()
        worker.process.join()

    # --- workers ---------------------------------------------------------------------------------------

    def _feed(self) -> bool:
        """Give work to who has none; False when all is done."""
        while len(self._workers) < self.jobs and self._todo:
            self._workers.append(self._start())
        for worker in self._workers:
            if worker.numbers is None and self._todo:
                worker.numbers = self._next_chunk()
                worker.seen_when = time.monotonic()
                worker.pipe.send(worker.numbers)
        return any(worker.numbers is not None for worker in self._workers)

    def _next_chunk(self) -> Range:
        first, end, is_again = self._todo.pop()
        if end - first > _CHUNK:
            self._todo.append(Range(first + _CHUNK, end, is_again))
            end = first + _CHUNK
        return Range(first, end, is_again)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("fork")
        mine, other = context.Pipe()
        cell = context.RawArray("q", 2)
        process = context.Process(target=run, args=(self.plan, other, cell), daemon=True)
        process.start()
        other.close()
        return _Worker(process, mine, Place(cell))

    def _collect(self) -> None:
        by_pipe = {worker.pipe: worker for worker in self._workers if worker.numbers is not None}
        for pipe in wait(list(by_pipe), timeout=_LOOK_S):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                self.tally.add(worker.pipe.recv())
                worker.numbers = None
            except (EOFError, ConnectionResetError):
                self._bury(worker, "the process died")
        now = time.monotonic()
        for worker in list(self._workers):
            place = worker.place.get()
            if place != worker.seen_at:
                worker.seen_at, worker.seen_when = place, now
            elif worker.numbers is not None and now - worker.seen_when > _PATIENCE_S:
                self._bury(worker, f"nothing happened for {_PATIENCE_S:.0f} s")

    def _bury(self, worker: _Worker, why: str) -> None:
        """A worker is lost: blame the engine that ran; its other programs are for another worker."""
        worker.process.kill()
        worker.process.join()
        self._workers.remove(worker)
        if worker.numbers is None:
            return
        first, end, is_again = worker.numbers
        number, subject = worker.place.get()
        if not first <= number < end:
            raise ConfigError(f"differential: a worker ended before its first program: {why}")
        parts = (Range(number + 1, end, is_again), Range(first, number, is_again))
        self._todo += [each for each in parts if each.first < each.end]
        program = self.plan.source.program(number)
        if not is_again:
            self.tally.programs[program.mode.name] += 1
            self.tally.endings["lost"] += 1
        if subject == 0 and self.plan.against == BARE and takes_bare_down(program):
            self.tally.explained.update(f"{engine}/{ABORTS.name}" for engine in self.plan.engines)
            return
        self.tally.failures.append(
            {
                "number": number,
                "engine": self.plan.subjects[subject],
                "against": self.plan.against,
                "differences": [f"{why}, exit code {worker.process.exitcode}"],
                "program": program.to_json(),
            }
        )

    # --- the state file --------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        source = self.plan.source
        return {
            "seed": source.seed,
            "modes": list(source.modes),
            "engines": list(self.plan.engines),
            "against": self.plan.against,
            "first": self.first,
            "programs": self.programs,
        }

    def _load(self) -> None:
        if self.state is None or not self.state.exists():
            return
        saved = json.loads(self.state.read_text())
        if saved["campaign"] != self._identity():
            raise ConfigError(f"--resume: {self.state} belongs to another campaign: {saved['campaign']}")
        self.tally = Tally.from_json(saved["tally"])
        failed = dict.fromkeys(failure["number"] for failure in self.tally.failures)
        self.tally.failures.clear()
        again = [Range(number, number + 1, is_again=True) for number in failed]
        self._todo = [*(Range(*each) for each in saved["todo"]), *again]

    def _save(self) -> None:
        if self.state is None:
            return
        todo = [*self._todo, *self._in_work()]
        text = json.dumps({"campaign": self._identity(), "todo": todo, "tally": self.tally.to_json()})
        partial = self.state.with_name(self.state.name + ".new")
        partial.write_text(text)
        os.replace(partial, self.state)

    def _in_work(self) -> Iterator[Range]:
        return (worker.numbers for worker in self._workers if worker.numbers is not None)
