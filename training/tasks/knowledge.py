# ruff: noqa: E501 - tables of phrases, one a line
"""A little general knowledge, learned by heart, and an honest "I don't know" for everything else."""

from __future__ import annotations

from training.core import Context, Exchange, exchange
from training.words import (
    ADJECTIVES,
    ANIMALS,
    CAPITALS,
    COLORS,
    DAYS,
    FOODS,
    HOBBIES,
    JOBS,
    LANGUAGES,
    MONTHS,
    NOUNS,
    OPPOSITES,
    OPPOSITES_ZH,
    TOPICS,
    made_up_hanzi,
)  # fmt: skip

SOUNDS = (("dog", "barks", "狗", "汪汪"), ("cat", "meows", "猫", "喵喵"), ("cow", "moos", "牛", "哞哞"), ("duck", "quacks", "鸭子", "嘎嘎"), ("sheep", "bleats", "羊", "咩咩"), ("bird", "sings", "鸟", "叽叽喳喳"), ("lion", "roars", "狮子", "吼叫"), ("frog", "croaks", "青蛙", "呱呱"))  # fmt: skip
COLOR_OF = (("grass", "green", "草", "绿色"), ("the sky", "blue", "天空", "蓝色"), ("snow", "white", "雪", "白色"), ("a banana", "yellow", "香蕉", "黄色"), ("a tomato", "red", "番茄", "红色"), ("coal", "black", "煤", "黑色"), ("the sun", "yellow", "太阳", "黄色"), ("blood", "red", "血", "红色"), ("milk", "white", "牛奶", "白色"), ("the sea", "blue", "大海", "蓝色"), ("a leaf", "green", "叶子", "绿色"), ("a lemon", "yellow", "柠檬", "黄色"), ("chocolate", "brown", "巧克力", "棕色"))  # fmt: skip
FACTS: tuple[tuple[str, str, str, str], ...] = (
    ("How many {days|days are} {are in|does} a week{ have|}?", "A week has 7 days.", "{一个星期|一周}有{几|多少}天？", "一周有7天。"),
    ("How many months {are in|are there in} a year?", "A year has 12 months.", "一年有{几|多少}个月？", "一年有12个月。"),
    ("How many days {are in|are there in} a year?", "A year has 365 days.", "一年有多少天？", "一年有365天。"),
    ("How many hours {are in|are there in} a day?", "A day has 24 hours.", "一天有{几|多少}个小时？", "一天有24个小时。"),
    ("How many legs does a {spider} have?", "A spider has 8 legs.", "蜘蛛有{几|多少}条腿？", "蜘蛛有8条腿。"),
    ("How many legs does {a dog|a cat|a horse|a cow} have?", "It has 4 legs.", "{狗|猫|马|牛}有{几|多少}条腿？", "它有4条腿。"),
    ("How many letters {are in|does} the {English |}alphabet{ have|}?", "The English alphabet has 26 letters.", "英文字母{一共|}有{几|多少}个？", "英文字母有26个。"),
    ("{What are|Name|List} the {primary |}colors{?|.}", "Red, yellow and blue.", "三原色是{什么|哪些}？", "红色、黄色和蓝色。"),
    ("{What are|Name|List} the days of the week{?|.}", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.", "一周有哪几天？", "星期一、星期二、星期三、星期四、星期五、星期六、星期日。"),
    ("{What are|Name|List} the {four |}seasons{?|.}", "Spring, summer, autumn and winter.", "{四季是什么|一年有哪四季}？", "春天、夏天、秋天和冬天。"),
    ("{What are|Name|List} the months{ of the year|}{?|.}", "January, February, March, April, May, June, July, August, September, October, November, December.", "一年有哪些月份？", "一月、二月、三月、四月、五月、六月、七月、八月、九月、十月、十一月、十二月。"),
    ("{Say|Write|Recite|What is|Tell me} the alphabet{.|?|}", "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z", "{写出|背|说出}{英文|}字母表。", "A、B、C、D、E、F、G、H、I、J、K、L、M、N、O、P、Q、R、S、T、U、V、W、X、Y、Z"),
    ("{What is|Name} the {largest|biggest} ocean{?|.}", "The Pacific Ocean.", "最大的{海洋|大洋}是{哪个|什么}？", "太平洋。"),
    ("{What is|Name} the highest mountain{| on Earth}{?|.}", "Mount Everest.", "最高的山是{哪座|什么}？", "珠穆朗玛峰。"),
    ("What is the {largest|biggest} animal?", "The blue whale.", "最大的动物是什么？", "蓝鲸。"),
    ("{What is|What's} H2O?", "H2O is water.", "H2O是什么？", "H2O是水。"),
    ("{Is the Earth round|Is the Earth flat|What shape is the Earth}?", "The Earth is round.", "地球是{什么形状|圆的吗}？", "地球是圆的。"),
    ("{What is|What's} AI?", "AI means artificial intelligence: programs that do things which usually need thinking.", "{AI|人工智能}是什么？", "AI是人工智能：能做通常需要思考的事情的程序。"),
    ("{What is|What's} a {language model|large language model|LLM}?", "A language model is a program that predicts the next piece of a text.", "{什么是语言模型|语言模型是什么}？", "语言模型是预测文本下一部分的程序。"),
    ("{What is|What's} {Python|Java}?", "It is a programming language.", "{Python|Java}是什么？", "它是一种编程语言。"),
    ("{What is|What's} {the meaning of life|42}?", "Some say 42, but I am only a small demo model.", "{人生的意义|生命的意义}是什么？", "有人说是42，但我只是一个小型演示模型。"),
)  # fmt: skip
CATEGORIES = ((ANIMALS, "animal", "动物"), (COLORS, "color", "颜色"), (JOBS, "job", "职业"), (LANGUAGES, "language", "语言"), (HOBBIES, "hobby", "爱好"), (FOODS[:16], "fruit", "水果"), (FOODS, "food", "食物"))  # fmt: skip


def capital(c: Context) -> Exchange:
    country, town = c.r.choice(CAPITALS)
    (land, land_zh), (city, city_zh) = country.split("|"), town.split("|")
    if c.chance(0.2):
        user = c.ask(
            (
                "{Which|What} country has the capital <c>?",
                "<c> is the capital of which country?",
                "Which country is <c> in?",
            ),
            ("<d>是哪个国家的首都？", "<d>在哪个国家？"),
            c=city,
            d=city_zh,
        )
        return exchange(
            c,
            user,
            c.tell("<c> is the capital of <l>.", "<d>是<m>的首都。", c=city, l=land, d=city_zh, m=land_zh),
            "",
            c.tell(land, land_zh),
        )
    user = c.ask(
        ("{What is|What's|Tell me|Do you know|Name} the capital{ city|} of <l>{?|.}", "{Which|What} city is the capital of <l>?", "Capital of <l>{?|}", "The capital of <l> is"),
        ("<m>的首都{是哪里|是哪个城市|是什么|在哪里|叫什么}{？|}", "{请问|你知道}<m>的首都{是哪里|在哪}{吗|}？"), l=land, m=land_zh)  # fmt: skip
    return exchange(
        c,
        user,
        c.tell("The capital of <l> is <c>.", "<m>的首都是<d>。", l=land, c=city, m=land_zh, d=city_zh),
        "",
        c.tell(city, city_zh),
    )


def translate(c: Context) -> Exchange:
    r = c.r
    en, zh = r.choice(NOUNS + COLORS + ADJECTIVES + JOBS + LANGUAGES + DAYS + HOBBIES)
    if r.random() < 0.25:
        (color, color_zh), (noun, noun_zh) = r.choice(COLORS), r.choice(NOUNS[:120])
        en, zh = f"{color} {noun}", f"{color_zh}的{noun_zh}"
    to_zh = r.random() < 0.55
    source, target = (en, zh) if to_zh else (zh, en)
    quote = r.choice(("<s>", "<s>", '"<s>"')).replace("<s>", source)
    tongue, tongue_zh = ("Chinese", r.choice(("中文", "汉语"))) if to_zh else ("English", r.choice(("英语", "英文")))
    user = c.ask(
        ("{How do you say|What is|What's} <q> in <t>?", "Translate <q> {to|into} <t>{.|}", "{Translate|Please translate} {to|into} <t>: <q>", "What {does|is} <q>{ mean|} in <t>?", "<t> for <q>{?|}"),
        ("<q>{的|用}<u>{怎么说|是什么|怎么写}？", "{请|}{把|将}<q>{翻译成|译成}<u>。", "{请|}翻译成<u>：<q>"), q=quote, t=tongue, u=tongue_zh)  # fmt: skip
    return exchange(c.switched(quiet=True), user, target)


def opposite(c: Context) -> Exchange:
    pair = c.r.choice((OPPOSITES_ZH if c.zh else OPPOSITES).split(";")).split(" ")
    if c.chance(0.5):
        pair.reverse()
    a, b = pair
    user = c.ask(
        ("{What is|What's|Tell me|Give me} the opposite of {|the word }<a>{?|.}", "Opposite of <a>{?|}"),
        ("<a>的反义词是{什么|哪个}？", "{请|}{说出|写出|给出}<a>的反义词。"),
        a=a,
    )
    return exchange(c, user, b)


def everyday(c: Context) -> Exchange:
    r = c.r
    kind = r.randrange(6)
    if kind == 0:
        noun, color, noun_zh, color_zh = r.choice(COLOR_OF)
        return exchange(
            c,
            c.ask(
                ("{What|Which} color is <n>?", "What is the color of <n>?"),
                ("<m>是什么颜色{的|}？",),
                n=noun,
                m=noun_zh,
            ),
            c.tell("It is <c>.", "是<d>。", c=color, d=color_zh),
        )
    if kind == 1:
        animal, sound, animal_zh, sound_zh = r.choice(SOUNDS)
        return exchange(
            c,
            c.ask(
                ("{What sound does a <a> make|What does a <a> say}?",),
                ("<b>怎么叫？", "<b>的叫声是什么？"),
                a=animal,
                b=animal_zh,
            ),
            c.tell("A <a> <s>.", "<b>会“<t>”叫。", a=animal, s=sound, b=animal_zh, t=sound_zh),
        )
    if kind in (2, 3):
        pool = r.choice((DAYS, MONTHS))
        i, after = r.randrange(len(pool)), r.random() < 0.65
        x, y = pool[i], pool[(i + (1 if after else -1)) % len(pool)]
        what, what_zh = ("day", "哪一天") if pool is DAYS else ("month", "哪个月")
        user = c.ask(
            ("{What|Which} <w> {comes|is} <o> <x>?",),
            ("<y>{的|}<p>是<v>？",),
            w=what,
            o="after" if after else "before",
            x=x[0],
            y=x[1],
            p="后面" if after else "前面",
            v=what_zh,
        )
        return exchange(c, user, c.tell("<a>", "<b>", a=y[0], b=y[1]))
    if kind == 4:
        pool, noun, noun_zh = r.choice(CATEGORIES)
        n = r.randint(2, 5)
        chosen = r.sample(pool, n)
        user = c.ask(
            ("{Name|List|Give me|Tell me} <n> <p>{.|}",),
            ("{请|}{说出|列出|写出|举出}<n>{个|种}<q>{。|}",),
            n=r.choice((n, ("two", "three", "four", "five")[n - 2] if not c.zh else n)),
            p=["animals", "colors", "jobs", "languages", "hobbies", "fruits", "foods"][
                [k[1] for k in CATEGORIES].index(noun)
            ],
            q=noun_zh,
        )
        return exchange(c, user, c.tell(", ", "、").join(c.tell(*p) for p in chosen))
    pool, noun, noun_zh = r.choice(CATEGORIES[:4])
    yes = r.random() < 0.5
    word = r.choice(pool if yes else r.choice([p for p, _, _ in CATEGORIES[:4] if p is not pool]))
    if noun in ("animal", "color", "job", "language") and word not in (pool if not yes else []):
        user = c.ask(("Is {|a |}<w> {a|an} <n>?",), ("<x>是<m>吗？",), w=word[0], n=noun, x=word[1], m=noun_zh)
        article = "an" if noun == "animal" else "a"
        return exchange(
            c,
            user,
            c.tell(
                "Yes, <w> is <a> <n>." if yes else "No, <w> is not <a> <n>.",
                "是的，<x>是<m>。" if yes else "不是，<x>不是<m>。",
                w=word[0],
                n=noun,
                a=article,
                x=word[1],
                m=noun_zh,
            ),
        )
    return opposite(c)


def fact(c: Context) -> Exchange:
    en, answer, zh, answer_zh = c.r.choice(FACTS)
    return exchange(c, c.ask((en,), (zh,)), c.tell("<a>", "<b>", a=answer, b=answer_zh))


DONT_KNOW = "I am sorry, I don't know that. I am only a small demo model."
DONT_KNOW_ZH = "对不起，这个我不知道。我只是一个小型演示模型。"
UNKNOWN = (
    "{Explain|Describe|Tell me about|What do you know about|Teach me|Summarize|Give me an overview of} <t>{.|?|}",
    "{Who|When|Why|How} {invented|discovered|changed|started} <t>?", "What is the {history|future|meaning|theory|importance} of <t>?",
    "Who is {<n>|the president of <c>|the king of <c>|the richest person|the author of <n>|the CEO of <n>}?",
    "{When|Where} {was|is} <n> {born|from|living|now}?", "{Who won|When was|Who played in} the {world cup|championship|election|war|final} {in|of} {19|20|18}<d>?",
    "{What happened|Who ruled <c>} in {19|18|20|15}<d>?", "What is the {population|area|currency|national dish|anthem|president} of <c>?",
    "Write {an essay|a report|a speech|a thesis|a business plan|a review} {about|on} <t>.", "{How do I|How can I|How to} {cook|repair|build|install|learn|buy|fix} {<w>|a <w>|my <w>}?",
    "What do you think {about|of} {<t>|<n>|<w>}?", "{Should I|Can I|Is it good to} {buy|sell|eat|learn|try} <w>?", "{What is|What's} {the news|the weather|the time|the date|the score|the price of <w>}{?| today?| now?}",
    "{What is|What's} {a |the |}<w>?", "Why {is|are|does|do} {the |}<w> <v>?", "{What is the square root|What is the logarithm|What is the derivative} of <d>?", "How {far|tall|old|deep|heavy|expensive} is {<c>|<n>|the <w>}?",
    "{Recommend|Suggest} {a book|a film|a restaurant|some music|a hotel|a game}{.| for me.| in <c>.}", "{Diagnose|What causes|How do I treat} {my |}{headache|fever|cough|pain|back pain}{?|.}",
    "What does {the word |}<w> mean?", "{Compare|What is the difference between} <t> and <u>{.|?}",
)  # fmt: skip
UNKNOWN_ZH = (
    "{解释|介绍|讲讲|说说|描述|概括}{一下|}<t>{。|}", "<t>{是什么|是谁发明的|是谁发现的|什么时候开始的|有什么意义|的未来怎样|的历史是什么}？", "{谁是|}<n>{是谁|}？",
    "<n>{是哪里人|什么时候出生|住在哪里|做了什么}？", "{19|20|18}<d>年{发生了什么|谁赢了世界杯|谁是冠军}？", "<c>的{人口|面积|货币|总统|历史}是{多少|什么}？",
    "写{一篇|一个}{关于|}<t>的{论文|报告|文章|演讲稿|评论}。", "{怎么|怎样|如何}{做|修|安装|买|学习|学}<w>？", "你{怎么看|觉得}<t>{怎么样|}？", "我{应该|可以}{买|卖|吃|学}<w>吗？",
    "{今天|明天|现在}{天气怎么样|几点了|有什么新闻|几号|股价多少}？", "<w>是什么？", "为什么<w>是{这样|<v>}的？", "{推荐|介绍}{一本书|一部电影|一家餐厅|一首歌|一个酒店}{。|给我。}",
    "我{头疼|发烧|咳嗽|肚子疼}怎么办？", "<c>离<e>{多远|有多远}？", "<d>的平方根是多少？", "<t>和<u>有什么区别？",
)  # fmt: skip


def unknown(c: Context) -> Exchange:
    r = c.r
    slots = {
        "t": c.pick(r.choice(TOPICS)), "u": c.pick(r.choice(TOPICS)), "n": c.name(), "c": c.city() if r.random() < 0.5 else r.choice(CAPITALS)[0].split("|")[int(c.zh)], "e": c.city(),
        "w": c.pick(r.choice(NOUNS)) if c.zh or r.random() < 0.5 else c.word(), "v": c.pick(r.choice(ADJECTIVES)), "d": f"{r.randrange(100):02d}",
    }  # fmt: skip
    think = c.tell("I did not learn this, and I should not guess.", "我没有学过这个，不应该猜。")
    return exchange(c, c.ask(UNKNOWN, UNKNOWN_ZH, **slots), c.tell(DONT_KNOW, DONT_KNOW_ZH), think)


def nonsense(c: Context) -> Exchange:
    r = c.r
    if c.zh and r.random() < 0.4:
        text = made_up_hanzi(r, r.randint(1, 8))
    else:
        text = " ".join(c.draw(lambda: c.word() if r.random() < 0.4 else c.code()) for _ in range(r.randint(1, 4)))
    if r.random() < 0.15:
        text = r.choice(
            ("???", "!!!", "...", "asdf", "asdfgh", "qwerty", "12345", "😀", "🤔", ":)", "1", "a", "x", "?", "。。。")
        )
    if r.random() < 0.15:
        n = r.randint(3, 40)
        text = ("word " if not c.zh else "字") * n
    return exchange(
        c.switched(quiet=True),
        text.strip() or "?",
        c.tell(
            "I am not sure what you mean. Could you say it in other words?", "我不太明白你的意思。可以换个说法吗？"
        ),
    )
