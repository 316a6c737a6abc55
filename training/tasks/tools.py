# ruff: noqa: E501 - tables of phrases, one a line
"""Tool calls: tools everybody knows, and tools composed at random so that names have to be copied, not learned."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from training.core import Context, Exchange, Message, casual
from training.tasks import extraction
from training.tasks.tool_catalog import COMMON, OBJECTS, PARAMETERS, VERBS, Common
from training.words import LANGUAGES, made_up_hanzi, made_up_word


@dataclass(slots=True)
class Parameter:
    name: str
    kind: str
    """The JSON type."""
    shown: str
    """How the user speaks of it."""
    value: Any
    description: str = ""
    choices: list[str] = field(default_factory=list)
    required: bool = True
    natural: str = ""
    """A phrase that says the value without the parameter's name, such as `on <v>`."""

    def schema(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": self.kind}
        if self.kind == "array":
            out["items"] = {"type": "string"}
        if self.description:
            out["description"] = self.description
        if self.choices:
            out["enum"] = self.choices
        return out


@dataclass(slots=True)
class Tool:
    name: str
    description: str
    parameters: list[Parameter]
    verb: str
    """What a user says to want it: a verb and its object."""
    thing: str
    common: Common | None = None
    pair: tuple[str, str] = ("", "")
    """The object in English and Chinese."""

    def schema(self, c: Context) -> dict[str, Any]:
        """The OpenAI tool, with the small differences clients have."""
        r = c.r
        properties = {p.name: p.schema() for p in self.parameters}
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        required = [p.name for p in self.parameters if p.required]
        if required or r.random() < 0.3:
            schema["required"] = required
        if r.random() < 0.15:
            schema["additionalProperties"] = False
        if r.random() < 0.1:
            schema = {k: schema[k] for k in sorted(schema)}
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = schema
        if r.random() < 0.08:
            function["strict"] = True
        if r.random() < 0.1:
            function = {k: function[k] for k in sorted(function)}
        return {"type": "function", "function": function}


def value_of(c: Context, kind: str) -> Any:
    """A value of one of the kinds that `PARAMETERS` names."""
    r = c.r
    makers: dict[str, Any] = {
        "city": c.city, "person": c.name, "code": c.code, "email": lambda: extraction.email(c), "date": lambda: extraction.date(c), "clock": lambda: extraction.clock(c),
        "phone": lambda: extraction.phone(c), "small": lambda: r.randint(1, 20), "big": lambda: c.draw(lambda: r.randint(1, 5000)), "decimal": lambda: c.draw(lambda: round(r.uniform(0.1, 200), r.choice((1, 2)))),
        "flag": lambda: r.random() < 0.5, "language": lambda: c.pick(r.choice(LANGUAGES)),
        "text": lambda: made_up_hanzi(r) if c.zh and r.random() < 0.5 else " ".join(c.word() for _ in range(r.choice((1, 1, 2, 3)))),
        "word": lambda: made_up_hanzi(r, 2) if c.zh and r.random() < 0.5 else c.word(),
        "noun": lambda: c.pick(r.choice(OBJECTS)),
        "words": lambda: [c.word() for _ in range(r.randint(1, 3))],
    }  # fmt: skip
    return makers[kind]()


def _styled(c: Context, parts: list[str]) -> str:
    """snake_case, camelCase, kebab-case or a dotted name."""
    style = c.r.random()
    if style < 0.68:
        return "_".join(parts)
    if style < 0.88:
        return parts[0] + "".join(p.capitalize() for p in parts[1:])
    if style < 0.94:
        return "-".join(parts)
    return "".join(p.capitalize() for p in parts)


NATURAL = {
    "city": ("in <v>", "在<v>"), "location": ("in <v>", "在<v>"), "destination": ("to <v>", "去<v>"), "recipient": ("to <v>", "给<v>"), "date": ("on <v>", "在<v>"), "time": ("at <v>", "在<v>"),
    "name": ("{called|named} <v>", "名叫<v>"), "title": ("{titled|called} <v>", "名为<v>"), "author": ("{by|of} <v>", "<v>写的"), "language": ("in <v>", "用<v>"), "topic": ("about <v>", "关于<v>"), "room": ("in room <v>", "在房间<v>"), "price": ("for <v> dollars", "<v>元"),
}  # fmt: skip


def parameter(c: Context, taken: set[str]) -> Parameter:
    r = c.r
    while True:
        name, label, label_zh, kind, json_kind = r.choice(PARAMETERS)
        shown = c.pick((label, label_zh))
        if r.random() < 0.35:
            made = c.draw(lambda: made_up_word(r, r.choice((1, 2, 2))))
            name = made if r.random() < 0.6 else f"{made}_{name}"
            shown = (
                made if name == made else (f"{made} {label}" if not c.zh or r.random() < 0.5 else f"{made}{label_zh}")
            )
        if name in taken or shown in taken:
            continue
        taken |= {name, shown}
        result = Parameter(
            _styled(c, name.split("_")) if r.random() < 0.3 else name, json_kind, shown, value_of(c, kind)
        )
        result.natural = NATURAL.get(name, ("", ""))[int(c.zh)]
        if kind == "word" and r.random() < 0.4:
            result.choices = list(dict.fromkeys([c.word() for _ in range(r.randint(1, 3))] + [str(result.value)]))
            r.shuffle(result.choices)
        if r.random() < 0.75:
            result.description = (
                r.choice(("The {}", "the {}", "{}", "{} of the request", "The {} to use")).format(shown)
                if not c.zh or r.random() < 0.4
                else r.choice(("{}", "要用的{}", "{}的值")).format(shown)
            )
        return result


def composed(c: Context, verb: tuple[str, ...] | None = None, thing: tuple[str, str] | None = None) -> Tool:
    """A tool nobody has seen: a verb, an object (often a made-up one) and random parameters."""
    r = c.r
    verb = verb or r.choice(VERBS)
    if thing is None:
        if r.random() < 0.45:
            made = c.draw(lambda: made_up_word(r))
            thing = (made, made if r.random() < 0.6 else made_up_hanzi(r, 2))
        else:
            thing = r.choice(OBJECTS)
    base, thing_en = verb[0], thing[0]
    extra = (
        [r.choice(("my", "new", "all", "by_id", "info", "data", "item", "v2", "service", "tool"))]
        if r.random() < 0.15
        else []
    )
    words = [base, *thing_en.split(), *[e for x in extra for e in x.split("_")]]
    if r.random() < 0.08:
        words = words[1:] + words[:1]
    taken: set[str] = {thing_en}
    parameters = [parameter(c, taken) for _ in range(r.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4)))]
    for p in parameters[1:]:
        p.required = r.random() < 0.75
    shown_thing = c.pick(thing)
    synonyms = verb[2].split("|") if not c.zh else verb[3].split("|")
    description = ""
    if thing[1] != thing_en and c.zh:
        description = f"{r.choice(verb[3].split('|'))}{thing[1]}"
    elif r.random() < 0.85:
        a = r.choice(("a ", "the ", ""))
        description = r.choice(
            (
                "{v} {a}{t}",
                "{v} {a}{t}.",
                "Use this to {l} {a}{t}.",
                "This function can {l} {a}{t}",
                "A tool to {l} {a}{t}",
            )
        ).format(v=verb[1].capitalize(), l=verb[1], a=a, t=thing_en)
    return Tool(_styled(c, words), description, parameters, r.choice(synonyms), shown_thing, pair=thing)


def common(c: Context, entry: Common | None = None) -> Tool:
    r = c.r
    entry = entry or r.choice(COMMON)
    parameters = []
    for names, kind, json_kind, needed in entry.parameters:
        name = r.choice(names.split("|"))
        p = Parameter(name, json_kind, name, None if kind.startswith("=") else value_of(c, kind), required=needed)
        if kind.startswith("="):
            p.choices = kind[1:].split("|")
            p.value = r.choice(p.choices)
        if r.random() < 0.5:
            p.description = r.choice(("The {}", "{}", "Name of the {}", "the {} to use")).format(
                name.replace("_", " ")
            )
        parameters.append(p)
    description = r.choice(entry.descriptions.split("|")) if not c.zh or r.random() < 0.5 else entry.description_zh
    return Tool(r.choice(entry.names.split()), "" if r.random() < 0.08 else description, parameters, "", "", entry)


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
        slots = {str(i): p.value for i, p in enumerate(tool.parameters)}
        optional = len(tool.common.parameters) > 1 and not tool.common.parameters[-1][3]
        full = not optional or tool.parameters[-1] in used
        asks = tool.common.asks_zh if c.zh else tool.common.asks
        wanted = "<" + str(len(tool.parameters) - 1) + ">"
        if optional:
            kept = [a for a in asks if (wanted in a) == full]
            if not kept:
                full = not full
                kept = [a for a in asks if (wanted in a) == full]
            asks = tuple(kept)
            arguments = {p.name: p.value for p in tool.parameters if p.required or full}
        return c.ask(asks, asks, **slots), arguments
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


def offered(c: Context, tool: Tool | None, count: int) -> list[Tool]:
    """The tool among others, some of them alike, none with the same name."""
    r = c.r
    out = [] if tool is None else [tool]
    tries = 0
    while len(out) < count and tries < 50:
        tries += 1
        if tool is not None and tool.common is None and r.random() < 0.35:
            other = composed(
                c, thing=None, verb=next((v for v in VERBS if tool.verb in (v[2] + "|" + v[3]).split("|")), None)
            )
        elif tool is not None and tool.common is None and r.random() < 0.3:
            other = composed(
                c,
                verb=r.choice([v for v in VERBS if tool.verb not in (v[2] + "|" + v[3]).split("|")]),
                thing=tool.pair,
            )
        elif r.random() < 0.4:
            other = common(c)
        else:
            other = composed(c)
        clash = any(
            o.name == other.name
            or (o.common is not None and o.common is other.common)
            or (o.common is None and other.common is None and o.thing == other.thing and o.verb == other.verb)
            for o in out
        )
        related = any(o.common and other.common and o.common.group == other.common.group for o in out)
        if not clash and not related and not _ambiguous(out, other):
            out.append(other)
    r.shuffle(out)
    return out


def _ambiguous(tools: list[Tool], other: Tool) -> bool:
    """Same object with a verb that users also say for the first tool's."""
    for tool in tools:
        if tool.common is None and other.common is None and tool.thing == other.thing:
            mine = {
                w
                for v in VERBS
                if tool.verb in (v[2] + "|" + v[3]).split("|")
                for w in (v[2] + "|" + v[3]).split("|")
            }
            if other.verb in mine or any(other.name.lower().startswith(w.split()[0]) for w in mine if w.isascii()):
                return True
    return False


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
