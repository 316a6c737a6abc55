# ruff: noqa: E501 - tables of phrases, one a line
"""Tools and their parameters: well-known ones, and ones composed at random that nobody has seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from training.core import Context
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
