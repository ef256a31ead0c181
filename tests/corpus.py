"""Texts of many kinds, as prompts have them: what an estimate of their tokens is held against."""

from __future__ import annotations

import base64
import json
import random
import uuid
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parents[1]
#: What the estimate may have of the tokens that o200k_base has, by kind: words, data that is no words, and other
#: scripts, some of which that vocabulary knows as well as English.
MOST: Final = {"words": 1.6, "data": 1.6, "signs": 2.2, "scripts": 2.5, "known scripts": 4.2}

_LANGUAGES: Final = {
    "german": "Der Kapitän überprüfte die Ordnung, während die Äpfel in der Küche lagen und größer wurden. ",
    "polish": "Zażółć gęślą jaźń, w Szczebrzeszynie chrząszcz brzmi w trzcinie i z tego słynie. ",
    "turkish": "Çekoslovakyalılaştıramadıklarımızdan mısınız? Güneşli bir günde İstanbul'da yürüdük. ",
    "french": "L'été dernier, j'ai découvert une forêt où les chênes étaient âgés de plusieurs siècles. ",
    "spanish": "Mañana por la mañana el niño irá al colegio con su compañero más pequeño, ¿verdad? ",
    "vietnamese": "Tôi muốn một ly cà phê sữa đá và bánh mì thịt nướng ở thành phố Hồ Chí Minh. ",
    "greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία με τον κιβωτό της γλώσσας. ",
    "chinese": "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。我们需要在下午五点之前修复结帐超时的问题。",
    "japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。コーヒーをください。",
    "korean": "나는 오늘 아침에 커피를 마시고 회의에 참석했습니다. 다람쥐 헌 쳇바퀴에 타고파. ",
    "hebrew": "אני רוצה כוס קפה עם חלב בבקשה, כי קר היום בעיר הגדולה. ",
    "amharic": "እባክዎን አንድ ስኒ ቡና ከወተት ጋር እፈልጋለሁ ምክንያቱም ዛሬ በከተማው ውስጥ ቀዝቃዛ ነው። ",
}
_KNOWN: Final = {
    "russian": "Съешь же ещё этих мягких французских булок, да выпей чаю. ",
    "arabic": "أريد فنجانا من القهوة بالحليب من فضلك، فالجو بارد اليوم في المدينة. ",
    "hindi": "मुझे दूध के साथ एक कप कॉफ़ी चाहिए क्योंकि आज शहर में बहुत ठंड है। ",
    "thai": "ฉันต้องการกาแฟใส่นมหนึ่งแก้วเพราะวันนี้อากาศในเมืองหนาวมาก ",
    "tamil": "எனக்கு பாலுடன் ஒரு கப் காபி வேண்டும் ஏனெனில் இன்று நகரத்தில் குளிராக உள்ளது. ",
    "georgian": "მე მინდა ერთი ფინჯანი ყავა რძით, რადგან დღეს ქალაქში ცივა. ",
}


def texts() -> list[tuple[str, str, str]]:
    """Returns each text with its name and its kind: the same ones each time."""
    dice = random.Random(5)
    data = dice.randbytes
    prose = (_HERE / "docs/architecture.md").read_text()[:8000]
    some = [{"id": n, "name": "oat latte", "tags": ["a", "b"], "price": 3.5} for n in range(60)]
    found = [
        ("prose", "words", prose),
        ("licence", "words", (_HERE / "LICENSE").read_text()),
        ("capitals", "words", prose.upper()),
        ("a program", "words", (_HERE / "src/kibo/branch/mailroom.py").read_text()[:8000]),
        ("json", "words", json.dumps(some)),
        ("indented json", "words", json.dumps(some, indent=2)),
        ("a log", "words", "\n".join(_log_line(dice, n) for n in range(80))),
        ("addresses", "words", "\n".join(f"https://example.com/{data(8).hex()}?page={n}" for n in range(60))),
        ("a diff", "words", "@@ -1,5 +1,5 @@\n-    return x\n+    return x + 1\n \n def f():\n" * 20),
        ("a page", "words", '<div class="card mb-3"><a href="/x?y=1&amp;z=2">Kaf&eacute;</a></div>\n' * 20),
        ("escapes", "words", json.dumps("Zażółć gęślą \N{GRINNING FACE} 天地玄黄 " * 20)),
        ("a table", "words", "\n".join(f'{n},{dice.random():.4f},"name {n}",yes' for n in range(100))),
        ("base64", "data", base64.b64encode(data(3000)).decode()),
        ("base64 in lines", "data", base64.encodebytes(data(3000)).decode()),
        ("base64 of a text", "data", base64.b64encode(prose.encode()).decode()),
        ("base64 of an url", "data", base64.urlsafe_b64encode(data(3000)).decode()),
        ("base64 in json", "data", json.dumps([base64.b64encode(data(90)).decode() for _ in range(30)])),
        ("tokens", "data", "\n".join(base64.urlsafe_b64encode(data(60)).decode() for _ in range(20))),
        ("base32", "data", base64.b32encode(data(2000)).decode()),
        ("hexadecimal", "data", data(3000).hex()),
        ("hexadecimal capitals", "data", data(3000).hex().upper()),
        ("a dump", "data", "\n".join(f"{n:08x}  {data(16).hex(' ')}" for n in range(0, 1600, 16))),
        ("digests", "data", "\n".join(f"{data(32).hex()}  name-{n}" for n in range(40))),
        ("ids", "data", "\n".join(str(uuid.UUID(bytes=data(16))) for _ in range(80))),
        ("digits", "data", "".join(dice.choices("0123456789", k=2000))),
        ("numbers", "data", " ".join(str(dice.randrange(10 ** dice.randrange(1, 12))) for _ in range(300))),
        ("fractions", "data", ", ".join(repr(dice.random()) for _ in range(200))),
        ("nucleotides", "data", "".join(dice.choices("ACGT", k=2000))),
        ("random ASCII", "data", "".join(chr(dice.randrange(32, 127)) for _ in range(2000))),
        ("any character", "data", "".join(_any(dice) for _ in range(1000))),
        ("emoji", "signs", "".join(map(chr, [*range(0x1F300, 0x1F650), *range(0x1F680, 0x1F6F0)]))),
        ("joined emoji", "signs", "👨‍👩‍👧‍👦 🤷🏻‍♀️ 👩🏿‍🚀 🏴‍☠️ 🇯🇵🇧🇷 ❤️ ⚠️ ✅ " * 20),
        ("emoji in prose", "signs", "Deployed 🚀 all tests ✅ thanks 🙏🏽 team! " * 20),
        ("mathematics", "signs", "∀x∈ℝ: ∃y∈ℕ, x²≤y ⇒ ∫₀^∞ e^{-x²}dx = √π⁄2 ≈ 0.886; α→β⊕γ. " * 20),
        ("a frame", "signs", "┌────────┬───────┐\n│ name   │ state │\n└────────┴───────┘\n" * 20),
        ("marks", "signs", "h̶̢̛e̵̡͝l̴̨̛l̷̡̛o̸̧͝ " * 20),
        ("a terminal", "signs", "\x1b[31merror\x1b[0m: \x1b[1mno\x1b[22m\r\n" * 20),
        ("quotes", "signs", "“It’s done” — she said… ‘really’? " * 20),
        ("indents", "signs", "\n".join(" " * dice.randrange(0, 40) + "x" for _ in range(200))),
        ("blanks", "signs", " " * 2000),
    ]
    found += [(name, "scripts", text * 10) for name, text in _LANGUAGES.items()]
    return found + [(name, "known scripts", text * 10) for name, text in _KNOWN.items()]


def _log_line(dice: random.Random, number: int) -> str:
    return (
        f"2026-11-28T07:{number % 60:02}:12.{dice.randrange(1000):03}Z ERROR [worker-{number}] kibo.store.log: append "
        f"failed after {dice.random():.3f}s (errno={dice.randrange(130)}) path=/var/lib/kibo/{dice.randbytes(4).hex()}"
    )


def _any(dice: random.Random) -> str:
    """A character of any plane; no halves."""
    return chr(dice.choice((dice.randrange(0x80, 0xD800), dice.randrange(0xE000, 0x110000))))
