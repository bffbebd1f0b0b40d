"""Trials: every grammar is first compiled in a child, where it can do no harm (compile_child.py)."""

import contextlib
import json
import threading
from dataclasses import asdict, dataclass

from llama4rt.errors import Llama4RTError
from llama4rt.structured.compile_child import setup_message
from llama4rt.structured.compiling import TokenTable
from llama4rt.structured.structured_output import StructuredOutput
from llama4rt.workers.child_pool import ChildPool
from llama4rt.workers.child_process import ChildLimit, ChildLimits

MAX_COMPILE_BYTES = 1 << 30
# Nearly all grammars take milliseconds. What does not is stopped soon, so that nobody's waits behind it, and gets more
# time where only its like wait.
_QUICK = ChildLimits(seconds=2.0, cpu_seconds=0.125, memory=MAX_COMPILE_BYTES, fork=True)
_PATIENT = ChildLimits(seconds=6.0, cpu_seconds=0.8, memory=MAX_COMPILE_BYTES, fork=True, nice=10)
_CHILDREN = 2


@dataclass(frozen=True)
class Passed:
    """form: what LLMatcher takes. bytes: of the grammar and one output under it."""

    form: str
    bytes: int


class Trials:
    """Safe to use from many threads. Children start with the first grammar."""

    def __init__(self, table: TokenTable) -> None:
        setup = setup_message(table)
        module, what = "llama4rt.structured.compile_child", "compiling it"
        self._quick = ChildPool(module, _CHILDREN, _QUICK, what, setup=setup)
        self._patient = ChildPool(module, 1, _PATIENT, what, setup=setup)

    def start(self) -> None:
        """Starts a child before the first grammar needs it, and the others in the background."""
        self._quick.start()
        threading.Thread(target=self._start_others, name="llama4rt-compilers", daemon=True).start()

    def _start_others(self) -> None:
        with contextlib.suppress(Llama4RTError):  # closed, or whoever needs one will hear why it cannot start
            self._quick.start_all()
            self._patient.start_all()

    def close(self) -> None:
        self._quick.close()
        self._patient.close()

    def passed(self, output: StructuredOutput) -> Passed:
        """RequestError for what is refused; ChildLimit for what takes too much; ChildrenBusy, ChildAbandoned."""
        message = json.dumps(asdict(output)).encode()
        try:
            answer = self._quick.call(message)
        except ChildLimit as error:
            if error.reason not in ("time", "deadline"):
                raise
            answer = self._patient.call(message)
        return Passed(**json.loads(answer))

    def pids(self) -> list[int]:
        """Of the children that run, for tests."""
        return self._quick.pids() + self._patient.pids()
