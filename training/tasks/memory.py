# ruff: noqa: E501 - tables of phrases, one a line
"""Facts told and asked back: in one prompt, and across turns."""

from __future__ import annotations

from dataclasses import dataclass

from training.core import Context, Exchange, exchange
from training.words import ANIMALS, COLORS, DAYS, FOODS, HOBBIES, JOBS, NOUNS, THINGS, made_up_word


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing a user may say about themselves and ask back later."""

    kind: str
    say: tuple[str, ...]
    say_zh: tuple[str, ...]
    ask: tuple[str, ...]
    ask_zh: tuple[str, ...]
    recall: str
    recall_zh: str
    noted: str = ""
    noted_zh: str = ""


SLOTS = (
    Slot("name", ("My name is <v>.", "I am <v>.", "I'm <v>.", "{Call me|You can call me|I am called|People call me|They call me} <v>.", "{Hello|Hi|Hey}, {my name is|I am|I'm|this is} <v>.", "Remember my name: <v>."),
         ("我叫<v>。", "我的名字{是|叫}<v>。", "{你好|嗨}，我{叫|是}<v>。", "{叫我|你可以叫我|请叫我}<v>{吧|}。"),
         ("{What is|What's|Do you know|Do you remember|Can you tell me|Tell me} my name{?|.}", "Who am I?", "What am I called?", "{How|What} did I {call myself|say my name was}?"),
         ("我叫什么{名字|}？", "我的名字{是什么|叫什么}？", "你{还|}{记得|知道}我{叫什么|的名字}吗？", "我是谁？"),
         "Your name is <v>.", "你叫<v>。", "Nice to meet you, <v>!", "很高兴认识你，<v>！"),
    Slot("color", ("My favorite color is <v>.", "{I like the color|The color I like best is|My favourite color is} <v>{ best|}."), ("我最喜欢的颜色是<v>。", "我{最|}喜欢<v>{这个颜色|}。"),
         ("{What is|What's|Do you remember|Tell me} my favorite color{?|.}", "{Which|What} color do I like{ best|}?"), ("我最喜欢的颜色是什么？", "我{最|}喜欢{什么|哪个|哪种}颜色？"),
         "Your favorite color is <v>.", "你最喜欢的颜色是<v>。"),
    Slot("food", ("My favorite food is <v>.", "{I love to eat|I like eating|The food I like best is} <v>."), ("我最喜欢的食物是<v>。", "我{最|}{喜欢|爱}吃<v>。"),
         ("{What is|What's|Do you remember|Tell me} my favorite food{?|.}", "What do I like to eat{ best|}?"), ("我最喜欢的食物是什么？", "我{最|}{喜欢|爱}吃什么？"),
         "Your favorite food is <v>.", "你最喜欢的食物是<v>。"),
    Slot("animal", ("My favorite animal is the <v>.", "The animal I like best is the <v>."), ("我最喜欢的动物是<v>。",),
         ("{What is|What's|Do you remember|Tell me} my favorite animal{?|.}", "{Which|What} animal do I like{ best|}?"), ("我最喜欢的动物是什么？", "我{最|}喜欢{什么|哪种}动物？"),
         "Your favorite animal is the <v>.", "你最喜欢的动物是<v>。"),
    Slot("pet", ("{My <w> is called|I have a <w> called|I have a <w> named|My <w>'s name is|The name of my <w> is} <v>.",), ("我的<w>叫<v>。", "我有一只<w>，{它|}叫<v>。"),
         ("{What is|What's|Do you remember} {my <w>'s name|the name of my <w>}?", "{What is my <w> called|How is my <w> called}?"), ("我的<w>叫什么{名字|}？", "你{还|}记得我的<w>叫什么吗？"),
         "Your <w> is called <v>.", "你的<w>叫<v>。", "<v> is a nice name for a <w>!", "<v>是个好名字！"),
    Slot("city", ("I live in <v>.", "{My home is in|I am from|I come from|My city is|My home town is} <v>."), ("我住在<v>。", "我{来自|是从}<v>{来的|}。"),
         ("Where do I live?", "{Which|What} city {am I from|do I live in|do I come from}?", "{Do you remember|Tell me} where I {live|am from}{?|.}", "Where am I from?"), ("我住在{哪里|哪儿|哪个城市}？", "我来自哪里？", "我是哪里人？"),
         "You live in <v>.", "你住在<v>。"),
    Slot("age", ("I am <v> years old.", "{My age is|I turned} <v>{ this year|}.", "I'm <v> years old."), ("我{今年|}<v>岁{了|}。", "我的年龄是<v>岁。"),
         ("How old am I?", "{What is|What's|Do you remember|Tell me} my age{?|.}"), ("我{今年|}{几岁|多大|多少岁}{了|}？",),
         "You are <v> years old.", "你<v>岁。"),
    Slot("job", ("I work as a <v>.", "My job is <v>.", "I am a <v>{ by profession|}."), ("我的{工作|职业}是<v>。", "我是{一名|}<v>。"),
         ("{What is|What's|Do you remember|Tell me} my {job|profession}{?|.}", "What do I {do for a living|work as}?"), ("我的{工作|职业}是什么？", "我是做什么{工作|}的？"),
         "You work as a <v>.", "你的工作是<v>。"),
    Slot("hobby", ("My hobby is <v>.", "I {like|love|enjoy} <v>{ in my free time|}."), ("我的爱好是<v>。", "我喜欢<v>。"),
         ("{What is|What's|Do you remember|Tell me} my hobby{?|.}", "What do I {like|love|enjoy} doing{ in my free time|}?"), ("我的爱好是什么？", "我喜欢做什么？"),
         "Your hobby is <v>.", "你的爱好是<v>。"),
    Slot("number", ("{My favorite number|My lucky number|The number} is <v>.", "Remember {the|this} number{:|} <v>.", "{Please |}{keep in mind|memorize|note} the number <v>."), ("{请|}记住{这个|}数字{：|}<v>。", "我的幸运数字是<v>。"),
         ("{What was|What is|Do you remember|Tell me} {the|my} number{?|.}", "{Which|What} number did I {tell you|give you|ask you to remember}?", "What is my {favorite|lucky} number?"), ("{那个|我说的|我的}数字是{多少|什么|几}？", "我的幸运数字是{多少|几}？"),
         "The number is <v>.", "数字是<v>。"),
    Slot("code", ("{The|My} {secret |}{code|password|secret word} is <v>.", "Remember {the|this} {code|secret word}: <v>."), ("{请|}记住{密码|暗号|口令}：<v>。", "我的{密码|暗号|口令}是<v>。"),
         ("{What was|What is|Do you remember|Tell me} {the|my} {secret |}{code|password|secret word}{?|.}",), ("{密码|暗号|口令}是什么？", "我的{密码|暗号|口令}是{什么|多少}？"),
         "It is <v>.", "是<v>。"),
    Slot("person", ("My <w>'s name is <v>.", "{My <w> is called|I have a <w> called|The name of my <w> is} <v>."), ("我的<w>叫<v>。", "我<w>的名字是<v>。"),
         ("{What is|What's|Do you remember} {my <w>'s name|the name of my <w>}?", "{What is my <w> called|Who is my <w>}?"), ("我的<w>叫什么{名字|}？", "我<w>的名字是什么？"),
         "Your <w> is called <v>.", "你的<w>叫<v>。"),
    Slot("day", ("My birthday is {in|on} <v>.", "{My|The} {meeting|exam|trip|party} is on <v>."), ("我{的考试|的会议|的旅行}在<v>。",),
         ("{When|What day} is {my birthday|my meeting|the meeting|my exam|my trip|the party}?",), ("我的{考试|会议|旅行}{在|是}{什么时候|哪天|星期几}？",),
         "It is on <v>.", "在<v>。"),
    Slot("thing", ("My <w> is <v>.", "I have a <v> <w>.", "I {bought|own} a <v> <w>."), ("我的<w>是<v>的。", "我有一个<v>的<w>。"),
         ("{What|Which} color is my <w>?", "What is the color of my <w>?"), ("我的<w>是什么颜色的？",),
         "Your <w> is <v>.", "你的<w>是<v>的。"),
)  # fmt: skip
RELATIVES = (("brother", "哥哥"), ("sister", "姐姐"), ("mother", "妈妈"), ("father", "爸爸"), ("friend", "朋友"), ("teacher", "老师"), ("son", "儿子"), ("daughter", "女儿"), ("boss", "老板"), ("neighbor", "邻居"), ("wife", "妻子"), ("husband", "丈夫"))  # fmt: skip
PETS = (("cat", "猫"), ("dog", "狗"), ("bird", "鸟"), ("rabbit", "兔子"), ("hamster", "仓鼠"), ("horse", "马"), ("turtle", "乌龟"))  # fmt: skip
NOTED = ("I will remember that.", "Got it, I will remember.", "Thank you for telling me.")
NOTED_ZH = ("好的，我记住了。", "我会记住的。", "谢谢你告诉我。")


def _value(c: Context, kind: str) -> tuple[str, str]:
    """A value for the slot and its owner or object (`my dog`), in the user's language."""
    r = c.r
    tables = {
        "color": COLORS,
        "food": FOODS,
        "animal": ANIMALS,
        "job": JOBS,
        "hobby": HOBBIES,
        "day": DAYS,
        "thing": COLORS,
    }
    if kind in tables:
        return c.pick(r.choice(tables[kind])), c.pick(r.choice(THINGS[:60])) if kind == "thing" else ""
    if kind == "name":
        name = c.name()
        return name.lower() if r.random() < 0.1 else name, ""
    if kind == "pet":
        return c.name(), c.pick(r.choice(PETS))
    if kind == "person":
        return c.name(), c.pick(r.choice(RELATIVES))
    if kind == "city":
        return c.city(), ""
    if kind == "age":
        return str(r.randint(6, 95)), ""
    if kind == "number":
        return str(c.draw(lambda: r.randrange(r.choice((100, 1000, 10000))))), ""
    return (c.code() if r.random() < 0.6 else c.draw(lambda: made_up_word(r))), ""


def facts_to_recall(c: Context, count: int) -> tuple[list[Exchange], list[Exchange]]:
    """Statements with a short acknowledgement, and later questions about some of them, as lists of exchanges."""
    r = c.r
    c = c.switched(answer_zh=c.zh, brief=False)
    chosen = r.sample(SLOTS, count)
    if r.random() < 0.5 and SLOTS[0] not in chosen:
        chosen[0] = SLOTS[0]
    told = [(slot, *_value(c, slot.kind)) for slot in chosen]
    statements, questions = [], []
    group = r.random() < 0.3 and count > 1
    if group:
        text = (" " if not c.zh else "").join(c.ask(s.say, s.say_zh, v=v, w=w) for s, v, w in told)
        name = next((v for s, v, _ in told if s.kind == "name"), "")
        statements.append(_noted(c, text, name))
    else:
        for slot, v, w in told:
            text = c.ask(slot.say, slot.say_zh, v=v, w=w)
            if slot.noted:
                statements.append(exchange(c, text, c.tell(slot.noted, slot.noted_zh, v=v, w=w)))
            else:
                statements.append(_noted(c, text))
    if r.random() < 0.1:  # the later word counts
        slot, _, w = told[0]
        v, _ = _value(c, slot.kind)
        said = c.ask(slot.say, slot.say_zh, v=v, w=w)
        text = (("不对，" if c.zh else r.choice(("Sorry, I was wrong. ", "Wait, that has changed. ", "Actually, I made a mistake. "))) + said)  # fmt: skip
        statements.append(_noted(c, text))
        told[0] = (slot, v, w)
    for slot, v, w in r.sample(told, r.randint(1, len(told))):
        ask = c.ask(slot.ask, slot.ask_zh, w=w)
        think = c.tell("The user told me this earlier: <v>.", "用户之前告诉过我：<v>。", v=v)
        questions.append(exchange(c, ask, c.tell(slot.recall, slot.recall_zh, v=v, w=w), think))
    return statements, questions


def _noted(c: Context, text: str, name: str = "") -> Exchange:
    if name:
        answer = c.tell("Nice to meet you, <n>! I will remember that.", "很高兴认识你，<n>！我记住了。", n=name)
    else:
        answer = NOTED_ZH[0] if c.answer_zh else NOTED[0]
    return exchange(c, text, answer)


def never_told(c: Context) -> Exchange:
    slot = c.r.choice(SLOTS)
    _, w = _value(c, slot.kind)
    return exchange(
        c,
        c.ask(slot.ask, slot.ask_zh, w=w),
        c.tell("I don't know, you have not told me.", "我不知道，你还没有告诉我。"),
    )


RELATIONS: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    # kind of value, statement, statement zh, question, question zh, answer, answer zh
    ("city", "<s> lives in <v>.", "<s>住在<v>。", "Where does <s> live?", "<s>住在哪里？", "<s> lives in <v>.", "<s>住在<v>。"),
    ("age", "<s> is <v> years old.", "<s><v>岁。", "How old is <s>?", "<s>{几岁|多大}？", "<s> is <v> years old.", "<s><v>岁。"),
    ("job", "<s> works as a <v>.", "<s>的工作是<v>。", "What {is <s>'s job|does <s> work as}?", "<s>的工作是什么？", "<s> works as a <v>.", "<s>的工作是<v>。"),
    ("food", "<s> likes <v>.", "<s>喜欢吃<v>。", "What does <s> like?", "<s>喜欢吃什么？", "<s> likes <v>.", "<s>喜欢吃<v>。"),
    ("hobby", "<s>'s hobby is <v>.", "<s>的爱好是<v>。", "What is <s>'s hobby?", "<s>的爱好是什么？", "<s>'s hobby is <v>.", "<s>的爱好是<v>。"),
    ("number", "<s> has <v> coins.", "<s>有<v>个硬币。", "How many coins does <s> have?", "<s>有多少{个|}硬币？", "<s> has <v> coins.", "<s>有<v>个硬币。"),
    ("code", "The code of <s> is <v>.", "<s>的代码是<v>。", "{What is|What's|Give me} the code of <s>{?|.}", "<s>的代码是{什么|多少}？", "The code of <s> is <v>.", "<s>的代码是<v>。"),
    ("thing", "<s> has a <v> <w>.", "<s>有一个<v>的<w>。", "What color is <s>'s <w>?", "<s>的<w>是什么颜色的？", "<s>'s <w> is <v>.", "<s>的<w>是<v>的。"),
    ("day", "<s> arrives on <v>.", "<s><v>到。", "When does <s> arrive?", "<s>{什么时候|星期几}到？", "<s> arrives on <v>.", "<s><v>到。"),
    ("person", "<s>'s <w> is called <v>.", "<s>的<w>叫<v>。", "What is {the name of <s>'s <w>|<s>'s <w> called}?", "<s>的<w>叫什么？", "<s>'s <w> is called <v>.", "<s>的<w>叫<v>。"),
)  # fmt: skip


def facts_in_prompt(c: Context) -> Exchange:
    """Several facts and one question about one of them, sometimes the other way round (who lives in ...?)."""
    r = c.r
    long = r.random() < 0.02
    count = r.randint(20, 60) if long else r.randint(1, 5)
    same = r.random() < 0.5
    relation = r.choice(RELATIONS)
    told: dict[tuple[str, str], tuple[tuple[str, ...], str, str]] = {}
    for _ in range(count):
        rel = relation if same or long else r.choice(RELATIONS)
        subject = c.name() if r.random() < 0.85 else c.draw(lambda: made_up_word(r).capitalize())
        told[subject, rel[0]] = (rel, *_value(c, rel[0]))
    keys = list(told)
    lines = [c.ask((told[k][0][1],), (told[k][0][2],), s=k[0], v=told[k][1], w=told[k][2]) for k in keys]
    subject, kind = key = r.choice(keys)
    rel, v, w = told[key]
    glue = "\n" if r.random() < 0.2 else ("" if c.zh else " ")
    text = glue.join(lines)
    values = [told[k][1] for k in keys if k[1] == kind]
    slots = {"s": subject, "v": v, "w": w}
    if r.random() < 0.25 and values.count(v) == 1 and kind in ("city", "job", "hobby", "day", "food"):
        turned = {"city": ("Who lives in <v>?", "谁住在<v>？"), "job": ("Who works as a <v>?", "谁的工作是<v>？"), "hobby": ("Whose hobby is <v>?", "谁的爱好是<v>？"),
                  "day": ("Who arrives on <v>?", "谁<v>到？"), "food": ("Who likes <v>?", "谁喜欢吃<v>？")}[kind]  # fmt: skip
        question, answer = c.ask(turned[:1], turned[1:], **slots), c.tell("<s>", "<s>", **slots)
    else:
        question, answer = c.ask((rel[3],), (rel[4],), **slots), c.tell(rel[5], rel[6], **slots)
    shape = r.choice(("{t}{g}{q}", "{t}\n{q}", "{t}\n\n{q}", "{q} {t}", "{c}: {t}\n{p}: {q}"))
    head, ask = ("上下文", "问题") if c.zh else ("Context", "Question")
    user = shape.format(t=text, q=question, g=glue, c=head, p=ask)
    think = c.tell("The text says: <l>", "文中说：<l>", l=lines[keys.index(key)])
    return exchange(
        c.switched(quiet=True), user, answer, think, c.tell("<v>", "<v>", v=v) if answer != subject else None
    )


def key_values(c: Context) -> Exchange:
    """A small table of things and values, and one cell asked for."""
    r = c.r
    count = r.randint(25, 70) if r.random() < 0.03 else r.randint(2, 8)
    keys = list(
        dict.fromkeys(
            c.pick(r.choice(NOUNS)) if r.random() < 0.5 else c.draw(lambda: made_up_word(r)) for _ in range(count)
        )
    )
    values = [c.draw(lambda: str(r.randrange(1000)) if r.random() < 0.5 else c.code()) for _ in keys]
    i = r.randrange(len(keys))
    mark = r.choice((": ", " = ", " - ", "：" if c.zh else ": "))
    table = r.choice(("\n", ", ", "; ")).join(k + mark + v for k, v in zip(keys, values, strict=True))
    user = c.ask(
        ("<t>\n{What is the value of|What belongs to|Look up|What is} <k>{?|.}", "Here {is a table|are some values}: <t>\n{What is|Give me} the value of <k>{?|.}", "Prices: <t>\nHow much is <k>?"),
        ("<t>\n<k>{的值|}是{多少|什么}？", "下面是一些数据：<t>\n{请|}查一下<k>。"), t=table, k=keys[i])  # fmt: skip
    return exchange(c.switched(quiet=True), user, values[i])
