"""Score the demo model on held-out instances: `python -m training.evaluate [--base-url http://127.0.0.1:8000/v1]`.

With a URL the instances go through the running server with the official client, tools and thinking included;
without one the checkpoint is run here, greedily, many prompts at a time.
"""

from __future__ import annotations

import argparse
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.core import Message
from training.instances import BARS, EVALUATED, FREE, Instance, Score, instances
from training.rendering import answer_text

MODEL_FOLDER = Path(__file__).parent.parent / "oai_server" / "demo_model"


def ask(client: Any, model: str, item: Instance, temperature: float | None) -> tuple[bool, bool]:
    """Whether the server's reply is right, and whether it ended by itself."""
    messages = item.conversation.to_openai()
    for message in messages:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    if item.conversation.tools:
        options["tools"] = item.conversation.tools
    if item.conversation.thinking:
        options["extra_body"] = {"chat_template_kwargs": {"enable_thinking": True}}
    choice = client.chat.completions.create(model=model, messages=messages, max_tokens=400, **options).choices[0]
    try:
        calls = [
            {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
            for call in choice.message.tool_calls or []
        ]
    except ValueError:
        return False, choice.finish_reason != "length"
    reply = answer_text(Message("assistant", choice.message.content or "", calls=calls))
    ended = choice.finish_reason in ("stop", "tool_calls")
    return ended and (item.task in FREE or item.right(reply)), ended


def over_http(options: argparse.Namespace) -> dict[str, Score]:
    from openai import OpenAI

    client = OpenAI(base_url=options.base_url, api_key=options.api_key, timeout=600, max_retries=5)
    model = client.models.list().data[0].id
    items = list(instances(options.count, options.tasks))
    scores: dict[str, Score] = {}
    with ThreadPoolExecutor(options.clients) as pool:
        for item, (right, ended) in zip(
            items, pool.map(lambda i: ask(client, model, i, options.temperature), items), strict=True
        ):
            scores.setdefault(item.task, Score()).add(right=right, ended=ended)
    return scores


def in_process(options: argparse.Namespace) -> dict[str, Score]:
    from training.batch_generation import evaluate_model
    from training.model import load_checkpoint

    report = options.report or Path("/dev/null")
    return evaluate_model(
        load_checkpoint(options.model),
        options.model / "tokenizer.json",
        options.count,
        report,
        room=6000,
        tasks=options.tasks,
    )


def show(scores: dict[str, Score]) -> bool:
    """Print the table; whether every bar is reached."""
    table = Table("task", "right", "ends by itself", "instances", "bar")
    missed = []
    for task, score in scores.items():
        bar, rate = BARS.get(task), score.right / score.count
        if bar is not None and rate < bar:
            missed.append(task)
        table.add_row(
            task, f"{rate:.1%}", f"{score.ended / score.count:.1%}", str(score.count), f"{bar:.0%}" if bar else ""
        )
    ended = sum(s.ended for s in scores.values()) / sum(s.count for s in scores.values())
    console = Console()
    console.print(table)
    console.print(f"{ended:.2%} of the replies end by themselves (bar 99%).")
    console.print(
        "Every bar is reached." if not missed and ended >= 0.99 else f"Missed: {', '.join(missed) or 'endings'}"
    )
    return not missed and ended >= 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="of a running server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--clients", type=int, default=16, help="requests at a time")
    parser.add_argument("--sampled", dest="temperature", action="store_const", const=None, default=0.0,
                        help="with the server's default sampling instead of greedily")  # fmt: skip
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="checkpoint folder when there is no URL")
    parser.add_argument("--count", type=int, default=100, help="instances a task")
    parser.add_argument("--tasks", nargs="*", choices=sorted(EVALUATED))
    parser.add_argument("--report", type=Path, help="JSON with wrong replies (without a URL)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    raise SystemExit(not show(over_http(options) if options.base_url else in_process(options)))


if __name__ == "__main__":
    main()
