# ruff: noqa: E501 - tables of phrases, one a line
"""Reversing, sorting and picking from lists; how many items."""

from __future__ import annotations

from training.core import Context, Exchange, exchange
from training.words import ANIMALS, COLORS, FOODS, NOUNS, THINGS, made_up_hanzi


def items(c: Context, low: int = 2, high: int = 8, *, distinct: bool = False) -> tuple[list[str], bool]:
    """A list of numbers, letters, words or names, and whether it is numeric."""
    r = c.r
    size, kind = r.randint(low, high), r.random()
    if kind < 0.4:
        top = r.choice((10, 20, 100, 100, 100, 1000))
        numbers = (
            r.sample(range(top), min(size, top))
            if distinct or r.random() < 0.7
            else [r.randrange(top) for _ in range(size)]
        )
        return [str(n) for n in numbers], True
    if kind < 0.5 and not c.zh:
        return r.sample(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if r.random() < 0.5 else "abcdefghijklmnopqrstuvwxyz", size
        ), False
    if kind < 0.62:
        chosen = [c.name() for _ in range(size)]
    elif c.zh:
        chosen = [made_up_hanzi(r, 2) if r.random() < 0.25 else r.choice(NOUNS)[1] for _ in range(size)]
    elif kind < 0.8:
        pool = r.choice((ANIMALS, FOODS, THINGS, COLORS))
        chosen = [e for e, _ in r.sample(pool, min(size, len(pool)))]
    else:
        chosen = [c.word() for _ in range(size)]
    return (list(dict.fromkeys(chosen)) if distinct else chosen), False


def written(c: Context, values: list[str]) -> tuple[str, str]:
    """The list as the user types it, and the separator the answer uses."""
    r = c.r
    roll = r.random()
    if c.zh and roll < 0.6:
        return "、".join(values), "、"
    if c.zh and roll < 0.75:
        return "，".join(values), "、"
    if roll < 0.12:
        return "[" + ", ".join(values) + "]", ", "
    if roll < 0.2:
        return " ".join(values), ", "
    if roll < 0.26 and not c.zh and len(values) > 1:
        return ", ".join(values[:-1]) + " and " + values[-1], ", "
    if roll < 0.3:
        return ",".join(values), ", "
    return ", ".join(values), ", "


def _numbers_or_words(c: Context, numeric: bool) -> tuple[str, str]:
    r = c.r
    return (
        (r.choice(("list", "list", "numbers")), r.choice(("列表", "数字")))
        if numeric
        else (r.choice(("list", "list", "words", "items")), r.choice(("列表", "词", "清单")))
    )


def reverse(c: Context) -> Exchange:
    values, numeric = c.draw(lambda: items(c))
    text, sep = written(c, values)
    noun, noun_zh = _numbers_or_words(c, numeric)
    user = c.ask(
        ("{Reverse|Please reverse|Can you reverse|Invert|Flip|Turn around} {|the order of |}{this <n>|the <n>|these|the following|the following <n>}{:|: } <l>",
         "Reverse {|the list |the order: |}<l>", "{Write|Put|Say|Give me|Show|Print} {this <n>|the <n>|these|the following <n>} {backwards|in reverse order|in reverse|in the opposite order}: <l>",
         "<l>{.|:|;|} {reverse|Reverse} {this|it|the list|the order|that}{.|, please.|}", "What is <l> {in reverse order|backwards|reversed}?",
         "Here is {a|my} list: <l>. {Reverse it|Write it backwards|Give it back in reverse order}."),
        ("{请|请你|帮我|}{反转|倒转|颠倒|翻转|逆序排列}{这个<m>|下面的<m>|以下<m>|}：<l>", "{请|}把{这个<m>|下面的<m>|}{反过来|倒过来|反转|倒序}{写|排列|}：<l>",
         "{请|}把<l>{反过来|倒过来|反转|倒序排列}。", "<l>{，|。}{请|}{反转|倒过来|倒序}{一下|}。"),
        l=text, n=noun, m=noun_zh,
    )  # fmt: skip
    answer = sep.join(reversed(values))
    think = c.tell(
        "There are <k> items. The last one is <x>, so I start with it.",
        "一共有<k>项。最后一项是<x>，从它开始。",
        k=len(values),
        x=values[-1],
    )
    return exchange(c.switched(quiet=True), user, answer, think)


def sort(c: Context) -> Exchange:
    r = c.r
    c_en = c if not c.zh or r.random() < 0.2 else None
    if c_en is None:
        values, numeric = c.draw(
            lambda: ([str(n) for n in r.sample(range(r.choice((20, 100, 100, 1000))), r.randint(2, 8))], True)
        )
    else:
        values, numeric = c.draw(lambda: items(c.switched(zh=False), 2, 7, distinct=True))
    down = r.random() < (0.35 if numeric else 0.15)
    text, sep = written(c, values)
    if numeric:
        how, how_zh = (r.choice((" in descending order", " from large to small", " from highest to lowest", " from largest to smallest", " descending")), r.choice(("从大到小", "降序", "由大到小"))) if down else (
            r.choice(("", "", " in ascending order", " from small to large", " from lowest to highest", " from smallest to largest", " ascending", " in order")), r.choice(("", "从小到大", "升序", "由小到大", "按大小")))  # fmt: skip
    else:
        how, how_zh = (
            (r.choice((" in reverse alphabetical order", " from Z to A")), "按字母倒序")
            if down
            else (
                r.choice(
                    (
                        "",
                        " alphabetically",
                        " alphabetically",
                        " in alphabetical order",
                        " from A to Z",
                        " by the alphabet",
                    )
                ),
                "按字母顺序",
            )
        )
    noun, _ = _numbers_or_words(c, numeric)
    user = c.ask(
        ("{Sort|Please sort|Can you sort|Order|Arrange|Put in order|sort} {these <n>|this list|the list|the following|these|}<h>: <l>", "Sort <l><h>{.|}",
         "<l>{.|:|} {Sort|sort} {this|it|them|the list}<h>{.|}", "{Put|Bring} {these|these <n>|this list} in {order|the right order}<h>: <l>"),
        ("{请|请你|帮我|}{把|将}{这些|下面的|以下|}{数字|数|内容|列表}<i>{排序|排列|排好}：<l>", "{请|}<i>{排序|排列}：<l>", "{请|}把<l><i>{排序|排列}。"),
        l=text, n=noun, h=how, i=how_zh,
    )  # fmt: skip
    ordered = sorted(values, key=(lambda v: (int(v), "")) if numeric else (lambda v: (0, v.lower())), reverse=down)
    think = c.tell("The first is <x> and the last is <y>.", "最前面是<x>，最后面是<y>。", x=ordered[0], y=ordered[-1])
    return exchange(c.switched(quiet=True), user, sep.join(ordered), think)


def how_many(c: Context) -> Exchange:
    values, _ = c.draw(lambda: items(c, 1, 10))
    text, sep = written(c, values)
    user = c.ask(
        ("How many {items|things|elements|entries|words} are {in|on} {this|the} list{: <l>|? <l>}", "Count the {items|elements|entries}{: <l>| in this list: <l>}",
         "How many {items|elements} does {this|the} list have? <l>", "{How long is|What is the length of} {this|the} list{: <l>|? <l>}"),
        ("{这个列表|下面的列表|清单里}有{几|多少}{项|个}：<l>", "{数一数|数一下}{有几项|有多少项|有几个}：<l>", "<l>，一共有{几|多少}{个|项}？"),
        l=text,
    )  # fmt: skip
    counted = sep.join(f"{i}. {v}" for i, v in enumerate(values, 1))
    answer = c.tell(
        "There <b> <n> item<s>.",
        "一共有<n>项。",
        b="is" if len(values) == 1 else "are",
        n=len(values),
        s="" if len(values) == 1 else "s",
    )
    return exchange(c.switched(quiet=True), user, answer, counted, str(len(values)))


ORDINALS = (
    ("first", "第一个"),
    ("second", "第二个"),
    ("third", "第三个"),
    ("fourth", "第四个"),
    ("fifth", "第五个"),
    ("sixth", "第六个"),
)


def pick_item(c: Context) -> Exchange:
    r = c.r
    values, numeric = c.draw(lambda: items(c, 2, 7, distinct=True))
    text, _ = written(c, values)
    kinds = ["nth", "last", "after"] + (["max", "min", "max", "min"] if numeric else [])
    kind = r.choice(kinds) if len(values) > 1 else "last"
    if kind == "nth":
        i = r.randrange(min(len(values), 6))
        (en, zh), best = ORDINALS[i], values[i]
    elif kind == "last":
        en, zh, best = "last", "最后一个", values[-1]
    elif kind == "after":
        i = r.randrange(len(values) - 1)
        user = c.ask(
            (
                "{What|Which item} comes {after|right after} <x> in {this|the} list: <l>{?|}",
                "In the list <l>, what comes after <x>?",
            ),
            ("在<l>里，<x>后面是{什么|哪个}？",),
            x=values[i],
            l=text,
        )
        return exchange(c.switched(quiet=True), user, values[i + 1])
    elif kind == "max":
        en, zh, best = r.choice(("largest", "biggest", "highest")), "最大的", max(values, key=int)
    else:
        en, zh, best = r.choice(("smallest", "lowest")), "最小的", min(values, key=int)
    noun = "number" if kind in ("max", "min") else r.choice(("item", "element", "entry"))
    user = c.ask(
        ("{What is|What's|Tell me|Give me|Find} the <o> <n> {of|in} {this|the} list{: <l>|? <l>}", "{Which is|What is} the <o>{ <n>|}{ of| in}{:|} <l>{?|}", "Take the <o> <n>{ of this list|}: <l>"),
        ("{这个列表|下面列表}{里|中}<o>{是什么|是哪个|是多少}：<l>", "<l>{里|中}<o>是{什么|哪个}？", "{请|}{找出|给出}<o>：<l>"),
        o=zh if c.zh else en, n=noun, l=text,
    )  # fmt: skip
    return exchange(c.switched(quiet=True), user, best)


def edit(c: Context) -> Exchange:
    """Remove or append an item, or join a list with another separator."""
    r = c.r
    values, _ = c.draw(lambda: items(c, 2, 6, distinct=True))
    text, sep = written(c, values)
    kind = r.randrange(3)
    if kind == 0 and len(values) > 1:
        x = r.choice(values)
        user = c.ask(
            ("{Remove|Delete|Drop|Take out} <x> from {this|the} list: <l>",),
            ("{从列表里|}{去掉|删除|删掉}<x>：<l>",),
            x=x,
            l=text,
        )
        return exchange(c.switched(quiet=True), user, sep.join(v for v in values if v != x))
    if kind == 1:
        x = c.word() if not c.zh else r.choice(NOUNS)[1]
        user = c.ask(
            ("{Add|Append} <x> to {this|the} list: <l>",), ("{在列表里加上|在末尾加上|添加}<x>：<l>",), x=x, l=text
        )
        return exchange(c.switched(quiet=True), user, sep.join([*values, x]))
    mark, en, zh = r.choice(
        (
            ("-", "a dash", "短横线"),
            ("; ", "a semicolon", "分号"),
            (" ", "a space", "空格"),
            ("/", "a slash", "斜线"),
            ("\n", "a line break", "换行"),
            ("+", "a plus sign", "加号"),
        )
    )
    user = c.ask(
        ("{Join|Write|Combine} {these|these items|this list} {with|separated by} <m>: <l>",),
        ("{用|以}<m>{连接|分隔}：<l>",),
        m=zh if c.zh else en,
        l=text,
    )
    return exchange(c.switched(quiet=True), user, mark.join(values))


def follow_up(c: Context) -> Exchange:
    """A list and then a second wish about it, which only says `it`."""
    r = c.r
    values = c.draw(lambda: [str(n) for n in r.sample(range(r.choice((20, 100))), r.randint(3, 6))])
    text, sep = written(c, values)
    first = exchange(
        c.switched(quiet=True),
        c.ask(("Sort {this list|these numbers}: <l>", "Sort <l>"), ("把这些数字排序：<l>", "排序：<l>"), l=text),
        sep.join(ordered := sorted(values, key=int)),
    )
    kind = r.randrange(3)
    if kind == 0:
        ask, answer = (
            c.ask(
                ("{Now|And now|Please} reverse {it|that|the result|the list}.", "And in reverse{ order|}?"),
                ("{现在|再|请}{把它|}{反过来|反转}。", "倒过来呢？"),
            ),
            sep.join(reversed(ordered)),
        )
    elif kind == 1:
        ask, answer = (
            c.ask(("{What is|Which is} the {largest|biggest}{ one| number|}?",), ("最大的是{哪个|多少}？",)),
            ordered[-1],
        )
    else:
        ask, answer = (
            c.ask(("{What is|Which is} the smallest{ one| number|}?",), ("最小的是{哪个|多少}？",)),
            ordered[0],
        )
    return first + exchange(c.switched(quiet=True), ask, answer)
