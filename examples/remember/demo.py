"""An agent that keeps its context: ``python -m examples.remember.demo``. Its model is a function, without a network."""

from __future__ import annotations

import json
from typing import Any

import kibo

ORDERS = {"7": "late", "8": "delivered"}


def model(prompt: Any) -> dict[str, Any]:
    """Stands for a model: asks for each order that it was not told of, and then says what it knows."""
    said = json.dumps(prompt.messages)
    for order in ORDERS:
        if f"order {order} is" not in said:
            return {"calls": [{"id": f"look-{order}", "name": "look_up", "arguments": {"order": order}}]}
    return {"text": "Order 7 is late, order 8 was delivered."}


def agent(ctx: Any) -> str:
    """Asks the model, runs the tools that it calls, and tells it what came of them, until it answers."""
    while True:
        answer = model(ctx.prompt(budget_tokens=2_000, format="anthropic"))
        ctx.assistant(answer.get("text", ""), tool_calls=answer.get("calls", ()))
        for call in answer.get("calls", ()):
            order = call["arguments"]["order"]
            ctx.tool_result(call["id"], f"order {order} is {ORDERS[order]}")
        if "text" in answer:
            return str(answer["text"])


def main() -> None:
    with kibo.branch("answer the customer") as main:
        ctx = main.context
        ctx.system("You answer customers of a shop.")
        ctx.pin(ctx.user("Where are my orders 7 and 8?"))
        before = ctx.prompt(budget_tokens=2_000)

        careful, hasty = main.fork(2, names=["careful", "hasty"])
        print(
            "both forks begin with the same bytes:", hasty.context.prompt(2_000).rendered == before.rendered
        )
        hasty.context.remember("customers never mind waiting")
        lesson = hasty.context.remember("order 7 left the warehouse on Monday")

        print("the careful one says:", agent(careful.context))
        found = careful.context.entries(kinds=["tool_result"])[0]
        careful.context.remember("this customer asks about late orders", source=found)
        careful.commit()

        hasty.context.promote(lesson)  # this one, and nothing else of what the loser has learned
        print("main remembers:", *(memory.text for memory in ctx.memories()), sep="\n  ")
        print("the prompt went on from what it was:", ctx.prompt(2_000).rendered.startswith(before.rendered))
        print("a search for 'late':", *(hit.entry.text for hit in ctx.search("late")), sep="\n  ")

        for number in range(200):
            ctx.note(f"it is {number} minutes later, and nothing has happened")
        made = ctx.compact(keep_tokens=200)
        after = ctx.prompt(budget_tokens=2_000)
        print(
            f"a summary stands for {made.covers.count if made else 0} entries; the question is pinned:",
            "orders 7 and 8?" in after.rendered.decode(),
        )


if __name__ == "__main__":
    main()
