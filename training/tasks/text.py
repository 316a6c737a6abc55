# ruff: noqa: E501 - tables of phrases, one a line
"""Spelling, upper and lower case, plurals, repeating, replacing."""

from __future__ import annotations

from training.core import Context, Exchange, exchange
from training.words import ADJECTIVES, COLORS, JOBS, NOUNS, THINGS, made_up_hanzi, plural


def _some_word(c: Context) -> str:
    """Held-out instances are made-up words, so that no token goes without training."""
    while True:
        word = c.word()
        if not c.test or word not in {e for e, _ in NOUNS}:
            return word


def sentence(c: Context) -> str:
    """A short plain sentence with entities to copy."""
    r = c.r
    if c.zh:
        tails = (
            "的{房子|花园|学校}很{a}",
            "喜欢{n}",
            "有一只{n}",
            "住在{city}",
            "今天很{a}",
            "买了{n}和{m}",
            "是{job}",
        )
        tail = r.choice(tails).replace("{房子|花园|学校}", r.choice(("房子", "花园", "学校")))
        slots = {
            "a": r.choice(ADJECTIVES)[1],
            "n": r.choice(NOUNS)[1],
            "m": r.choice(NOUNS)[1],
            "city": c.city(),
            "job": r.choice(JOBS)[1],
        }
        for key, value in slots.items():
            tail = tail.replace("{" + key + "}", value)
        return c.name() + tail
    shapes = (
        "{name} likes the {color} {n}", "the {n} is {a} and {b}", "{name} lives in {city}", "{name} has a {a} {n}", "my {n} is {color}",
        "I saw a {a} {n} in {city}", "{name} and {other} walk to the {n}", "the {a} {n} belongs to {name}", "we need a new {n} for the {m}", "{w} {v} {u}",
    )  # fmt: skip
    text = r.choice(shapes)
    slots = {"name": c.name(), "other": c.name(), "city": c.city(), "color": r.choice(COLORS)[0], "n": r.choice(THINGS)[0], "m": r.choice(NOUNS)[0],
             "a": r.choice(ADJECTIVES)[0], "b": r.choice(ADJECTIVES)[0], "w": c.word(), "v": c.word(), "u": c.word()}  # fmt: skip
    for key, value in slots.items():
        text = text.replace("{" + key + "}", value)
    return text[0].upper() + text[1:] if r.random() < 0.6 else text


def spell(c: Context) -> Exchange:
    r = c.r
    word = c.draw(lambda: c.name() if r.random() < 0.15 and not c.zh else _some_word(c))
    word = word.split()[0]
    if not word.isascii():
        word = c.draw(lambda: _some_word(c))
    kind, quiet = r.random(), c.switched(quiet=True)
    letters = "-".join(word)
    quote = r.choice(("<w>", "<w>", '"<w>"', "'<w>'")).replace("<w>", word)
    if kind < 0.5:
        user = c.ask(
            ("{Spell|Please spell|Can you spell|spell} {|the word |out |}<q>{.|}", "How do you spell <q>?", "{What is|Give me} the spelling of <q>{?|.}", "{What are|Write|List} the letters of <q>{?|.}"),
            ("{请|}{拼写|拼一下|拼出}{单词|}<q>{。|}", "<q>{怎么拼|怎么拼写}？", "{请|}逐个字母拼出<q>。"), q=quote)  # fmt: skip
        return exchange(quiet, user, letters)
    if kind < 0.7:
        user = c.ask(
            ("{Reverse|Spell backwards|Write backwards} {|the word }<q>{.|}", "{Write|Spell|Say} <q> {backwards|in reverse}.", "What is <q> {backwards|reversed|spelled backwards}?"),
            ("{请|}{反转|倒着写|倒过来写}{单词|}<q>。", "<q>倒过来{是什么|怎么写}？"), q=quote)  # fmt: skip
        return exchange(quiet, user, word[::-1], letters)
    if kind < 0.85:
        user = c.ask(
            (
                "How many letters {does <q> have|are in <q>|are there in the word <q>}?",
                "Count the letters {in|of} <q>.",
            ),
            ("<q>有{几|多少}个字母？",),
            q=quote,
        )
        answer = c.tell("<l>: <n> letters.", "<l>：<n>个字母。", l=letters, n=len(word))
        return exchange(quiet, user, answer, letters)
    letter = r.choice(word)
    if kind < 0.93:
        user = c.ask(
            (
                "How many {times does the letter |}<x>{'s|} {are there|are|occur} in <q>?",
                "{Count|How often is} the letter <x> in <q>{.|?}",
            ),
            ("<q>里有{几|多少}个{字母|}<x>？",),
            q=quote,
            x=letter,
        )
        answer = c.tell("<l>: <n>", "<l>：<n>", l=letters, n=word.lower().count(letter.lower()))
        return exchange(quiet, user, answer, letters)
    last = c.chance(0.5)
    user = c.ask(
        (
            "{What is|Which is} the <o> letter {of|in} <q>?",
            "<q> {starts|begins} with which letter?" if not last else "Which letter is last in <q>?",
        ),
        ("<q>的<v>字母是什么？",),
        q=quote,
        o="last" if last else "first",
        v="最后一个" if last else "第一个",
    )
    return exchange(quiet, user, word[-1] if last else word[0])


def letter_case(c: Context) -> Exchange:
    r = c.r
    text = c.draw(
        lambda: (
            sentence(c.switched(zh=False))
            if r.random() < 0.6
            else " ".join(_some_word(c) for _ in range(r.choice((1, 1, 2, 3))))
        )
    )
    kind = r.choice(("upper", "upper", "lower", "title"))
    en = {
        "upper": ("upper case", "uppercase", "capital letters", "capitals", "all caps"),
        "lower": ("lower case", "lowercase", "small letters"),
        "title": ("title case",),
    }[kind]
    zh = {"upper": "大写", "lower": "小写", "title": "首字母大写"}[kind]
    if kind == "lower" and r.random() < 0.7:
        text = text.upper()
    verb = {
        "upper": "{Uppercase|Capitalize all letters of|Make uppercase}",
        "lower": "{Lowercase|Make lowercase}",
        "title": "{Capitalize each word of|Title-case}",
    }[kind]
    user = c.ask(
        ("{Write|Put|Convert|Change|Rewrite|Turn} {this|the following|the text|the sentence|it} {in|to|into} <k>: <t>", '{Write|Put|Convert|Change|Turn} "<t>" {in|to|into} <k>{.|}', verb + ": <t>", "<t>{.|} {Write|write} {this|that} in <k>."),
        ("{请|}{把|将}{下面的文字|这句话|以下内容|}{改成|转换成|变成|写成}<k>：<t>", "{请|}用<k>{写|写出}：<t>", '{请|}把"<t>"{改成|变成}<k>。'),
        k=zh if c.zh else r.choice(en), t=text,
    )  # fmt: skip
    answer = {
        "upper": text.upper(),
        "lower": text.lower(),
        "title": " ".join(w[:1].upper() + w[1:].lower() for w in text.split(" ")),
    }[kind]
    return exchange(c.switched(quiet=True), user, answer)


def plurals(c: Context) -> Exchange:
    noun = c.r.choice(NOUNS)[0] if c.chance(0.7) else c.word()
    one = c.chance(0.25)
    if one:
        user = c.ask(
            ("{What is|Give me|Write} the singular of {|the word }<n>{?|.}", "{Make|Turn} <n> singular."),
            ("<n>的单数{形式|}是什么？",),
            n=plural(noun),
        )
        return exchange(c.switched(quiet=True), user, noun)
    user = c.ask(
        ("{What is|What's|Give me|Write} the plural {of|form of} {|the word }<n>{?|.}", "{Make|Turn} <n> {|into the }plural.", "Plural of <n>{?|}", "One <n>, two ...?"),
        ("<n>的复数{形式|}{是什么|怎么写}？", "{请|}写出<n>的复数{形式|}。"), n=noun)  # fmt: skip
    return exchange(c.switched(quiet=True), user, plural(noun))


def repeat(c: Context) -> Exchange:
    r = c.r
    quiet = c.switched(quiet=True)
    if r.random() < 0.3:
        word, n = (made_up_hanzi(r) if c.zh else c.word()), r.randint(2, 6)
        user = c.ask(
            ("{Repeat|Say|Write|Print} {|the word }<w> <n> times{.|}",),
            ("{请|}{重复|把}<w>{说|写|重复}<n>{遍|次}。", "{请|}{说|写}<n>{遍|次}<w>。"),
            w=word,
            n=n,
        )
        return exchange(quiet, user, (c.tell(" ", " ")).join([word] * n))
    text = c.draw(
        lambda: (
            sentence(c)
            if r.random() < 0.7
            else (c.code() if r.random() < 0.5 else " ".join(c.word() for _ in range(r.randint(1, 5))))
        )
    )
    if text.isascii() and r.random() < 0.4:
        text += r.choice(".!?")
    user = c.ask(
        ("{Repeat|Repeat after me|Say|Echo|Copy|Write|Please repeat|Please say|Say exactly|Repeat exactly|Output}: <t>", '{Repeat|Say|Write|Echo} {|the words |the text |}"<t>"{.|}', "{Repeat|Say} this{ sentence| text|}: <t>"),
        ("{请|}{重复|跟我说|复述|说|写|照抄}{|这句话|下面的话}：<t>", '{请|}{重复|说|写}"<t>"。', "{请|}{重复|说}“<t>”。"), t=text)  # fmt: skip
    return exchange(quiet, user, text)


def replace_word(c: Context) -> Exchange:
    r = c.r
    parts = c.draw(lambda: tuple(c.word() for _ in range(r.randint(3, 6))))
    old, new = r.choice(parts), c.name() if r.random() < 0.3 else c.word()
    text = " ".join(parts)
    kind = r.randrange(3)
    if kind == 0:
        user = c.ask(
            (
                "{Replace|Change|Swap} <o> {with|by|to} <n>{ in|} {this|the following|the text}: <t>",
                "In the text <t>, replace <o> with <n>.",
            ),
            ("{请|}把<o>{换成|替换成|替换为|改成}<n>：<t>",),
            o=old,
            n=new,
            t=text,
        )
        answer = " ".join(new if p == old else p for p in parts)
    elif kind == 1:
        user = c.ask(
            ("{Remove|Delete} {|the word }<o> from {this|the text|the sentence}: <t>",),
            ("{请|}{删除|去掉}{单词|}<o>：<t>",),
            o=old,
            t=text,
        )
        answer = " ".join(p for p in parts if p != old)
    else:
        user = c.ask(
            (
                "{Put|Write} {this|the following|the text} in {double |}quotes: <t>",
                "{Quote|Add quotation marks to} this: <t>",
            ),
            ("{请|}给{这句话|下面的文字}加上{引号|双引号}：<t>",),
            t=text,
        )
        answer = f'"{text}"'
    return exchange(c.switched(quiet=True), user, answer)


def count_words(c: Context) -> Exchange:
    parts = c.draw(lambda: sentence(c.switched(zh=False)).split())
    user = c.ask(
        (
            "How many words {are in|does|are there in} {this sentence|this|the text}{ have|}: <t>",
            "Count the words{ in|}: <t>",
        ),
        ("{这句话|下面的句子}有{几|多少}个{词|单词}：<t>",),
        t=" ".join(parts),
    )
    counted = " ".join(f"{i}. {p}" for i, p in enumerate(parts, 1))
    return exchange(
        c.switched(quiet=True),
        user,
        c.tell("There are <n> words.", "一共有<n>个词。", n=len(parts)),
        counted,
        str(len(parts)),
    )
