"""Trials: every grammar is first compiled in a child, where it can do no harm (compile_child.py)."""

import json
from dataclasses import asdict, dataclass

from llama4rt.structured.compile_child import setup_message
from llama4rt.structured.compiling import TokenTable
from llama4rt.structured.structured_output import StructuredOutput
from llama4rt.workers.child_pool import ChildPool
from llama4rt.workers.child_process import ChildLimit, ChildLimits

_MEMORY = 1 << 30
# Nearly all grammars take milliseconds. What does not is stopped soon, so that nobody's waits behind it, and gets more
# time where only its like wait.
_QUICK = ChildLimits(seconds=2.0, cpu_seconds=0.25, memory=_MEMORY, fork=True)
_PATIENT = ChildLimits(seconds=10.0, cpu_seconds=2.0, memory=_MEMORY, fork=True)
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
        module, what = "llama4rt.structured.compile_child", "to compile this"
        self._quick = ChildPool(module, _CHILDREN, _QUICK, what, setup=setup)
        self._patient = ChildPool(module, 1, _PATIENT, what, setup=setup)

    def start(self) -> None:
        """Starts a child before the first grammar needs it."""
        self._quick.start()

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
