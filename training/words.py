# ruff: noqa: E501, SIM905 - tables of words, many a line
"""The generator's own word lists, English with Chinese, and words that are made up on the spot."""

from __future__ import annotations

from random import Random


def _pairs(text: str) -> list[tuple[str, str]]:
    """`"cat:猫 dog:狗"` -> `[("cat", "猫"), ("dog", "狗")]`; an underscore stands for a space."""
    out = []
    for item in text.split():
        english, chinese = item.split(":")
        out.append((english.replace("_", " "), chinese.replace("_", " ")))
    return out


ANIMALS = _pairs(
    "cat:猫 dog:狗 bird:鸟 fish:鱼 horse:马 cow:牛 sheep:羊 pig:猪 rabbit:兔子 mouse:老鼠 tiger:老虎 lion:狮子 bear:熊 "
    "fox:狐狸 wolf:狼 monkey:猴子 elephant:大象 duck:鸭子 goose:鹅 frog:青蛙 snake:蛇 turtle:乌龟 panda:熊猫 deer:鹿 "
    "goat:山羊 owl:猫头鹰 whale:鲸鱼 shark:鲨鱼 dolphin:海豚 penguin:企鹅 spider:蜘蛛 bee:蜜蜂 ant:蚂蚁 camel:骆驼 "
    "donkey:驴 squirrel:松鼠 hedgehog:刺猬 crow:乌鸦 eagle:老鹰 swan:天鹅 parrot:鹦鹉 hamster:仓鼠 crab:螃蟹 zebra:斑马"
)
FOODS = _pairs(
    "apple:苹果 banana:香蕉 pear:梨 orange:橙子 grape:葡萄 lemon:柠檬 peach:桃子 cherry:樱桃 mango:芒果 melon:甜瓜 "
    "strawberry:草莓 blueberry:蓝莓 pineapple:菠萝 coconut:椰子 tomato:番茄 potato:土豆 carrot:胡萝卜 onion:洋葱 "
    "cabbage:卷心菜 cucumber:黄瓜 pumpkin:南瓜 corn:玉米 rice:米饭 bread:面包 noodle:面条 dumpling:饺子 pizza:披萨 "
    "soup:汤 cake:蛋糕 cookie:饼干 cheese:奶酪 butter:黄油 egg:鸡蛋 chicken:鸡肉 beef:牛肉 salad:沙拉 sandwich:三明治 "
    "chocolate:巧克力 honey:蜂蜜 sugar:糖 salt:盐 tea:茶 coffee:咖啡 milk:牛奶 juice:果汁 water:水 pasta:意大利面 tofu:豆腐"
)
THINGS = _pairs(
    "book:书 pen:笔 pencil:铅笔 table:桌子 chair:椅子 lamp:台灯 door:门 window:窗户 house:房子 car:汽车 bus:公共汽车 "
    "train:火车 plane:飞机 boat:船 bicycle:自行车 key:钥匙 phone:手机 computer:电脑 camera:相机 clock:时钟 watch:手表 "
    "bag:包 box:盒子 bottle:瓶子 cup:杯子 plate:盘子 spoon:勺子 knife:刀 fork:叉子 bowl:碗 hat:帽子 coat:外套 shirt:衬衫 "
    "shoe:鞋子 sock:袜子 glove:手套 umbrella:雨伞 ring:戒指 mirror:镜子 bed:床 sofa:沙发 carpet:地毯 pillow:枕头 "
    "blanket:毯子 basket:篮子 hammer:锤子 rope:绳子 candle:蜡烛 letter:信 map:地图 coin:硬币 ball:球 kite:风筝 doll:娃娃 "
    "drum:鼓 piano:钢琴 guitar:吉他 violin:小提琴 flute:笛子 picture:画 flower:花 tree:树 leaf:叶子 stone:石头 river:河 "
    "mountain:山 lake:湖 sea:海 island:岛 forest:森林 garden:花园 bridge:桥 road:路 school:学校 hospital:医院 library:图书馆 "
    "museum:博物馆 park:公园 shop:商店 market:市场 bank:银行 station:车站 airport:机场 hotel:酒店 sun:太阳 moon:月亮 "
    "star:星星 cloud:云 rain:雨 snow:雪 wind:风 fire:火 ice:冰 gold:金子 silver:银子 paper:纸 newspaper:报纸 ticket:票 "
    "wallet:钱包 notebook:笔记本 keyboard:键盘 screen:屏幕 robot:机器人 rocket:火箭 castle:城堡 tower:塔 wheel:轮子 "
    "ladder:梯子 engine:发动机 friend:朋友 teacher:老师 student:学生 doctor:医生 mother:妈妈 father:爸爸 brother:兄弟 "
    "sister:姐妹 child:孩子 king:国王 queen:王后 farmer:农民 driver:司机 baker:面包师 painter:画家 singer:歌手 city:城市 "
    "village:村庄 country:国家 world:世界 language:语言 music:音乐 song:歌 story:故事 game:游戏 money:钱 time:时间 day:天 "
    "night:夜晚 morning:早晨 year:年 week:星期 month:月 winter:冬天 summer:夏天 spring:春天 autumn:秋天"
)
COLORS = _pairs(
    "red:红色 blue:蓝色 green:绿色 yellow:黄色 black:黑色 white:白色 brown:棕色 gray:灰色 purple:紫色 pink:粉色 "
    "orange:橙色 silver:银色 golden:金色"
)
ADJECTIVES = _pairs(
    "big:大 small:小 old:老 new:新 fast:快 slow:慢 hot:热 cold:冷 long:长 short:短 good:好 bad:坏 happy:高兴 sad:难过 "
    "clean:干净 dirty:脏 strong:强壮 weak:弱 rich:富有 poor:贫穷 heavy:重 light:轻 quiet:安静 loud:吵闹 kind:善良 "
    "brave:勇敢 clever:聪明 lazy:懒 warm:温暖 bright:明亮 dark:黑暗 soft:软 hard:硬 full:满 empty:空 easy:容易 "
    "difficult:困难 beautiful:美丽 tired:累 hungry:饿"
)
OPPOSITES = (
    "big small;hot cold;old new;fast slow;long short;good bad;happy sad;clean dirty;strong weak;rich poor;heavy light;"
    "quiet loud;bright dark;soft hard;full empty;easy difficult;high low;open closed;early late;up down;left right;"
    "day night;yes no;begin end;win lose;buy sell;love hate;in out;near far;wet dry;thick thin;young old"
)
OPPOSITES_ZH = (
    "大 小;热 冷;快 慢;长 短;好 坏;高兴 难过;干净 脏;强 弱;富 穷;重 轻;安静 吵闹;明亮 黑暗;软 硬;满 空;容易 困难;"
    "高 低;开 关;早 晚;上 下;左 右;白天 黑夜;开始 结束;赢 输;买 卖;爱 恨;里 外;近 远;湿 干;厚 薄"
)
CAPITALS = _pairs(
    "France|法国:Paris|巴黎 Germany|德国:Berlin|柏林 Italy|意大利:Rome|罗马 Spain|西班牙:Madrid|马德里 "
    "Portugal|葡萄牙:Lisbon|里斯本 England|英国:London|伦敦 Ireland|爱尔兰:Dublin|都柏林 China|中国:Beijing|北京 "
    "Japan|日本:Tokyo|东京 Korea|韩国:Seoul|首尔 India|印度:New_Delhi|新德里 Russia|俄罗斯:Moscow|莫斯科 "
    "Egypt|埃及:Cairo|开罗 Kenya|肯尼亚:Nairobi|内罗毕 Canada|加拿大:Ottawa|渥太华 Mexico|墨西哥:Mexico_City|墨西哥城 "
    "Brazil|巴西:Brasilia|巴西利亚 Argentina|阿根廷:Buenos_Aires|布宜诺斯艾利斯 Chile|智利:Santiago|圣地亚哥 "
    "Peru|秘鲁:Lima|利马 Cuba|古巴:Havana|哈瓦那 Norway|挪威:Oslo|奥斯陆 Sweden|瑞典:Stockholm|斯德哥尔摩 "
    "Finland|芬兰:Helsinki|赫尔辛基 Denmark|丹麦:Copenhagen|哥本哈根 Poland|波兰:Warsaw|华沙 Austria|奥地利:Vienna|维也纳 "
    "Hungary|匈牙利:Budapest|布达佩斯 Greece|希腊:Athens|雅典 Turkey|土耳其:Ankara|安卡拉 Belgium|比利时:Brussels|布鲁塞尔 "
    "Switzerland|瑞士:Bern|伯尔尼 Thailand|泰国:Bangkok|曼谷 Vietnam|越南:Hanoi|河内 Australia|澳大利亚:Canberra|堪培拉 "
    "the_USA|美国:Washington|华盛顿 the_Netherlands|荷兰:Amsterdam|阿姆斯特丹 Ukraine|乌克兰:Kyiv|基辅 "
    "Morocco|摩洛哥:Rabat|拉巴特 Iceland|冰岛:Reykjavik|雷克雅未克 Singapore|新加坡:Singapore|新加坡"
)
CITIES = _pairs(
    "Paris:巴黎 Berlin:柏林 Rome:罗马 Madrid:马德里 Lisbon:里斯本 London:伦敦 Dublin:都柏林 Beijing:北京 Tokyo:东京 "
    "Seoul:首尔 Moscow:莫斯科 Cairo:开罗 Nairobi:内罗毕 Ottawa:渥太华 Oslo:奥斯陆 Stockholm:斯德哥尔摩 Helsinki:赫尔辛基 "
    "Copenhagen:哥本哈根 Warsaw:华沙 Vienna:维也纳 Budapest:布达佩斯 Athens:雅典 Brussels:布鲁塞尔 Bangkok:曼谷 Hanoi:河内 "
    "Shanghai:上海 Shenzhen:深圳 Guangzhou:广州 Hangzhou:杭州 Chengdu:成都 Wuhan:武汉 Nanjing:南京 Suzhou:苏州 Xian:西安 "
    "Qingdao:青岛 Dalian:大连 Kunming:昆明 Chicago:芝加哥 Boston:波士顿 Seattle:西雅图 Denver:丹佛 Toronto:多伦多 "
    "Montreal:蒙特利尔 Sydney:悉尼 Melbourne:墨尔本 Munich:慕尼黑 Hamburg:汉堡 Milan:米兰 Venice:威尼斯 Florence:佛罗伦萨 "
    "Barcelona:巴塞罗那 Lyon:里昂 Geneva:日内瓦 Zurich:苏黎世 Prague:布拉格 Istanbul:伊斯坦布尔 Dubai:迪拜 Mumbai:孟买 "
    "Singapore:新加坡 Lima:利马 Havana:哈瓦那 Manchester:曼彻斯特 Oxford:牛津 Kyoto:京都 Osaka:大阪 Houston:休斯敦 "
    "Dallas:达拉斯 Miami:迈阿密 Glasgow:格拉斯哥 Naples:那不勒斯 San_Francisco:旧金山 New_York:纽约 Los_Angeles:洛杉矶 "
    "Hong_Kong:香港 Tianjin:天津 Harbin:哈尔滨"
)
NAMES = (
    "Anna Ben Carla David Emma Frank Grace Henry Irene Jack Kate Leo Maria Nina Oscar Paula Quentin Rosa Sam Tina Ursula "
    "Victor Wendy Xavier Yvonne Zoe Alice Bob Charlie Diana Eric Fiona George Hannah Ivan Julia Kevin Laura Martin Nora "
    "Oliver Peter Rachel Simon Tom Vera Walter Amy Brian Clara Daniel Elena Felix Gloria Hugo Isabel James Karen Linda "
    "Michael Nadia Omar Philip Robert Sarah Thomas Ahmed Aisha Akira Bjorn Chen Dmitri Fatima Giulia Hiro Ingrid Jorge "
    "Kofi Lars Mei Noor Olga Pablo Ravi Sofia Tariq Yuki Zara Adam Bella Colin Daisy Edward Freya Gavin Helen Ian Jane "
    "Lucy Max Nick Olivia Paul Ruth Steve Tara John Mary William Elizabeth Susan Jessica Mark Lisa Nancy Betty Sandra "
    "Ashley Andrew Joshua Emily Donna Michelle Carol Amanda Ryan Jacob Nicholas Jonathan Stephen Larry Justin Scott "
    "Brandon Samuel Gregory Patrick Alexander Jerry Dennis Tyler Aaron Nathan Kyle Priya Arjun Lena Jonas Mia Luca Noah"
).split()
SURNAMES = (
    "Smith Brown Miller Wilson Moore Taylor Clark Lewis Walker Hall Young King Wright Green Baker Adams Nelson Carter "
    "Turner Parker Evans Collins Stewart Morris Rogers Reed Cook Morgan Bell Murphy Cooper Ward Fox Gray Wood Stone Hill"
).split()
SURNAMES_ZH = list(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏"
)
GIVEN_ZH = list(
    "明红伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛超霞平刚桂文辉玲建国华云志新春梅晓燕海波宁雪飞浩宇轩子涵欣怡佳琪思雨梦瑶天"
    "昊博睿嘉豪俊凯峰龙彬鑫鹏翔琳瑞婷慧莹颖洁蕾薇菲雅诗语晨阳乐安康成林森木水山石青松竹兰菊荷月星辰光亮"
)
NICKNAMES_ZH = [
    "小明",
    "小红",
    "小华",
    "小丽",
    "小刚",
    "小芳",
    "小强",
    "小李",
    "小王",
    "小张",
    "老王",
    "老李",
    "阿明",
    "阿花",
]
JOBS = _pairs(
    "teacher:老师 doctor:医生 baker:面包师 driver:司机 painter:画家 singer:歌手 farmer:农民 engineer:工程师 nurse:护士 "
    "lawyer:律师 cook:厨师 pilot:飞行员 writer:作家 student:学生 gardener:园丁 dentist:牙医 programmer:程序员 "
    "scientist:科学家 librarian:图书管理员 carpenter:木匠 tailor:裁缝 waiter:服务员 policeman:警察 journalist:记者"
)
HOBBIES = _pairs(
    "reading:阅读 swimming:游泳 running:跑步 cooking:做饭 painting:画画 singing:唱歌 dancing:跳舞 fishing:钓鱼 hiking:徒步 "
    "chess:下棋 football:足球 basketball:篮球 tennis:网球 gardening:园艺 photography:摄影 cycling:骑车 skiing:滑雪 "
    "traveling:旅行 yoga:瑜伽 knitting:编织"
)
DAYS = _pairs(
    "Monday:星期一 Tuesday:星期二 Wednesday:星期三 Thursday:星期四 Friday:星期五 Saturday:星期六 Sunday:星期日"
)
MONTHS = _pairs(
    "January:一月 February:二月 March:三月 April:四月 May:五月 June:六月 July:七月 August:八月 September:九月 October:十月 "
    "November:十一月 December:十二月"
)
LANGUAGES = _pairs(
    "English:英语 French:法语 German:德语 Spanish:西班牙语 Italian:意大利语 Chinese:中文 Japanese:日语 Korean:韩语 "
    "Russian:俄语 Arabic:阿拉伯语 Portuguese:葡萄牙语 Dutch:荷兰语 Swedish:瑞典语 Greek:希腊语 Turkish:土耳其语"
)
VERBS = (
    "walk run jump sing dance read write cook clean open close paint draw build carry throw catch watch listen learn "
    "teach help play work sleep eat drink buy sell find keep hold push pull climb swim fly drive ride wait laugh smile"
).split()
TOPICS = _pairs(
    "quantum_physics:量子物理 the_stock_market:股票市场 world_politics:国际政治 medicine:医学 the_Roman_Empire:罗马帝国 "
    "black_holes:黑洞 climate_change:气候变化 philosophy:哲学 organic_chemistry:有机化学 the_French_Revolution:法国大革命 "
    "modern_art:现代艺术 tax_law:税法 machine_learning:机器学习 football_history:足球历史 opera:歌剧 genetics:遗传学 "
    "astronomy:天文学 economics:经济学 the_Second_World_War:第二次世界大战 blockchain:区块链 neural_networks:神经网络 "
    "poetry:诗歌 architecture:建筑 geology:地质学 psychology:心理学 the_internet:互联网 vaccines:疫苗 volcanoes:火山 "
    "dinosaurs:恐龙 the_Olympics:奥运会 movies:电影 pop_music:流行音乐 history:历史 geography:地理 religion:宗教 "
    "nuclear_power:核能 electric_cars:电动汽车 the_brain:大脑 the_universe:宇宙 relativity:相对论 evolution:进化论"
)

NOUNS = ANIMALS + FOODS + THINGS
COMMON_ENGLISH = sorted({e for e, _ in NOUNS + COLORS + ADJECTIVES + JOBS + HOBBIES if " " not in e} | set(VERBS))
HANZI = bytes(
    b
    for high in range(0xB0, 0xD8)
    for low in range(0xA1, 0xFF)
    if not (high == 0xD7 and low > 0xF9)
    for b in (high, low)
).decode("gb2312")
"""The 3 755 common characters, read from the order of an encoding."""

_ONSETS = "b c d f g h j k l m n p qu r s t v w x z bl br ch cl cr dr fl fr gl gr kl kr pl pr sc sh sk sl sm sn sp st str sw th tr".split()
_NUCLEI = "a e i o u a e i o u ai ea ee oo ou ie y au".split()
_CODAS = ["", "", "", "", *"b d f g k l m n p r s t x n r l ck ll nd ng nk nt rd rk rm rn sh ss st th".split()]


def made_up_word(r: Random, syllables: int = 0) -> str:
    """A lower-case word that is in no list, such as `brondap`."""
    count = syllables or r.choice((2, 2, 2, 3, 3, 4))
    return "".join(r.choice(_ONSETS) + r.choice(_NUCLEI) + r.choice(_CODAS) for _ in range(count))


def made_up_hanzi(r: Random, length: int = 0) -> str:
    """Random common characters, such as a name nobody has."""
    return "".join(r.choice(HANZI) for _ in range(length or r.choice((2, 2, 3, 3, 4))))


def plural(noun: str) -> str:
    """The English plural of a countable noun by the common rules and this list's exceptions."""
    irregular = {
        "mouse": "mice", "goose": "geese", "child": "children", "knife": "knives", "leaf": "leaves", "wolf": "wolves",
        "sheep": "sheep", "fish": "fish", "deer": "deer", "policeman": "policemen", "foot": "feet", "man": "men",
        "woman": "women", "tooth": "teeth", "person": "people", "potato": "potatoes", "tomato": "tomatoes",
    }  # fmt: skip
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
