# ruff: noqa: E501 - tables of phrases, one a line
"""Tool calls: tools everybody knows, and tools composed at random so that names have to be copied, not learned."""

from __future__ import annotations

import json
import re
from typing import Any

from training.core import Context, Exchange, Message, casual
from training.tasks import extraction
from training.tasks.tool_catalog import COMMON, Common
from training.tasks.tool_making import Parameter, Tool, common, composed, offered, parameter, value_of
from training.words import made_up_hanzi


def _phrase(c: Context, p: Parameter, *, natural: bool = False) -> str:
    """How a request mentions one argument."""
    r = c.r
    value = p.value
    if p.natural and natural:
        return c.ask((p.natural,), (p.natural,), v=value)
    if p.kind == "boolean":
        value = ("是" if value else "否") if c.zh and r.random() < 0.5 else str(value).lower()
    elif p.kind == "array":
        value = ("、" if c.zh else ", ").join(value)
    if p.kind == "string" and r.random() < 0.12:
        value = f'"{value}"'
    forms = (
        ("<n>为<v>", "<n>是<v>", "<n>：<v>", "<n><v>", "<n> <v>", "<n>=<v>")
        if c.zh
        else (
            "<n> <v>",
            "<n> <v>",
            "the <n> <v>",
            "<n>: <v>",
            "<n> = <v>",
            "<n>=<v>",
            "<n> set to <v>",
            "<v> as {the |}<n>",
        )
    )
    return c.ask(forms, forms, n=p.shown, v=value)


def _request(c: Context, tool: Tool) -> tuple[str, dict[str, Any]]:
    """A user's words that want this tool, and the arguments to be found in them."""
    r = c.r
    used = [p for p in tool.parameters if p.required or r.random() < 0.6]
    arguments = {p.name: p.value for p in used}
    if tool.common is not None:
        return _common_request(c, tool, tool.common, used)
    spoken = r.sample(used, len(used)) if r.random() < 0.25 else used
    ways = [p.natural for p in tool.parameters]
    natural = r.random() < 0.45 and (not c.zh or all(ways)) and all(ways.count(w) < 2 for w in ways if w)
    if natural and not all(p.natural for p in spoken):  # what has a preposition goes first, the rest is listed
        spoken = sorted(spoken, key=lambda p: not p.natural)
    if natural and spoken and spoken[0].natural:
        head = [_phrase(c, p, natural=True) for p in spoken if p.natural]
        tail = [_phrase(c, p) for p in spoken if not p.natural]
        return _natural_request(c, tool, head, tail), arguments
    phrases = [_phrase(c, p) for p in spoken]
    if c.zh:
        listed = r.choice(("，", "、", "，")).join(phrases)
        forms = (
            ["{请|帮我|请帮我|麻烦|我想|}{v}{t}{，|：}<l>。", "<l>，{请|帮我|}{v}{t}。"]
            if phrases
            else ["{请|帮我|请帮我|麻烦你|我想|}{v}{一下|}{t}。", "{可以|能}{v}{t}吗？"]
        )
    else:
        listed = (
            ", ".join(phrases)
            if len(phrases) < 2 or r.random() < 0.4
            else ", ".join(phrases[:-1]) + " and " + phrases[-1]
        )
        a = r.choice(("a", "the", "my", "this", "the", "a"))
        forms = (
            [
                f"{{|Please |Can you |Could you |I want to |I need to |I would like to }}{{v}} {a} {{t}} {{with|using|for|where}} <l>{{.|}}",
                f"{{v}} {a} {{t}}: <l>",
                f"{{|Please |Can you }}{{v}} {a} {{t}}, <l>.",
                f"{{With|Using}} <l>, {{v}} {a} {{t}}.",
            ]
            if phrases
            else [f"{{|Please |Can you |Could you |I want to |I need to }}{{v}} {a} {{t}}{{.|| for me.| now.}}"]
        )
    text = r.choice(forms).replace("{v}", "<verb>").replace("{t}", "<thing>")
    out = c.ask((text,), (text,), verb=tool.verb, thing=tool.thing, l=listed)
    return out[0].upper() + out[1:] if not phrases or not out.startswith(phrases[0]) else out, arguments


def _common_request(c: Context, tool: Tool, entry: Common, used: list[Parameter]) -> tuple[str, dict[str, Any]]:
    """A well-known wish; one that mentions the optional last argument if and only if it is used."""
    slots = {str(i): p.value for i, p in enumerate(tool.parameters)}
    asks = entry.asks_zh if c.zh else entry.asks
    if len(entry.parameters) < 2 or entry.parameters[-1][3]:
        return c.ask(asks, asks, **slots), {p.name: p.value for p in used}
    full = tool.parameters[-1] in used
    wanted = f"<{len(tool.parameters) - 1}>"
    fitting = [a for a in asks if (wanted in a) == full]
    if not fitting:
        full, fitting = not full, list(asks)
    arguments = {p.name: p.value for p in tool.parameters if p.required or full}
    return c.ask(fitting, fitting, **slots), arguments


def _natural_request(c: Context, tool: Tool, head: list[str], tail: list[str]) -> str:
    """`Book a room in Paris on 2030-05-01 with size 3`."""
    if c.zh:
        return c.ask((), ("{请|帮我|请帮我|我想|}<h><v><t>。",), h="，".join(head), v=tool.verb, t=tool.thing)
    rest = (", with " if c.r.random() < 0.3 else " with ") + " and ".join(tail) if tail else ""
    return c.ask(
        ("{|Please |Can you |Could you |I want to |I need to }<v> {a|the|my} <t> <h><r>{.|}",),
        (),
        v=tool.verb,
        t=tool.thing,
        h=" ".join(head),
        r=rest,
    )


def result_of(c: Context, tool: Tool, arguments: dict[str, Any]) -> tuple[str, str]:
    """What the tool returns, and how the assistant puts it."""
    r = c.r
    own = c.switched(zh=c.answer_zh)
    if tool.common is not None and tool.common.results and r.random() < 0.7:
        template, en, zh = r.choice(tool.common.results)
        slots = {str(i): p.value for i, p in enumerate(tool.parameters)}
        slots |= {"n": r.randint(-10, 40), "m": r.randint(1, 500), "w": r.choice(("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")), "c": c.code(), "x": own.name(), "t": extraction.clock(c), "d": extraction.date(c),
                  "p": c.draw(lambda: round(r.uniform(1, 900), 2)), "u": " ".join(own.word() for _ in range(3)) if not c.answer_zh else made_up_hanzi(r, 4)}  # fmt: skip
        return re.sub(r"<(\w+)>", lambda m: str(slots[m[1]]), template), c.tell(en, zh, **slots)
    kind = r.random()
    if kind < 0.3:
        value: Any = r.choice(
            (
                lambda: r.randint(0, 999),
                own.code,
                own.name,
                lambda: f"{r.randint(-20, 45)} degrees",
                lambda: " ".join(own.word() for _ in range(2)),
            )
        )()
        shape = r.choice(("{v}", "{v}", '{{"result": {j}}}', '{{"value": {j}}}'))
        return shape.format(v=value, j=json.dumps(value, ensure_ascii=False)), c.tell(
            "The result is <v>.", "结果是<v>。", v=value
        )
    if kind < 0.42:
        ok = r.choice(('{"status": "ok"}', '{"success": true}', "ok", "done", '{"ok": true}', "success"))
        return ok, c.tell("Done. The call was successful.", "完成了，调用成功。")
    if kind < 0.52:
        message = r.choice(("not found", "timeout", "permission denied", "invalid id", "service unavailable"))
        return r.choice(('{{"error": "{}"}}', "Error: {}", "error: {}")).format(message), c.tell(
            "The call failed: <m>.", "调用失败：<m>。", m=message
        )
    fields: dict[str, Any] = {}
    for _ in range(r.randint(1, 4)):
        p = parameter(c, set(fields))
        fields[p.name] = p.value if p.kind not in ("array", "boolean") else r.randint(1, 99)
    joined = ", ".join(f"{k}: {v}" for k, v in fields.items())
    return json.dumps(fields, ensure_ascii=False), c.tell("Here is the result: <j>.", "结果如下：<j>。", j=joined)


NO_TOOL = "I am sorry, none of my tools can do that."
NO_TOOL_ZH = "对不起，我的工具都做不到这件事。"


def tool_use(
    c: Context, tools: list[Tool] | None = None, *, with_result: bool | None = None
) -> tuple[Exchange, list[Tool]]:
    """A request that needs one of the offered tools: the call, usually its result and the answer."""
    r = c.r
    if tools is None:
        target = common(c) if r.random() < 0.35 else composed(c)
        tools = offered(c, target, how_many_tools(c))
    else:
        target = r.choice(tools)
    quiet = c.switched(quiet=True)
    text, arguments = _request(quiet, target)
    calls = [{"name": target.name, "arguments": arguments}]
    twice = target.common is not None and target.common.twice and r.random() < 0.25
    if twice:
        text, calls = _two_calls(c, target)
    if target.common is not None:
        text = casual(c, text)
    think = c.tell("The tool <n> fits. I call it.", "工具<n>适合。我来调用它。", n=target.name)
    messages = [Message("user", text), Message("assistant", "", think, calls)]
    if with_result is None:
        with_result = r.random() < 0.6
    if with_result:
        answers = []
        for call in calls:
            for p in target.parameters:
                p.value = call["arguments"].get(p.name, p.value)
            shown, answer = result_of(c, target, call["arguments"])
            messages.append(Message("tool", shown))
            answers.append(answer)
        joiner = "" if c.answer_zh else " "
        messages.append(
            Message(
                "assistant",
                joiner.join(answers),
                c.tell("The tool answered. I tell the user.", "工具已返回结果。我告诉用户。"),
            )
        )
    return messages, tools


def _two_calls(c: Context, tool: Tool) -> tuple[str, list[dict[str, Any]]]:
    """One wish for two values of the first parameter."""
    assert tool.common is not None
    kind = tool.common.parameters[0][1]
    first, second = value_of(c, kind), value_of(c, kind)
    while second == first:
        second = value_of(c, kind)
    calls = [{"name": tool.name, "arguments": {tool.parameters[0].name: v}} for v in (first, second)]
    text = c.ask(tool.common.twice, tool.common.twice_zh, a=first, b=second)
    return text, calls


def no_fitting_tool(c: Context) -> tuple[Exchange, list[Tool]]:
    """A wish for something that the offered tools cannot do."""
    r = c.r
    wanted = common(c) if r.random() < 0.4 else composed(c)
    tools = [
        t
        for t in offered(c, wanted, r.choice((2, 2, 3, 4)))
        if t is not wanted and (wanted.common or t.thing != wanted.thing)
    ]
    if not tools:
        return no_fitting_tool(c)
    text, _ = _request(c.switched(quiet=True), wanted)
    think = c.tell("None of the tools fits.", "没有合适的工具。")
    return [Message("user", text), Message("assistant", c.tell(NO_TOOL, NO_TOOL_ZH), think)], tools


def missing_argument(c: Context) -> tuple[Exchange, list[Tool]]:
    """A request without a required argument: the assistant asks, the user answers, the call follows."""
    r = c.r
    if r.random() < 0.2:
        return _which_city(c)
    while True:
        target = composed(c)
        if target.parameters and target.parameters[0].kind == "string":
            break
    only = target.parameters[0]
    target.parameters = [only]
    only.required = True
    tools = offered(c, target, r.choice((1, 2, 3)))
    text, _ = _request(c.switched(quiet=True), Tool(target.name, target.description, [], target.verb, target.thing))
    ask = c.tell("Please tell me the <p>.", "请告诉我<p>。", p=only.shown)
    answer = r.choice((str(only.value), _phrase(c, only)))
    return [
        Message("user", text), Message("assistant", ask, c.tell("The <p> is missing.", "缺少<p>。", p=only.shown)), Message("user", answer),
        Message("assistant", "", c.tell("Now I can call <n>.", "现在可以调用<n>。", n=target.name), [{"name": target.name, "arguments": {only.name: only.value}}]),
    ], tools  # fmt: skip


def _which_city(c: Context) -> tuple[Exchange, list[Tool]]:
    target = common(c, COMMON[0])
    place = target.parameters[0]
    text = c.ask(
        (
            "{What is|What's|How is} the weather{ like| today| like today|}?",
            "{Weather|Weather, please|Weather today}{?|}",
            "Is it {cold|raining|sunny}?",
        ),
        ("{今天|}天气{怎么样|如何}{？|}", "今天冷吗？", "查天气。"),
    )
    ask = c.tell("Please tell me the <p>.", "请告诉我城市。", p=place.name)
    call = Message(
        "assistant",
        "",
        c.tell("Now I can call <n>.", "现在可以调用<n>。", n=target.name),
        [{"name": target.name, "arguments": {place.name: place.value}}],
    )
    answer = c.ask(("{|In |I am in |For }<v>{.|}",), ("{|在|我在}<v>{。|}",), v=place.value)
    return [
        Message("user", text),
        Message("assistant", ask, c.tell("The city is missing.", "缺少城市。")),
        Message("user", answer),
        call,
    ], offered(c, target, how_many_tools(c))


def how_many_tools(c: Context) -> int:
    """How many tools a conversation offers."""
    return c.r.choice((1, 1, 2, 2, 3, 3, 4, 5))
