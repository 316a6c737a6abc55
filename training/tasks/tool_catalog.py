# ruff: noqa: E501 - tables of phrases, one a line
"""The verbs, objects, parameters and well-known tools that `tools.py` composes from."""

from __future__ import annotations

from dataclasses import dataclass

from training.words import NOUNS

# Verb in names, verb in descriptions, what users say in English, what users say in Chinese.
VERBS: tuple[tuple[str, ...], ...] = (
    ("get", "get", "get|show me|tell me|fetch|give me|look up|retrieve", "查询|获取|查看"), ("find", "find", "find|search for|look for", "查找|寻找|搜索"),
    ("create", "create", "create|make|set up|add", "创建|新建|添加"), ("delete", "delete", "delete|remove|erase", "删除|移除"), ("update", "update", "update|change|modify|edit", "更新|修改"),
    ("send", "send", "send|mail", "发送"), ("book", "book", "book|reserve", "预订|预定"), ("cancel", "cancel", "cancel|call off", "取消"), ("open", "open", "open", "打开"), ("close", "close", "close|shut", "关闭"),
    ("start", "start", "start|launch|run|begin", "启动|开始|运行"), ("stop", "stop", "stop|halt|end", "停止|结束"), ("check", "check", "check|verify", "检查|核对"), ("order", "order", "order", "订购"), ("buy", "buy", "buy|purchase", "购买|买"),
    ("count", "count", "count", "统计"), ("print", "print", "print", "打印"), ("save", "save", "save|store", "保存|存储"), ("share", "share", "share", "分享"), ("move", "move", "move|transfer", "移动|转移"),
    ("schedule", "schedule", "schedule|plan", "安排"), ("track", "track", "track|trace|follow", "跟踪|追踪"), ("rate", "rate", "rate|score", "评价|打分"), ("export", "export", "export|download", "导出|下载"), ("import", "import", "import|upload", "导入|上传"),
    ("translate", "translate", "translate", "翻译"), ("convert", "convert", "convert|turn", "转换"), ("measure", "measure", "measure", "测量"), ("repair", "repair", "repair|fix|mend", "修理|修复"), ("rename", "rename", "rename", "重命名"),
    ("lock", "lock", "lock", "锁定"), ("unlock", "unlock", "unlock", "解锁"), ("paint", "paint", "paint|color", "画|涂"), ("compute", "compute", "compute|calculate|work out", "计算"), ("list", "list", "list|show all|enumerate", "列出"),
)  # fmt: skip
OBJECTS: list[tuple[str, str]] = [
    *((e, z) for e, z in NOUNS if " " not in e),
    ("invoice", "发票"), ("order", "订单"), ("user", "用户"), ("account", "账户"), ("file", "文件"), ("folder", "文件夹"), ("message", "消息"), ("meeting", "会议"), ("event", "活动"), ("task", "任务"), ("report", "报告"), ("project", "项目"), ("customer", "客户"),
    ("flight", "航班"), ("room", "房间"), ("recipe", "菜谱"), ("product", "产品"), ("payment", "付款"), ("package", "包裹"), ("document", "文档"), ("contact", "联系人"), ("playlist", "播放列表"), ("photo", "照片"), ("video", "视频"), ("server", "服务器"),
    ("database", "数据库"), ("table row", "表格行"), ("appointment", "预约"), ("reservation", "预订单"), ("subscription", "订阅"), ("course", "课程"), ("exam", "考试"), ("patient", "病人"), ("sensor", "传感器"), ("machine", "机器"), ("job", "作业"), ("ticket", "票"),
]  # fmt: skip
# Name in the schema, label in English, label in Chinese, kind of value, JSON type.
PARAMETERS: tuple[tuple[str, str, str, str, str], ...] = (
    ("city", "city", "城市", "city", "string"), ("name", "name", "名字", "person", "string"), ("title", "title", "标题", "text", "string"), ("color", "color", "颜色", "word", "string"), ("size", "size", "大小", "small", "integer"),
    ("amount", "amount", "数量", "small", "integer"), ("quantity", "quantity", "数量", "small", "integer"), ("price", "price", "价格", "decimal", "number"), ("date", "date", "日期", "date", "string"), ("time", "time", "时间", "clock", "string"),
    ("user_id", "user id", "用户编号", "big", "integer"), ("order_id", "order id", "订单号", "code", "string"), ("id", "id", "编号", "code", "string"), ("email", "email", "邮箱", "email", "string"), ("phone", "phone", "电话", "phone", "string"),
    ("priority", "priority", "优先级", "word", "string"), ("status", "status", "状态", "word", "string"), ("category", "category", "类别", "word", "string"), ("level", "level", "级别", "small", "integer"), ("count", "count", "个数", "small", "integer"),
    ("distance", "distance", "距离", "decimal", "number"), ("duration", "duration", "时长", "big", "integer"), ("format", "format", "格式", "word", "string"), ("language", "language", "语言", "language", "string"), ("weight", "weight", "重量", "decimal", "number"),
    ("active", "active", "是否启用", "flag", "boolean"), ("notify", "notify", "是否通知", "flag", "boolean"), ("tags", "tags", "标签", "words", "array"), ("owner", "owner", "所有者", "person", "string"), ("author", "author", "作者", "person", "string"),
    ("location", "location", "地点", "city", "string"), ("destination", "destination", "目的地", "city", "string"), ("topic", "topic", "主题", "text", "string"), ("comment", "comment", "备注", "text", "string"), ("query", "query", "关键词", "text", "string"),
    ("limit", "limit", "上限", "small", "integer"), ("year", "year", "年份", "big", "integer"), ("temperature", "temperature", "温度", "decimal", "number"), ("recipient", "recipient", "收件人", "person", "string"), ("room", "room", "房间", "code", "string"),
    ("key", "key", "键", "code", "string"), ("value", "value", "值", "big", "integer"), ("brand", "brand", "品牌", "word", "string"), ("item", "item", "物品", "noun", "string"), ("page", "page", "页码", "small", "integer"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Common:
    """A tool that many demos use, with the ways people name it and ask for it."""

    group: str
    names: str
    descriptions: str
    description_zh: str
    parameters: tuple[tuple[str, str, str, bool], ...]
    """Possible names, kind of value (or `=a|b` for an enum), JSON type, required."""
    asks: tuple[str, ...]
    asks_zh: tuple[str, ...]
    results: tuple[tuple[str, str, str], ...] = ()
    twice: tuple[str, ...] = ()
    twice_zh: tuple[str, ...] = ()


COMMON: tuple[Common, ...] = (
    Common("weather", "get_weather get_weather get_current_weather weather fetch_weather getWeather current_weather weather_lookup get_forecast", "Get the weather|Get the current weather in a city|Get the current weather in a given location|Get the weather of a city.|Current weather for a place|Returns the weather",
           "查询天气", (("city|city|location|place|town", "city", "string", True), ("unit|units", "=celsius|fahrenheit", "string", False)),
           ("{What is|What's|How is|How's|Tell me} the {current |}weather {like |}in <0>{?| today?| now?| right now?|.}", "{Weather|The weather} in <0>{?| please|, please.|}", "{Is it|Will it be} {cold|hot|warm|sunny|raining} in <0>{?| today?}", "{What is|What's} the temperature in <0>{?| now?}", "{Check|Get|Look up|Show me} the weather {in|for|of} <0>{.|}", "{Do I need an umbrella|Does it rain|Is it raining} in <0>?",
            "{What is|What's} the {weather|temperature} in <0> in <1>?", "{Get|Show me} the weather {in|for} <0>{, in| in} <1>.", "I am in <0>. {How is|What is} the weather?"),
           ("<0>{今天|现在|的|}天气{怎么样|如何|好吗}{？|}", "{请|帮我|}{查一下|查询|看看|告诉我}<0>的天气{。|}", "<0>{今天|现在|}{冷不冷|热吗|下雨吗|多少度}{？|}", "用<1>告诉我<0>的{天气|温度}。"),
           (('{"temperature": <n>, "condition": "<w>"}', "It is <n> degrees and <w> in <0>.", "<0>现在<n>度，<w>。"), ("<w>, <n> degrees", "The weather in <0>: <w>, <n> degrees.", "<0>的天气：<w>, <n> degrees。"), ('{"city": "<0>", "temp": <n>}', "It is <n> degrees in <0>.", "<0>现在<n>度。"), ("<n>", "It is <n> degrees in <0>.", "<0>现在<n>度。"), ("<w>, <n>°C", "The weather in <0>: <w>, <n>°C.", "<0>的天气：<w>, <n>°C。")),
           ("{What is|What's|How is} the weather in <a> and {in |}<b>?", "{Compare|Show me} the weather in <a> and <b>.", "Weather in <a> and <b>{?|, please.|}"), ("<a>和<b>的天气怎么样？", "{请|}{查一下|查询}<a>和<b>的天气。")),
    Common("time", "get_time get_current_time current_time time_now get_local_time", "Get the current time|Get the current time in a city|Returns the local time of a place", "查询当前时间", (("city|timezone|location|place", "city", "string", True),),
           ("{What time is it|What is the time|What's the time} in <0>{?| now?}", "{Tell me|Get|Check} the {current |local |}time in <0>.", "Time in <0>{?|}"), ("<0>{现在|}几点{了|}{？|}", "{请|}{查一下|告诉我}<0>的{时间|当前时间}。"),
           (("<t>", "It is <t> in <0>.", "<0>现在是<t>。"), ('{"time": "<t>"}', "It is <t> in <0>.", "<0>现在是<t>。")), ("What time is it in <a> and <b>?",), ("<a>和<b>现在几点？",)),
    Common("sum", "add sum add_numbers plus", "Add two numbers|Adds two integers|Returns the sum of a and b", "两个数相加", (("a|x|first", "big", "integer", True), ("b|y|second", "big", "integer", True)),
           ("{What is|Calculate|Compute|How much is} <0>{ + | plus |+}<1>{?|.|}", "{Add|Please add} <0> and <1>{.|}", "{Use the tool to add|Sum} <0> and <1>."), ("<0>{加|+| + }<1>{等于多少|是多少}？", "{请|}计算<0>{+|加}<1>。"), (("<m>", "The result is <m>.", "结果是<m>。"),)),
    Common("product", "multiply multiply_numbers times mul", "Multiply two numbers|Multiply two integers.|Returns a times b", "两个数相乘", (("a|x|first", "big", "integer", True), ("b|y|second", "big", "integer", True)),
           ("{What is|Calculate|Compute|How much is} <0>{ * | times | x }<1>{?|.|}", "{Multiply|Please multiply} <0> {by|and|with} <1>{.|}"), ("<0>{乘以|x|*}<1>{等于多少|是多少}？", "{请|}计算<0>{乘以|*}<1>。"), (("<m>", "The result is <m>.", "结果是<m>。"),)),
    Common("search", "search web_search search_web google_search search_the_web", "Search the web|Search the internet for a query|Web search", "搜索网络", (("query|q|search_query|text|keywords", "text", "string", True),),
           ("{Search|Search the web|Search the internet|Google|Look online} for <0>{.|}", "{Find information|Find something} {about|on} <0>{.| on the web.| online.}", "{Please look up|Search} <0> {online|on the web|on the internet}."), ("{请|帮我|}{在网上|上网}{搜索|搜一下|查找}<0>{。|}", "{请|帮我|}搜索{一下|}<0>。"),
           (('{"title": "<u>"}', "I found: <u>.", "我找到了：<u>。"), ("<u>", "I found: <u>.", "我找到了：<u>。")), ("Search for <a> and for <b>.",), ("搜索<a>和<b>。",)),
    Common("email", "send_email email send_mail sendEmail", "Send an email|Sends an email to a person", "发送邮件", (("to|recipient|address", "email", "string", True), ("subject|title", "text", "string", True)),
           ("{Send|Write} an email to <0> {with the subject|about|with subject} <1>{.|}", "{Email|Mail} <0> about <1>{.|}"), ("{请|}给<0>发{一封|}邮件，{主题|标题}是<1>。", "发邮件给<0>，主题：<1>。"), (('{"status": "sent"}', "The email to <0> was sent.", "给<0>的邮件已发送。"), ("sent", "The email to <0> was sent.", "给<0>的邮件已发送。"))),
    Common("stock", "get_stock_price stock_price get_quote", "Get the stock price|Get the price of a stock|Current price of a share", "查询股价", (("symbol|ticker|company", "word", "string", True),),
           ("{What is|What's|Tell me} the {stock |share }price of <0>{?|.}", "{How much is|What does} {a|one} share of <0>{?| cost?}", "{Check|Get} the <0> stock{.| price.}"), ("<0>的{股价|股票价格}是多少？", "{请|}查{一下|询}<0>的股价。"),
           (("<p>", "The price of <0> is <p>.", "<0>的价格是<p>。"), ('{"price": <p>}', "The price of <0> is <p>.", "<0>的价格是<p>。")), ("{What are|Compare} the stock prices of <a> and <b>{?|.}",), ("<a>和<b>的股价是多少？",)),
    Common("translate", "translate translate_text translator", "Translate a text|Translate text to another language", "翻译文字", (("text|input", "text", "string", True), ("target_language|language|to", "language", "string", True)),
           ('{Translate|Please translate} "<0>" {to|into} <1>{.|}', "{Translate|Say} <0> {into|in} <1>{.|}"), ("{请|}把“<0>”翻译成<1>。", "{请|}将<0>翻译成<1>。"), (("<u>", "The translation is: <u>.", "译文是：<u>。"),)),
    Common("reminder", "set_reminder create_reminder add_reminder remind_me", "Set a reminder|Create a reminder for a time", "设置提醒", (("text|message|title", "text", "string", True), ("time|at", "clock", "string", True)),
           ("{Remind me|Set a reminder} {of|about|for} <0> at <1>{.|}", "At <1>, remind me {of|about} <0>."), ("{请|}<1>提醒我<0>。", "{请|}设{置|}一个<1>的提醒：<0>。"), (("ok", "The reminder is set for <1>.", "提醒已设在<1>。"),)),
    Common("alarm", "set_alarm alarm create_alarm", "Set an alarm|Sets an alarm clock", "设置闹钟", (("time|at", "clock", "string", True),), ("{Set an alarm|Wake me up|Set the alarm clock} {for|at} <0>{.|}", "{Wake me at|Alarm at} <0>{.|, please.}"), ("{请|}{设|定}{一个|}<0>的闹钟。", "{请|}<0>叫醒我。"), (("ok", "The alarm is set for <0>.", "闹钟已设在<0>。"),)),
    Common("timer", "set_timer start_timer timer", "Set a timer|Start a timer with minutes", "设置计时器", (("minutes", "small", "integer", True),), ("{Set|Start} a timer for <0> minutes{.|}", "{Set|Start} a <0> minute timer{.|}"), ("{请|}{设|开始}一个<0>分钟的计时器。", "计时<0>分钟。"), (("ok", "The timer runs for <0> minutes.", "计时器已设为<0>分钟。"),)),
    Common("music", "play_music play_song play", "Play music|Play a song", "播放音乐", (("song|title|query", "text", "string", True),), ("{Play|Please play|Put on} {the song |}<0>{.|}", "I want to {hear|listen to} <0>{.|}"), ("{请|}{播放|放}{歌曲|}<0>。", "我想听<0>。"), (("playing", "I am playing <0>.", "正在播放<0>。"),)),
    Common("flight", "search_flights find_flights book_flight get_flights", "Search flights|Find flights between two cities", "查询航班", (("origin|from_city|departure", "city", "string", True), ("destination|to_city|arrival", "city", "string", True), ("date|day", "date", "string", False)),
           ("{Find|Search|Book|Show me} {a flight|flights} from <0> to <1>{.|}", "{I want|I need|I would like} to fly from <0> to <1>{.|}", "{Find|Search|Book|Show me} {a flight|flights} from <0> to <1> on <2>{.|}", "I {want|need} to fly to <1> from <0> on <2>."),
           ("{请|}{查|查询|预订}从<0>{到|飞往}<1>的{航班|机票}。", "我{想|要}从<0>飞{到|往}<1>。", "{请|}{查|查询|预订}<2>从<0>{到|飞往}<1>的{航班|机票}。"), (('{"flight": "<c>", "departure": "<t>"}', "Flight <c> leaves at <t>.", "航班<c>于<t>起飞。"),)),
    Common("hotel", "search_hotels find_hotel book_hotel", "Find hotels in a city|Search a hotel", "查找酒店", (("city|location", "city", "string", True),), ("{Find|Search|Book|Show me} {a hotel|hotels} in <0>{.|}", "{I need|I want} a {hotel|place to stay} in <0>{.|}"), ("{请|}{找|查找|预订}<0>的酒店。", "我{需要|想找}<0>的酒店。"), (('{"hotel": "<u>"}', "I found the hotel <u>.", "我找到了酒店<u>。"),), ("Find hotels in <a> and <b>.",), ("查找<a>和<b>的酒店。",)),
    Common("restaurant", "find_restaurants search_restaurant find_restaurant", "Find restaurants|Find a restaurant in a city", "查找餐厅", (("city|location", "city", "string", True),), ("{Find|Search|Show me|Recommend} {a restaurant|restaurants|a place to eat} in <0>{.|}", "Where can I eat in <0>?"), ("{请|}{找|推荐}<0>的餐厅。", "<0>有什么餐厅？"), (('{"name": "<u>"}', "I found the restaurant <u>.", "我找到了餐厅<u>。"),)),
    Common("news", "get_news news latest_news", "Get the latest news|News about a topic", "查询新闻", (("topic|subject|query", "text", "string", True),), ("{What is|What's|Show me|Get} the {latest |}news {about|on} <0>{?|.}", "{Any|Is there} news about <0>?"), ("{有什么|}关于<0>的新闻{吗|}？", "{请|}查{一下|看}<0>的新闻。"), (('{"headline": "<u>"}', "The news says: <u>.", "新闻说：<u>。"),)),
    Common("currency", "convert_currency exchange_rate currency_converter", "Convert an amount of money|Convert between currencies", "货币换算", (("amount|value", "big", "number", True), ("from_currency|source|from", "=USD|EUR|CNY|JPY|GBP", "string", True), ("to_currency|target|to", "=USD|EUR|CNY|JPY|GBP", "string", True)),
           ("{Convert|Change|Exchange} <0> <1> {to|into} <2>{.|}", "{How much is|What is} <0> <1> in <2>?"), ("{请|}把<0> <1>{换成|换算成}<2>。", "<0> <1>是多少<2>？"), (("<p>", "That is <p> <2>.", "等于<p> <2>。"),)),
    Common("define", "define get_definition dictionary lookup_word", "Get the definition of a word|Look up a word in the dictionary", "查询单词释义", (("word|term", "word", "string", True),), ("{What is the definition of|Define|What does the dictionary say about} <0>{?|.}", "{Look up|Find} <0> in the dictionary{.|}", "Look up the {word|meaning of} <0>."), ("{请|}{查|查一下}<0>的{意思|定义|释义}。", "词典里<0>是什么意思？"), (("<u>", "It means: <u>.", "意思是：<u>。"),)),
    Common("light", "set_light turn_light control_light switch_light", "Turn a light on or off|Switch the light in a room", "开关灯", (("room|location", "noun", "string", True), ("state|mode", "=on|off", "string", True)), ("{Turn|Switch} <1> the light in the <0>{.|}", "{Turn|Switch} the <0> light <1>{.|}"), ("{请|}把<0>的灯设为<1>。", "<0>的灯，<1>。"), (("ok", "The light in the <0> is <1>.", "<0>的灯已设为<1>。"),)),
    Common("calendar", "create_event add_event add_calendar_event schedule_meeting", "Create a calendar event|Add an event to the calendar", "创建日历事件", (("title|name", "text", "string", True), ("date|day", "date", "string", True)), ("{Add|Put|Create} {an event|a meeting} {called|named} <0> on <1>{.| to my calendar.}", "{Schedule|Plan} <0> {on|for} <1>{.|}"), ("{请|}在<1>{创建|添加}{日程|事件}<0>。", "{请|}把<0>安排在<1>。"), (("created", "The event <0> is on <1>.", "事件<0>已安排在<1>。"),)),
    Common("calculator", "calculate calculator evaluate compute_expression", "Evaluate an expression|A calculator for math expressions", "计算表达式", (("expression|expr|formula", "code", "string", True),), ("{Calculate|Evaluate|Compute} {the expression |}<0>{.|}", "Use the calculator {for|on} <0>."), ("{请|}{计算|求}表达式<0>。", "用计算器算<0>。"), (("<m>", "The result is <m>.", "结果是<m>。"),)),
    Common("random", "random_number roll_dice get_random_number", "Get a random number|Roll a random number up to a maximum", "生成随机数", (("max|maximum|upper", "big", "integer", True),), ("{Give me|Pick|Roll|I need} a random number {up to|below|of at most} <0>{.|}",), ("{给我|生成}一个{不超过|最大}<0>的随机数。",), (("<m>", "The number is <m>.", "数字是<m>。"),)),
    Common("population", "get_population city_population population", "Get the population of a city|How many people live in a place", "查询人口", (("city|place", "city", "string", True),), ("{What is|Tell me} the population of <0>{?|.}", "How many people live in <0>?"), ("<0>{有多少人|人口是多少}？",), (("<m>", "<m> people live in <0>.", "<0>有<m>人。"),), ("What is the population of <a> and <b>?",), ("<a>和<b>的人口是多少？",)),
    Common("route", "get_directions find_route directions navigate", "Get directions|Find the way between two places", "查询路线", (("start|from|origin", "city", "string", True), ("end|to|destination", "city", "string", True)), ("{How do I get|What is the way|Show me the way|Navigate|Give me directions} from <0> to <1>{?|.}",), ("从<0>{怎么去|到}<1>{？|怎么走？}", "{请|}{查|规划}从<0>到<1>的路线。"), (('{"distance_km": <m>}', "The way is <m> km long.", "路程是<m>公里。"),)),
    Common("contact", "find_contact get_contact get_phone_number lookup_contact", "Find a contact|Get the phone number of a person", "查找联系人", (("name|person", "person", "string", True),), ("{What is|Find|Look up|Give me} {the phone number|the number|the contact} of <0>{?|.}", "How can I reach <0>?"), ("{请|}{查找|查一下}<0>的{电话|联系方式}。", "<0>的电话是多少？"), (("<c>", "The number of <0> is <c>.", "<0>的号码是<c>。"),), ("Find the phone numbers of <a> and <b>.",), ("查找<a>和<b>的电话。",)),
)  # fmt: skip
