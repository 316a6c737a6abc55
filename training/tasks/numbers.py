# ruff: noqa: E501 - tables of phrases, one a line
"""Counting, arithmetic, comparisons and units."""

from __future__ import annotations

from training.core import Context, Exchange, exchange
from training.words import FOODS, plural

SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
DIGITS_ZH = "零一二三四五六七八九"


def spelled(n: int, zh: bool) -> str:
    """A number from 0 to 99 in words."""
    tens, ones = divmod(n, 10)
    if zh:
        if n < 10:
            return DIGITS_ZH[n]
        return (DIGITS_ZH[tens] if tens > 1 else "") + "十" + (DIGITS_ZH[ones] if ones else "")
    if n < 20:
        return SMALL[n]
    return TENS[tens] + (f"-{SMALL[ones]}" if ones else "")


def count_range(c: Context) -> Exchange:
    r = c.r

    def make() -> tuple[int, int, int]:
        length, step = r.choice((r.randint(2, 12), r.randint(2, 12), r.randint(8, 25))), 1
        if r.random() < 0.3:
            step, length = r.choice((2, 2, 3, 5, 10)), r.randint(2, 11)
        start = r.choice((1, 1, r.randint(0, 20), r.randint(0, 100)))
        return start, start + step * length, step

    start, end, step = c.draw(make)
    if c.chance(0.005) and not c.test:
        start, end, step = 1, r.choice((30, 40, 50, 60, 100)), 1
    down = c.chance(0.3)
    numbers = [str(n) for n in range(start, end + 1, step)]
    if down:
        numbers.reverse()
    first, last = numbers[0], numbers[-1]
    by, by_zh = (
        (f" {r.choice(('in steps of', 'by', 'in steps of'))} {step}", f"，每次{r.choice(('加', '隔', '数'))}{step}")
        if step > 1
        else ("", "")
    )
    if down and step > 1:
        by_zh = f"，每次减{step}"
    en = [
        "{|Please |Can you |Could you |I want you to }{count|Count} {down |backwards |}from <a> {down |}to <b><by>{.|}"
        if down
        else "{|Please |Can you |Could you }{count|Count} {up |}from <a> {up |}to <b><by>{.|}",
        "{List|Write|Say|Show|Give me|Print|Write down} {all |}the numbers from <a> {down |}to <b><by>."
        if down
        else "{List|Write|Say|Show|Give me|Print|Write down|Enumerate} {all |}{the |}{numbers|integers} {from|between} <a> {to|and} <b><by>.",
    ]
    zh = (["{请|}{倒数|倒着数}：从<a>{数|}到<b><by>。", "{请|}从<a>倒数到<b><by>。"] if down else
          ["{请|请你|帮我|}从<a>数到<b><by>。", "{请|}{数一数|列出|写出|说出}从<a>到<b>的{数字|数|整数}<by>。", "{请|}数数：<a>到<b><by>。"])  # fmt: skip
    if start == 1 and step == 1 and not down:
        en.append("{Count|Please count|Can you count|count} to <b>{.|}")
        zh.append("{请|}数到<b>。")
    user = c.ask(en, zh, a=first, b=last, by=by_zh if c.zh else by)
    think = c.tell("I count from <a> to <b> by <s>.", "我从<a>数到<b>，间隔是<s>。", a=first, b=last, s=step)
    return exchange(c, user.replace("between " + first + " to", "between " + first + " and"),
                    ("、" if c.answer_zh else ", ").join(numbers), think)  # fmt: skip


def add_or_subtract(c: Context) -> Exchange:
    r = c.r
    top = r.choice((10, 100, 100, 100, 100, 100, 1000)) if not c.test else 100
    op = r.choice("++-")
    a, b = c.draw(lambda: (r.randrange(top), r.randrange(top)))
    return _arithmetic(c, a, op, b)


def addition(c: Context) -> Exchange:
    a, b = c.draw(lambda: (c.r.randrange(10, 100), c.r.randrange(10, 100)))
    return _arithmetic(c, a, "+", b)


def _arithmetic(c: Context, a: int, op: str, b: int) -> Exchange:
    r = c.r
    result = a + b if op == "+" else a - b
    named = max(a, b) < 100 and r.random() < 0.07
    x, y = (spelled(a, c.zh), spelled(b, c.zh)) if named else (a, b)
    sign = r.choice((op, op, f" {op} ", f" {op} ", f" {op} "))
    word, word_zh = ("plus", "加") if op == "+" else ("minus", "减")
    if named:
        sign = word_zh if c.zh else f" {word} "
    slots = {"x": x, "y": y, "s": sign, "w": word, "v": word_zh}
    en = [
        "{What is|What's|What does|Calculate|Compute|How much is|What is the result of|Can you calculate|Work out|Solve} <x><s><y>{?|.| please?|}",
        "<x><s><y>{=|= ?| =|?|| = ?|=?}",
        "What is <x> <w> <y>?",
        "{How much is|Calculate} <x> <w> <y>{?|.|}",
        "{What do you get|What is it} {when you|if you|if I} {add <x> and <y>|add <y> to <x>}?"
        if op == "+"
        else "{What do you get|What is left|What remains} {when you|if you|if I} {subtract|take} <y> from <x>?",
        "{Add|Please add|Can you add} <x> and <y>." if op == "+" else "{Subtract|Please subtract} <y> from <x>.",
        "{What is|Find|Give me} the {sum|total} of <x> and <y>."
        if op == "+"
        else "What is the difference between <x> and <y>?"
        if result >= 0
        else "What is <x> minus <y>?",
        "{Do you know|Tell me} {what |}<x><s><y>{ is|}{?|.}",
    ]
    zh = [
        "<x><s><y>{等于多少|等于几|是多少|=|=?|= ?|得多少|等于？|}{？|?|}",
        "<x><v><y>{等于多少|等于几|是多少|得多少}{？|?|}",
        "{请|请你|帮我|麻烦你|}{计算|算一下|算|算算|求}{|：|一下}<x><s><y>{。|等于多少？|}",
        "<x>和<y>的和是多少？" if op == "+" else "<x>减去<y>是多少？",
        "{把|}<x>和<y>{相加|加起来}{是多少|等于多少|得多少}？"
        if op == "+"
        else "从<x>里减去<y>{还剩多少|等于多少}？",
    ]
    user = c.ask(en, zh, **slots)
    return exchange(c, user, f"{a} {op} {b} = {result}", _column(c, a, op, b, result), str(result))


def _column(c: Context, a: int, op: str, b: int, result: int) -> str:
    if op == "+" and a < 100 and b < 100:
        (at, ao), (bt, bo) = divmod(a, 10), divmod(b, 10)
        return f"{ao} + {bo} = {ao + bo}. {at * 10} + {bt * 10} = {(at + bt) * 10}. {(at + bt) * 10} + {ao + bo} = {result}."
    return c.tell(
        "The user wants <a> <o> <b>. That is <n>.", "用户要算<a> <o> <b>。结果是<n>。", a=a, o=op, b=b, n=result
    )


def multiply(c: Context) -> Exchange:
    r = c.r
    a, b = c.draw(
        lambda: r.choice(
            (
                (r.randint(0, 12), r.randint(0, 12)),
                (r.randint(10, 99), r.randint(2, 9)),
                (r.randint(10, 99), r.randint(10, 99)),
            )
        )
    )
    if r.random() < 0.5:
        a, b = b, a
    sign = r.choice((" x ", " x ", " * ", " × ", "x", "*", "×"))
    user = c.ask(
        ("{What is|What's|Calculate|Compute|How much is|Work out} <a><s><b>{?|.|}", "<a><s><b>{=|= ?| =|?|}", "What is <a> times <b>?",
         "{Multiply|Please multiply} <a> {by|and} <b>.", "What is the product of <a> and <b>?"),
        ("<a><s><b>{等于多少|是多少|=|=?}{？|}", "<a>乘以<b>{等于多少|是多少|等于几}{？|}", "{请|帮我|}{计算|算一下}<a><s><b>{。|}", "<a>和<b>的积是多少？"),
        a=a, b=b, s=sign,
    )  # fmt: skip
    if a < 10 or b < 10 or (a <= 12 and b <= 12):
        big, small = max(a, b), min(a, b)
        steps = f"{big // 10 * 10} x {small} = {big // 10 * 10 * small}. {big % 10} x {small} = {big % 10 * small}. {big // 10 * 10 * small} + {big % 10 * small} = {a * b}."
        return exchange(c, user, f"{a} x {b} = {a * b}", steps if big > 9 else "", str(a * b))
    tens, ones = b // 10 * 10, b % 10
    answer = f"{a} x {tens} = {a * tens}, {a} x {ones} = {a * ones}, {a * tens} + {a * ones} = {a * b}. {c.tell('So', '所以')} {a} x {b} = {a * b}"
    return exchange(c, user, answer, f"{b} = {tens} + {ones}.", None)


def divide(c: Context) -> Exchange:
    r = c.r
    a, b = c.draw(lambda: (r.randint(1, 12), r.randint(1, 12)))
    user = c.ask(
        ("{What is|Calculate|Compute|How much is} <p>{ / |/| divided by | ÷ }<b>{?|.|}", "<p>{ / |/| ÷ }<b>{=| =|}", "Divide <p> by <b>."),
        ("<p>{除以|/| ÷ | / }<b>{等于多少|是多少|等于几}{？|}", "{请|}{计算|算一下}<p>{/|÷|除以}<b>。"),
        p=a * b, b=b,
    )  # fmt: skip
    return exchange(c, user, f"{a * b} / {b} = {a}", f"{a} x {b} = {a * b}.", str(a))


def compare(c: Context) -> Exchange:
    r = c.r
    kind = r.randrange(3)
    if kind == 0:
        a, b = c.draw(
            lambda: tuple(
                r.sample(range(r.choice((10, 100, 1000))), 2) if r.random() < 0.9 else r.sample(range(10), 2)
            )
        )
        larger = c.chance(0.6)
        en = ("Which {number |}is {larger|bigger|greater}, <a> or <b>?", "{What is|Tell me} the larger {number |}of <a> and <b>{?|.}") if larger else (
            "Which {number |}is {smaller|less}, <a> or <b>?",)  # fmt: skip
        zh = (
            ("<a>和<b>{哪个|哪一个|谁}{大|更大|比较大}？",)
            if larger
            else ("<a>和<b>{哪个|哪一个|谁}{小|更小|比较小}？",)
        )
        best = max(a, b) if larger else min(a, b)
        other = a + b - best
        answer = c.tell(
            "<x> is {larger|larger} than <y>." if larger else "<x> is smaller than <y>.",
            "<x>比<y>大。" if larger else "<x>比<y>小。",
            x=best,
            y=other,
        )
        return exchange(c, c.ask(en, zh, a=a, b=b), answer, "", str(best))
    if kind == 1:
        n = c.draw(lambda: r.randrange(r.choice((10, 100, 1000))))
        user = c.ask(
            ("Is <n> {even or odd|odd or even}?", "Is <n> {an even|an odd} number?"),
            ("<n>是{奇数还是偶数|偶数还是奇数|双数还是单数}？",),
            n=n,
        )
        answer = c.tell("<n> is <w>.", "<n>是<v>。", n=n, w="odd" if n % 2 else "even", v="奇数" if n % 2 else "偶数")
        return exchange(c, user, answer, c.tell("The last digit is <d>.", "最后一位是<d>。", d=n % 10))
    n, after = r.randrange(100), c.chance(0.6)
    user = c.ask(("What {number |}comes <w> <n>?", "{Which|What} number is {right |directly |}<w> <n>?"), ("<n>{的|}<v>{一个数|}是{什么|几|多少}？",),
                 n=n, w="after" if after else "before", v="后面" if after else "前面")  # fmt: skip
    m = n + 1 if after else n - 1
    return exchange(c, user, c.tell("The number is <m>.", "是<m>。", m=m), "", str(m))


UNITS: tuple[tuple[str, str, str, str, int], ...] = (
    ("kilometer", "公里", "meter", "米", 1000), ("meter", "米", "centimeter", "厘米", 100), ("centimeter", "厘米", "millimeter", "毫米", 10),
    ("kilogram", "公斤", "gram", "克", 1000), ("ton", "吨", "kilogram", "公斤", 1000), ("hour", "小时", "minute", "分钟", 60),
    ("minute", "分钟", "second", "秒", 60), ("day", "天", "hour", "小时", 24), ("week", "星期", "day", "天", 7),
    ("year", "年", "month", "个月", 12), ("liter", "升", "milliliter", "毫升", 1000), ("dollar", "美元", "cent", "美分", 100),
    ("dozen", "打", "piece", "个", 12), ("meter", "米", "millimeter", "毫米", 1000), ("kilobyte", "千字节", "byte", "字节", 1000),
)  # fmt: skip


def units(c: Context) -> Exchange:
    r = c.r
    (big, big_zh, small, small_zh, factor), n = c.draw(
        lambda: (r.choice(UNITS), r.choice((1, r.randint(2, 9), r.randint(2, 9), r.randint(10, 20))))
    )
    if c.chance(0.25) and n * factor < 10000:
        user = c.ask(("How many {<b>s|<b>s} are <m> <s>s?", "Convert <m> <s>s to <b>s."), ("<m><t>{是|等于}{多少|几}<v>？",),
                     m=n * factor, b=big, s=small, t=small_zh, v=big_zh)  # fmt: skip
        think = c.tell(
            "One <b> is <f> <s>s. <m> / <f> = <n>.",
            "1<v>是<f><t>。<m> / <f> = <n>。",
            b=big,
            f=factor,
            s=small,
            m=n * factor,
            n=n,
            v=big_zh,
            t=small_zh,
        )
        answer = c.tell(
            "<m> <s>s = <n> <b><e>",
            "<m><t> = <n><v>",
            m=n * factor,
            s=small,
            n=n,
            b=big,
            e="" if n == 1 else "s",
            t=small_zh,
            v=big_zh,
        )
        return exchange(c, user, answer, think, str(n))
    amount = ("a" if big != "hour" else "an") if n == 1 and r.random() < 0.6 else n
    slots = {"n": amount, "b": big + ("" if n == 1 else "s"), "s": small + "s", "v": big_zh, "t": small_zh, "m": n}
    user = c.ask(
        ("How many <s> are {in|there in} <n> <b>?", "{Convert|Change} <n> <b> {to|into} <s>.", "{What is|How much is} <n> <b> in <s>?", "How many <s> does <n> <b> have?"),
        ("<m><v>{是|等于|有}多少<t>？", "{请|}把<m><v>{换算成|转换成|变成}<t>。"),
        **slots,
    )  # fmt: skip
    think = c.tell(
        "One <b> is <f> <s>. <n> x <f> = <x>.",
        "1<v>是<f><t>。<n> x <f> = <x>。",
        b=big,
        f=factor,
        s=small + "s",
        n=n,
        x=n * factor,
        v=big_zh,
        t=small_zh,
    )
    answer = c.tell(
        "<n> <b> = <x> <s>", "<n><v> = <x><t>", n=n, b=slots["b"], x=n * factor, s=small + "s", v=big_zh, t=small_zh
    )
    return exchange(c, user, answer, think, str(n * factor))


def word_problem(c: Context) -> Exchange:
    r = c.r
    a, b = c.draw(lambda: (r.randint(2, 60), r.randint(1, 40)))
    name, (noun, noun_zh) = c.name(), r.choice(FOODS[:16])
    gain = a < b or c.chance(0.5)
    total = a + b if gain else a - b
    if gain:
        en = (
            "<p> has <a> <n> and {buys|gets|finds|receives} <b> more. How many <n> does <p> have{ now|}?",
            "There are <a> <n> in one basket and <b> <n> in another. How many <n> are there{ in all| altogether|}?",
        )
        zh = ("<p>有<a>个<m>，又{买了|得到了|找到了}<b>个。<p>{现在|一共}有{多少|几}个<m>？",)
    else:
        en = (
            "<p> has <a> <n> and {eats|gives away|loses|sells} <b>{ of them|}. How many <n> {does <p> have left|are left}?",
        )
        zh = ("<p>有<a>个<m>，{吃了|送了|丢了|卖了}<b>个。还剩{多少|几}个<m>？",)
    user = c.ask(en, zh, p=name, a=a, b=b, n=plural(noun), m=noun_zh)
    sign = "+" if gain else "-"
    answer = c.tell(
        "<a> <s> <b> = <t>. The answer is <t> <n>.",
        "<a> <s> <b> = <t>。答案是<t>个<m>。",
        a=a,
        s=sign,
        b=b,
        t=total,
        n=plural(noun),
        m=noun_zh,
    )
    return exchange(
        c,
        user,
        answer,
        c.tell("I have to calculate <a> <s> <b>.", "我要计算<a> <s> <b>。", a=a, s=sign, b=b),
        str(total),
    )
