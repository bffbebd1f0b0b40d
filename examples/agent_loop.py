"""An agent: the model calls functions of this program until it can answer, against `llama4rt serve`.

    pip install openai
    llama4rt serve model.l4e &
    python examples/agent_loop.py "What is 12 plus 30?" http://127.0.0.1:8000/v1

A call is checked before it runs, and an error goes back to the model as the call's result: it may try again.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from openai import OpenAI

MOST_ROUNDS = 8  # a model that calls for ever is stopped
MOST_TOKENS = 256  # of one round


def add(a: float, b: float) -> float:
    return a + b


def multiply(a: float, b: float) -> float:
    return a * b


NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "add": (add, "Adds two numbers"),
    "multiply": (multiply, "Multiplies two numbers"),
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": text, "parameters": NUMBERS}}
    for name, (_, text) in FUNCTIONS.items()
]


def run_call(name: str, arguments: str) -> str:
    """What the model hears of its call."""
    if name not in FUNCTIONS:
        return f"error: there is no function {name}; there are {', '.join(FUNCTIONS)}"
    try:
        given = json.loads(arguments)
        return str(FUNCTIONS[name][0](float(given["a"]), float(given["b"])))
    except (ValueError, TypeError, KeyError) as error:
        return f"error: {type(error).__name__}: {error}"


def run_agent(
    client: OpenAI, question: str, say: Callable[[str], None] = print, *, must_call: bool = False
) -> str:
    """must_call: the first round has a call in any case; a small model may need that."""
    model = client.models.list().data[0].id
    messages: list[Any] = [{"role": "user", "content": question}]
    for i in range(MOST_ROUNDS):
        choice: Any = "required" if must_call and i == 0 else "auto"
        reply = client.chat.completions.create(
            model=model,
            messages=messages,
            tools=TOOLS,
            tool_choice=choice,
            temperature=0,
            max_tokens=MOST_TOKENS,
        )
        message = reply.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            assert call.type == "function"
            result = run_call(call.function.name, call.function.arguments)
            say(f"{call.function.name}({call.function.arguments}) = {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise RuntimeError(f"no answer after {MOST_ROUNDS} rounds of calls")


if __name__ == "__main__":
    address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1"
    print(run_agent(OpenAI(base_url=address, api_key="-"), sys.argv[1]))
