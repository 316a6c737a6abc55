# ruff: noqa: E501 - tables of phrases, one a line
"""Short stories, code snippets and plain text without a chat around it."""

from __future__ import annotations

from training.core import Context, Exchange, exchange, expand
from training.words import ADJECTIVES, ANIMALS, CAPITALS, COLORS, FOODS, OPPOSITES, THINGS, made_up_word, plural

STORY = (
    "{Once upon a time|Long ago|One {sunny|rainy|cold|quiet} {morning|day|evening}}{, |, }{there was|there lived} a {a1} <hero> {called|named} <name>. "
    "<name> {lived in|had a home in} a {small|quiet|green|little} {village|town|forest|valley} near {the sea|a river|a hill|a lake}. "
    "One day <name> {found|saw|discovered} a <color> <thing> {on the road|under a tree|by the river|in the garden}. "
    "\"{What a {nice|strange|beautiful} <thing>|Whose <thing> is this|Who lost this <thing>}?\" {said|asked} <name>. "
    "{A|An old|A little} <friend> {came|ran|walked} {by|along} and {said|answered}: \"{It is mine. I lost it yesterday|That <thing> is mine|I have looked for it all day}.\" "
    "<name> gave the <thing> back, and the <friend> {smiled|was very happy|said thank you}. "
    "They {shared|ate} some <food> and {became friends|laughed together|talked until the stars came out}. "
    "{From that day on they met every {morning|evening|week}.|They lived happily ever after.|And that was the best day of the year.}"
)  # fmt: skip
STORY_ZH = (
    "{从前|很久以前|在一个{晴朗|下雨|安静}的{早晨|晚上}}，{有|住着}一只{a1}的<hero>，名字叫<name>。"
    "<name>住在{河边|海边|山脚下|湖边}的{小村庄|小镇|森林|山谷}里。"
    "有一天，<name>在{路上|树下|河边|花园里}{发现|看到|捡到}了一个<color>的<thing>。"
    "<name>{说|问}：“{这是谁的<thing>|谁丢了这个<thing>|多么{漂亮|奇怪}的<thing>啊}？”"
    "一只{小|老|}<friend>{走过来|跑过来}{说|回答}：“{这是我的，我昨天丢了它|那个<thing>是我的|我找了它一整天}。”"
    "<name>把<thing>还给了<friend>，<friend>{笑了|非常高兴|说了谢谢}。"
    "他们一起吃了<food>，{成了好朋友|笑得很开心|一直聊到星星出来}。"
    "{从那天起，他们每天都见面。|从此他们快乐地生活在一起。|那是一年中最美好的一天。}"
)  # fmt: skip


def story_text(c: Context, zh: bool, hero: str = "", thing: str = "") -> tuple[str, str, str]:
    """A story, its hero and the thing found in it; both may be given."""
    r = c.r
    side = int(zh)
    who = hero or r.choice(ANIMALS)[side]
    what = thing or r.choice(THINGS[:70])[side]
    own = c.switched(zh=zh)
    slots = {
        "hero": who,
        "thing": what,
        "friend": r.choice(ANIMALS)[side],
        "name": own.name(),
        "color": r.choice(COLORS)[side],
        "food": r.choice(FOODS[:16])[1] if zh else plural(r.choice(FOODS[:16])[0]),
    }
    template = (STORY_ZH if zh else STORY).replace(
        "{a1}",
        r.choice(ADJECTIVES)[side]
        if zh
        else r.choice(("small", "clever", "brave", "young", "happy", "lazy", "kind", "curious")),
    )
    return expand(r, template, slots), who, what


def story(c: Context) -> Exchange:
    r = c.r
    kind = r.random()
    text, who, what = story_text(c, c.answer_zh)
    if c.zh != c.answer_zh or kind < 0.35:
        user = c.ask(
            ("{Tell|Write|Give} {me |}a {short |}story{.|!| please.|}", "{Can|Could} you {tell|write} {me |}a {short |}story?", "Once upon a time", "{I want|I would like} {a|to hear a} story."),
            ("{讲|给我讲|写|请讲|请写}{个|一个}{短|小|}故事{。|吧。|}", "我想听{一个|}故事。", "你{能|会}讲故事吗？"))  # fmt: skip
    elif kind < 0.8:
        user = c.ask(
            ("{Tell|Write} {me |}a {short |}story about {a|an|the} <h>{.|}", "{Can|Could} you {tell|write} {me |}a {short |}story about {a|an} <h>?", "Story about a <h>{.|}"),
            ("{讲|给我讲|写|请写}{个|一个}{关于|}<h>的{短|小|}故事。",), h=who)  # fmt: skip
    else:
        user = c.ask(
            ("{Tell|Write} {me |}a {short |}story {with|about} {a|an|the} <h> and a <t>.",), ("{讲|写}一个{关于|}<h>和<t>的故事。",), h=who, t=what)  # fmt: skip
    return exchange(
        c, user, text, c.tell("The story has a <h> who finds a <t>.", "故事里有一只<h>，它找到了<t>。", h=who, t=what)
    )


CODE: tuple[tuple[tuple[str, ...], tuple[str, ...], str, str], ...] = (
    (("{prints|that prints|to print} {hello world|\"Hello, world!\"|hello}", ), ("{打印|输出}{hello world|你好世界}的",), 'print("Hello, world!")',
     'public class Main {\n    public static void main(String[] args) {\n        System.out.println("Hello, world!");\n    }\n}'),
    (("{that adds|to add} two numbers", "for the sum of two numbers"), ("{两个数相加|计算两数之和}的",), "def <f>(a, b):\n    return a + b", "static int <f>(int a, int b) {\n    return a + b;\n}"),
    (("{that multiplies|to multiply} two numbers",), ("两个数相乘的",), "def <f>(a, b):\n    return a * b", "static int <f>(int a, int b) {\n    return a * b;\n}"),
    (("{that reverses|to reverse} a {string|word|text}",), ("反转字符串的",), "def <f>(text):\n    return text[::-1]", "static String <f>(String text) {\n    return new StringBuilder(text).reverse().toString();\n}"),
    (("{that reverses|to reverse} a list",), ("反转列表的",), "def <f>(items):\n    return items[::-1]", "static void <f>(List<Integer> items) {\n    Collections.reverse(items);\n}"),
    (("{that computes|to compute|for} the factorial{ of n|}",), ("计算阶乘的",), "def <f>(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
     "static long <f>(int n) {\n    long result = 1;\n    for (int i = 2; i <= n; i++) {\n        result *= i;\n    }\n    return result;\n}"),
    (("{for|that computes|to compute} {the |}fibonacci{ numbers| sequence|}",), ("计算斐波那契数{列|}的",), "def <f>(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
     "static int <f>(int n) {\n    int a = 0, b = 1;\n    for (int i = 0; i < n; i++) {\n        int next = a + b;\n        a = b;\n        b = next;\n    }\n    return a;\n}"),
    (("{that checks|to check} {if|whether} a number is even",), ("判断{一个数|数字}是否{为|是}偶数的",), "def <f>(n):\n    return n % 2 == 0", "static boolean <f>(int n) {\n    return n % 2 == 0;\n}"),
    (("{that checks|to check} {if|whether} a number is prime",), ("判断{一个数|数字}是否{为|是}质数的",), "def <f>(n):\n    if n < 2:\n        return False\n    for i in range(2, int(n ** 0.5) + 1):\n        if n % i == 0:\n            return False\n    return True",
     "static boolean <f>(int n) {\n    if (n < 2) {\n        return false;\n    }\n    for (int i = 2; i * i <= n; i++) {\n        if (n % i == 0) {\n            return false;\n        }\n    }\n    return true;\n}"),
    (("{that returns|to find|that finds} the {largest|maximum|biggest} {number|element} {of|in} a list",), ("求列表{最大值|最大数}的",), "def <f>(numbers):\n    best = numbers[0]\n    for number in numbers:\n        if number > best:\n            best = number\n    return best",
     "static int <f>(int[] numbers) {\n    int best = numbers[0];\n    for (int number : numbers) {\n        if (number > best) {\n            best = number;\n        }\n    }\n    return best;\n}"),
    (("{that sums|to sum|that adds up} {a list|the numbers in a list}",), ("{对列表求和|求列表的和}的",), "def <f>(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total",
     "static int <f>(int[] numbers) {\n    int total = 0;\n    for (int number : numbers) {\n        total += number;\n    }\n    return total;\n}"),
    (("{that counts|to count} from 1 to {n|10}", "with a {for |}loop"), ("从1数到{n|10}的", "循环的"), "def <f>(n):\n    for i in range(1, n + 1):\n        print(i)", "static void <f>(int n) {\n    for (int i = 1; i <= n; i++) {\n        System.out.println(i);\n    }\n}"),
    (("{that sorts|to sort} a list",), ("{给列表排序|排序}的",), "def <f>(items):\n    return sorted(items)", "static void <f>(List<Integer> items) {\n    Collections.sort(items);\n}"),
    (("{that counts|to count} the words in a text",), ("统计单词数的",), "def <f>(text):\n    return len(text.split())", 'static int <f>(String text) {\n    return text.split(" ").length;\n}'),
    (("{that greets|to greet} {a person|someone} by name",), ("打招呼的",), 'def <f>(name):\n    return "Hello, " + name + "!"', 'static String <f>(String name) {\n    return "Hello, " + name + "!";\n}'),
    (("{that reads|to read} a file",), ("读取文件的",), "def <f>(path):\n    with open(path) as file:\n        return file.read()", "static String <f>(String path) throws IOException {\n    return Files.readString(Path.of(path));\n}"),
)  # fmt: skip
FUNCTION_NAMES = ("main", "add", "multiply", "reverse", "reverse_list", "factorial", "fibonacci", "is_even", "is_prime", "largest", "total", "count", "sort_list", "count_words", "greet", "read_file")  # fmt: skip


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def code(c: Context) -> Exchange:
    r = c.r
    i = r.randrange(len(CODE))
    en, zh, python, java = CODE[i]
    in_java = r.random() < 0.35
    name = FUNCTION_NAMES[i]
    named, named_zh = "", ""
    if i and r.random() < 0.35:
        name = c.draw(
            lambda: (
                made_up_word(r, 2)
                if r.random() < 0.6
                else f"{made_up_word(r, 1)}_{r.choice(('list', 'value', 'item', 'text', 'all'))}"
            )
        )
        named, named_zh = f" {r.choice(('called', 'named'))} {name}", f"，名字叫{name}"
        final = name
    else:
        final = camel(name) if in_java else name
    lang = "Java" if in_java else "Python"
    user = c.ask(
        ("{Write|Give me|Show me|Create|I need} {a|some} {<l>|<l>} {function|program|method|code|snippet}<n> <w>{.|}", "{Can|Could} you write {a |}<l> {function|code|program}<n> <w>?", "<l>: {a |}{function|code|program}<n> <w>"),
        ("{请|}{写|给我|用<l>写}{一个|一段}{<l>|}<w>{函数|程序|代码|方法}<m>。".replace("{<l>|}", "<l>").replace("用<l>写", "写"), "用<l>写{一个|一段}<w>{函数|程序|代码}<m>。"),
        l=lang if r.random() < 0.9 else lang.lower(), n=named, m=named_zh, w=expand(r, r.choice(zh if c.zh else en), {}),
    )  # fmt: skip
    body = (java if in_java else python).replace("<f>", final)
    return exchange(
        c.switched(quiet=True),
        user,
        f"```{lang.lower()}\n{body}\n```",
        c.tell("The user wants <l> code.", "用户想要<l>代码。", l=lang),
    )


SENTENCES = (
    "{AI|Artificial intelligence} is {a tool that helps people with many tasks. It learns from examples and gets better with practice.|the art of teaching machines to learn. A machine looks at many examples and finds the rule behind them.|changing how people work, learn and play. It can help, but it also makes mistakes.}",
    "{The future of AI|The future} is {open. Small models can run on every computer, and large ones can help with hard questions.|bright, if people use new tools with care.}",
    "{Hello|Hi}{, my name is <n>. I live in <c> and I like <f>. It is nice to meet you.|, I am <n>. I have a <a> and a <k> <t>.| and welcome. My name is <n>, and this is my <t>.|, world! This is a small program that prints a line of text.}",
    "{My name is|I am} <n>{ and I live in <c>. I have a <a> and I like <f>.|. I come from <c>. In the morning I eat <f> and drink tea.}",
    "The {weather|day} {is nice today. The sun shines and the sky is blue.|was cold, and snow lay on the road.|was warm. <n> sat in the garden with a <t>.}",
    "The {quick brown fox jumps over the lazy dog.|capital of <l> is <p>.|<k> <t> belongs to <n>.|<a> lives near the river and likes <f>.}",
    "{The capital of <l> is <p>.|<p> is the capital of <l>.}",
    "{One, two, three, four, five, six, seven, eight, nine, ten.|1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12.|A, B, C, D, E, F, G, H, I, J, K.|Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.}",
    "The {president|king|teacher|doctor|baker} of <c> {is a kind person who likes <f>.|lives in a <k> house near the river.}",
    "{In the morning|Every day|On Sunday} <n> {goes to the market in <c> and buys <f>.|walks to the river with a <a>.|reads a book about <u>.}",
    "{There is|There was} a <k> <t> {in the house of <n>|on the table|in the garden}. {Nobody knew where it came from.|It was old but beautiful.|<n> liked it very much.}",
)  # fmt: skip
SENTENCES_ZH = (
    "{AI|人工智能}的未来是{开放的。小模型可以在每台电脑上运行，大模型可以帮助人们解决难题。|光明的。只要人们小心使用，它会让生活更方便。}",
    "{AI|人工智能}{是一种工具，可以帮助人们完成很多工作。它从例子中学习，越练越好。|正在改变人们的工作和生活。它能帮忙，但也会犯错。}",
    "{你好|大家好}，我{叫|是}<n>，{住在<c>，喜欢吃<f>。很高兴认识你们。|来自<c>。我有一只<a>。}",
    "我{叫<n>，住在<c>。我有一只<a>，我喜欢吃<f>。|喜欢<f>，也喜欢<k>的<t>。}",
    "今天{天气很好，阳光明媚，天空很蓝。|是星期天，<n>和朋友一起去公园。|很冷，路上有雪。}",
    "<l>的首都是<p>。", "从{一数到十：一、二、三、四、五、六、七、八、九、十。|1数到10：1、2、3、4、5、6、7、8、9、10。}",
    "<n>{每天早上去市场买<f>。|住在<c>，家里有一只<a>。|有一个<k>的<t>，非常喜欢它。}", "有一{天|次}，<n>在{路上|河边}看到一只<a>。{它很高兴。|它想吃<f>。}",
    "中国{有很多美丽的城市，例如<c>。|的首都是北京。}",
)  # fmt: skip


def plain(c: Context) -> str:
    """A document without chat markup, for text completion."""
    r = c.r
    roll = r.random()
    if roll < 0.3:
        return story_text(c, c.zh)[0]
    if roll < 0.38:
        return r.choice(CODE)[2].replace("<f>", c.draw(lambda: made_up_word(r, 2)))
    if roll < 0.46:
        return _arithmetic_or_opposites(c)
    side = int(c.zh)
    out = []
    for _ in range(r.randint(1, 4)):
        country, town = r.choice(CAPITALS)
        slots = {"n": c.name(), "c": c.city(), "f": r.choice(FOODS)[1] if c.zh else plural(r.choice(FOODS[:16])[0]), "a": r.choice(ANIMALS)[side], "k": r.choice(COLORS)[side], "t": r.choice(THINGS[:70])[side],
                 "l": country.split("|")[side], "p": town.split("|")[side], "u": r.choice(THINGS)[side]}  # fmt: skip
        out.append(expand(r, r.choice(SENTENCES_ZH if c.zh else SENTENCES), slots))
    return ("" if c.zh else " ").join(out)


def _arithmetic_or_opposites(c: Context) -> str:
    r = c.r
    if r.random() < 0.6:
        pairs = [c.draw(lambda: (r.randrange(100), r.randrange(100))) for _ in range(r.randint(1, 6))]
        return "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs)
    if r.random() < 0.5:
        start, step = r.randrange(50), r.choice((1, 1, 1, 2, 5, 10))
        return ", ".join(str(start + step * i) for i in range(r.randint(5, 15)))
    pair = r.choice(OPPOSITES.split(";")).split(" ")
    return f"The opposite of {pair[0]} is {pair[1]}."
