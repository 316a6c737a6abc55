# ruff: noqa: E501 - tables of phrases, one a line
"""Text to JSON by a given schema."""

from __future__ import annotations

import json
from typing import Any

from training.core import Context, Exchange, exchange
from training.words import (
    COLORS,
    DAYS,
    FOODS,
    HOBBIES,
    JOBS,
    LANGUAGES,
    MONTHS,
    THINGS,
    made_up_hanzi,
    made_up_word,
    plural,
)


def email(c: Context) -> str:
    r = c.r
    user = c.draw(lambda: made_up_word(r) if r.random() < 0.6 else f"{made_up_word(r, 2)}.{made_up_word(r, 2)}")
    return f"{user}@{r.choice(('example.com', 'example.org', 'mail.com', made_up_word(r, 2) + '.com', made_up_word(r, 2) + '.org'))}"


def phone(c: Context) -> str:
    r = c.r
    return c.draw(
        lambda: (
            f"{r.randint(100, 999)}-{r.randint(1000, 9999)}"
            if r.random() < 0.5
            else "".join(r.choice("0123456789") for _ in range(r.choice((8, 11))))
        )
    )


def date(c: Context) -> str:
    r = c.r
    return c.draw(lambda: f"{r.randint(1990, 2035)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}")


def clock(c: Context) -> str:
    return c.draw(lambda: f"{c.r.randint(0, 23):02d}:{c.r.choice((0, 15, 30, 45, c.r.randrange(60))):02d}")


Field = tuple[str, str, Any]
"""Key, JSON type, value."""


def person(c: Context) -> tuple[list[Field], list[str]]:
    """Fields, and one sentence (or clause) for each in the same order; the first names the person."""
    r = c.r
    name, age, city, job, hobby = c.name(), r.randint(5, 95), c.city(), r.choice(JOBS), r.choice(HOBBIES)
    mail, tel, food, tongue = email(c), phone(c), r.choice(FOODS), r.choice(LANGUAGES)
    fields: list[Field] = [("name", "string", name), ("age", "integer", age), ("city", "string", city), (r.choice(("job", "occupation", "profession")), "string", c.pick(job)), ("hobby", "string", c.pick(hobby)),
                           ("email", "string", mail), (r.choice(("phone", "phone_number")), "string", tel), ("favorite_food", "string", c.pick(food)), ("language", "string", c.pick(tongue))]  # fmt: skip
    s = c.ask
    lines = [
        s(("{My name is|I am|This is|I'm} <n>.", "The name is <n>.", "<n> is {a customer|our guest|a member|a friend|new here}."), ("{我叫|我是|这是}<n>。", "姓名是<n>。", "<n>是{我们的客户|新会员|我的朋友}。"), n=name),
        s(("<n> is <a> years old.", "{I am|He is|She is|Age} <a>{ years old|}."), ("{今年|}<a>岁。", "年龄<a>岁。"), n=name, a=age),
        s(("<n> lives in <v>.", "{I live in|He lives in|She is from|I come from} <v>.", "{City|Home}: <v>."), ("住在<v>。", "来自<v>。"), n=name, v=city),
        s(("<n> works as a <v>.", "{I work as|He is|She works as} a <v>."), ("{职业|工作}是<v>。", "是一名<v>。"), n=name, v=c.pick(job)),
        s(("{The hobby is|My hobby is|<n>'s hobby is|<n> likes} <v>.",), ("{爱好是|喜欢}<v>。",), n=name, v=c.pick(hobby)),
        s(("{The email is|Write to|Email:|You can reach me at|My email is} <v> {.|please.}",), ("邮箱{是|：}<v> 。",), v=mail).replace(" .", "."),
        s(("{Phone:|The phone number is|Call|My number is} <v>.",), ("电话{是|：}<v>。",), v=tel),
        s(("{The favorite food is|I like to eat|<n> likes to eat} <v>.",), ("{最喜欢的食物是|爱吃}<v>。",), n=name, v=c.pick(food)),
        s(("{I speak|He speaks|<n> speaks} <v>.",), ("{会说|说}<v>。",), n=name, v=c.pick(tongue)),
    ]  # fmt: skip
    return fields, lines


def product(c: Context) -> tuple[list[Field], list[str]]:
    r = c.r
    thing, color = r.choice(THINGS[:90]), r.choice(COLORS)
    price, weight, stock, brand = (
        r.randint(1, 999),
        r.randint(1, 60),
        r.randint(0, 500),
        c.draw(lambda: made_up_word(r, 2).capitalize()),
    )
    fractional = r.random() < 0.3
    cost: Any = round(price + r.randint(1, 99) / 100, 2) if fractional else price
    fields: list[Field] = [
        (r.choice(("product", "item", "name")), "string", c.pick(thing)),
        ("color", "string", c.pick(color)),
        ("price", "number", cost),
        ("weight", "integer", weight),
        ("stock", "integer", stock),
        ("brand", "string", brand),
        ("id", "string", c.code()),
    ]
    s = c.ask
    lines = [
        s(("{We sell|This is|Here is|I bought|We have} a <v>.", "The product is a <v>."), ("{这是|我们卖|我买了}一个<v>。", "商品是<v>。"), v=c.pick(thing)),
        s(("{The color is|It is|Its color is} <v>.",), ("颜色是<v>。", "它是<v>的。"), v=c.pick(color)),
        s(("{It costs|The price is|It sells for} <v> {dollars|euros}.", "Price: <v>."), ("{价格是|售价|卖}<v>{元|美元}。",), v=cost),
        s(("{It weighs|The weight is} <v> {kg|kilograms|grams}.",), ("重<v>{公斤|克}。", "重量是<v>{公斤|克}。"), v=weight),
        s(("{There are|We have} <v> {in stock|left}.", "Stock: <v>."), ("{库存|还有}<v>{个|件}。",), v=stock),
        s(("{The brand is|It is made by|Brand:} <v>.",), ("品牌是<v>。", "由<v>生产。"), v=brand),
        s(("{The id is|Its number is|Product code} <v>.",), ("编号{是|}<v>。",), v=fields[6][2]),
    ]  # fmt: skip
    return fields, lines


def event(c: Context) -> tuple[list[Field], list[str]]:
    r = c.r
    kind = r.choice(
        (
            ("meeting", "会议"),
            ("concert", "音乐会"),
            ("party", "聚会"),
            ("lesson", "课"),
            ("trip", "旅行"),
            ("dinner", "晚餐"),
            ("exam", "考试"),
            ("match", "比赛"),
        )
    )
    when = date(c) if r.random() < 0.5 else c.pick(r.choice(DAYS + MONTHS))
    at, room, host, guests, city = clock(c), c.code(), c.name(), r.randint(2, 300), c.city()
    fields: list[Field] = [
        (r.choice(("event", "title", "type")), "string", c.pick(kind)),
        (r.choice(("date", "day")), "string", when),
        ("time", "string", at),
        (r.choice(("room", "place")), "string", room),
        (r.choice(("host", "organizer", "person")), "string", host),
        (r.choice(("guests", "participants")), "integer", guests),
        (r.choice(("city", "location")), "string", city),
    ]
    s = c.ask
    lines = [
        s(("{There is|We have|I have|Please note} a <v>.", "A <v> is planned."), ("{有一个|我们有|安排了}<v>。",), v=c.pick(kind)),
        s(("{It is on|The date is|It takes place on} <v>.",), ("{日期是|时间定在}<v>。",), v=when),
        s(("{It starts at|It begins at|The time is} <v>.",), ("<v>开始。",), v=at),
        s(("{The room is|It is in room|We meet in} <v>.",), ("{房间是|地点在}<v>。",), v=room),
        s(("{The host is|It is organized by|<v> is the host and invites you, says|Ask} <v>.".replace("<v> is the host and invites you, says|", ""),), ("{主持人是|组织者是|联系人}<v>。",), v=host),
        s(("<v> {people|guests} {come|will come|are invited}.",), ("有<v>人参加。",), v=guests),
        s(("{The city is|It takes place in|It happens in} <v>.",), ("在<v>举行。", "城市是<v>。"), v=city),
    ]  # fmt: skip
    return fields, lines


def anything(c: Context) -> tuple[list[Field], list[str]]:
    """Made-up keys with made-up values."""
    r = c.r
    fields: list[Field] = []
    lines = []
    for _ in range(r.randint(2, 6)):
        key = c.draw(lambda: made_up_word(r, 2) if r.random() < 0.7 else f"{made_up_word(r, 1)}_{made_up_word(r, 2)}")
        kind = r.choice(("integer", "string", "string", "string"))
        value: Any = c.draw(lambda: r.randrange(10 ** r.randint(1, 4))) if kind == "integer" else (
            c.code() if r.random() < 0.3 else made_up_hanzi(r) if c.zh and r.random() < 0.5 else c.name() if r.random() < 0.5 else c.word())  # fmt: skip
        if kind == "string" and str(value).isdigit():
            continue
        if any(f[0] == key for f in fields):
            continue
        fields.append((key, kind, value))
        shown = key.replace("_", " ") if r.random() < 0.3 else key
        lines.append(
            c.ask(("{The |}<k> is <v>.", "<k>: <v>.", "<k> = <v>."), ("<k>是<v>。", "<k>：<v>。"), k=shown, v=value)
        )
    if not fields:
        return anything(c)
    return fields, lines


def order(c: Context) -> tuple[list[Field], list[str]]:
    r = c.r
    wanted = r.sample(FOODS[:30], r.randint(1, 3))
    counts = [r.randint(2, 20) for _ in wanted]
    name, city = c.name(), c.city()
    listed = [c.pick(w) if c.zh else plural(w[0]) for w in wanted]
    fields: list[Field] = [
        (r.choice(("customer", "name", "buyer")), "string", name),
        ("items", "array", listed),
        (r.choice(("city", "destination", "address")), "string", city),
        ("order_id", "string", c.code()),
    ]
    things = ("、" if c.zh else ", ").join(listed)
    del counts
    lines = [
        c.ask(("{The customer is|The order is from|The buyer is} <v>.",), ("{顾客是|订单来自}<v>。",), v=name),
        c.ask(("{The items are|Please send|The order contains} <v>.",), ("{商品有|请寄|订单包括}<v>。",), v=things),
        c.ask(("{Send it to|It goes to|Deliver to} <v>.",), ("{寄到|送到}<v>。",), v=city),
        c.ask(("{The order number is|Order} <v>.",), ("订单号{是|}<v>。",), v=fields[3][2]),
    ]  # fmt: skip
    return fields, lines


def to_json(c: Context) -> Exchange:
    r = c.r
    maker = r.choice((person, person, person, product, product, event, event, anything, anything, order))
    fields, lines = maker(c)
    told = (
        set(range(len(fields)))
        if len(fields) <= 3
        else {0, *r.sample(range(1, len(fields)), r.randint(1, min(5, len(fields) - 1)))}
    )
    asked = [i for i in sorted(told) if r.random() < 0.85] or [min(told)]
    absent = [i for i in range(len(fields)) if i not in told]
    if absent and r.random() < 0.1:
        asked.append(r.choice(absent))
    if r.random() < 0.3:
        r.shuffle(asked)
    order_of_lines = sorted(told)
    if r.random() < 0.25:
        order_of_lines = [order_of_lines[0], *r.sample(order_of_lines[1:], len(order_of_lines) - 1)]
    text = ("" if c.zh else " ").join(lines[i] for i in order_of_lines)
    if maker is person and not c.zh and r.random() < 0.35 and {0, 1, 2} <= told:
        rest = " ".join(lines[i] for i in order_of_lines if i > 2)
        joined = r.choice(
            (
                "{n} is {a} years old and lives in {v}.",
                "{n} is {a} and lives in {v}.",
                "{n}, {a}, from {v}.",
                "I am {n}, {a} years old, from {v}.",
                "{n} ({a}) lives in {v}.",
            )
        )
        text = (joined.format(n=fields[0][2], a=fields[1][2], v=fields[2][2]) + " " + rest).strip()
    answer = json.dumps({fields[i][0]: fields[i][2] if i in told else None for i in asked}, ensure_ascii=False)
    return exchange(
        c.switched(quiet=True),
        _wish(c, [fields[i] for i in asked], text),
        answer,
        _think(c, [fields[i] for i in asked], told, asked),
    )


def _think(c: Context, fields: list[Field], told: set[int], asked: list[int]) -> str:
    keys = ", ".join(f[0] for f in fields)
    del told, asked
    return c.tell("The keys are <k>.", "需要的键是<k>。", k=keys)


def _wish(c: Context, fields: list[Field], text: str) -> str:
    """How people ask for JSON: a list of keys, an example of the shape, or a JSON schema."""
    r = c.r
    keys = [f[0] for f in fields]
    kind = r.random()
    listed = (
        ", ".join(keys)
        if r.random() < 0.7 or len(keys) == 1
        else ", ".join(keys[:-1]) + (" 和 " if c.zh else " and ") + keys[-1]
    )
    if kind < 0.2:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {
                k: ({"type": t, "items": {"type": "string"}} if t == "array" else {"type": t}) for k, t, _ in fields
            },
        }
        if r.random() < 0.7:
            schema["required"] = keys
        if r.random() < 0.3:
            schema["additionalProperties"] = False
        return c.ask(
            ("{Extract|Return|Give me} {JSON|a JSON object|the data as JSON} {by|for|that matches|following} this schema: <s>\n{Text: |}<t>", "<t>\n{Return JSON by|Use|Answer with JSON for} this {JSON |}schema: <s>"),
            ("{请|}按{照|}这个{JSON |}{schema|模式}{提取|返回}JSON：<s>\n{文本：|}<t>", "<t>\n{请|}按{照|}这个模式返回JSON：<s>"), s=json.dumps(schema), t=text)  # fmt: skip
    if kind < 0.35:
        shape = json.dumps(
            {k: (["string"] if t == "array" else t if r.random() < 0.9 else "...") for k, t, _ in fields}
        )
        return c.ask(
            ("{Extract|Return|Give me} {JSON|a JSON object} {like|of the form|in this format} <s>{ from|:| from this text:} <t>", "<t>\n{Write|Return} {it|this} as JSON: <s>"),
            ("{请|}{按|按照}{格式|}<s>{提取|返回}JSON：<t>", "<t>\n{请|}写成JSON：<s>"), s=shape, t=text)  # fmt: skip
    quote = r.choice(("", "", '"'))
    if quote:
        listed = ", ".join(f'"{k}"' for k in keys)
    return c.ask(
        ("{Extract|Please extract|Get|Pull out} <k> {as JSON|in JSON|to JSON|into JSON|as a JSON object}{:| from this text:| from:} <t>", "{Return|Give me|Write|Output|Create} {a |}JSON {object |}with {the |}{key|keys|field|fields} <k>{:| for:| from this text:} <t>",
         "<t>\n{Extract|Return|Give me} <k> {as JSON|in JSON format|as a JSON object}.", "{Turn|Convert|Transform} {this|this text|the text|the following} {in|}to JSON with {the |}{key|keys|fields} <k>: <t>",
         "Text: <t>\nKeys: <k>\nJSON:", "Extract the {data|information} {as JSON |}({keys|fields}: <k>): <t>"),
        ("{请|}{提取|抽取|找出}<k>{，|}{用|以|并以}JSON{格式|}{返回|输出|回答}：<t>", "<t>\n{请|}{提取|返回|给出}<k>{的JSON|，用JSON格式}。", "{请|}把{下面的文字|这段话}{变成|转换成|转成}JSON，{键|字段}是<k>：<t>", "文本：<t>\n字段：<k>\nJSON："),
        k=listed, t=text,
    )  # fmt: skip
