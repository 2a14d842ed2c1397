#!/usr/bin/env python3
"""Writes tests/golden/tokenizer: hard strings with the ids that transformers' CLIPTokenizer and sentencepiece give them.

Run in the project's root folder:  python3 tools/make_tokenizer_goldens.py
Needs transformers 5 and sentencepiece 0.2.3 (the versions are written into the files). The small second SentencePiece model
(byte fallback, some rules of nmt_nfkc, a user-defined piece) is trained here when it is missing; delete it to train it again.

Files: strings.txt, one string per line as hexadecimal UTF-8 (may be empty); clip.txt, unigram.txt, unigram_bytes.txt: in line i
the ids of string i without padding or cutting, with start and end ids. Lines that begin with '#' are comments.
"""
import os
import unicodedata

GOLDEN = "tests/golden/tokenizer"
SMALL = GOLDEN + "/bytes.model"
CLIP = "models/emoji/tokenizer"
T5 = "models/emoji/tokenizer_2/spiece.model"


def hard_strings():
    nfd = lambda s: unicodedata.normalize("NFD", s)
    s = ["", " ", "  ", "\t", "\n", "a", "A", " a", "a ", "  a  b  ", "a photo of a cat", "A Photo of a CAT, 4k!!",
         "red apple", "smiling face with heart-eyes", "don't can't I'll we've they're I'm he'd it's", "DON'T CAN'T I'LL WE'VE",
         "'s", "''s", "!'s", "'S'T'RE'VE'M'LL'D", "'super 'the 'really 'velvet 'more 'llama 'dog", "rock'n'roll o'clock",
         "0", "1234567890", "3.14159", "1,000,000", "a1b2c3", "12ab34", "v2.0-rc1", "½ ¼ ¾ ⅓ Ⅻ ⅻ ① ⑳ ㊿", "٠١٢٣٤٥٦٧٨٩",
             "०१२३४५६७८९", "x² y³ H₂O",
         "....", "!!!???", "---", "a-b_c", "(((nested) brackets)", "a...b", "***", "~`@#$%^&*()_+{}|:\"<>?-=[]\\;',./", "<|>",
             "<|", "|>", "<||>",
         "https://example.org/a?b=c&d=e#f", "user@example.org", "C:\\path\\file.txt", "/usr/bin/env", "#hashtag @name",
             "$5 €5 £5 ¥5 ₹5", "100%"]
    # special tokens written out, in and out of case, whole and broken
    s += ["<|startoftext|>", "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>",
          "<|startoftext|> a <|endoftext|> b", "<|STARTOFTEXT|> x",
          "x<|EndOfText|>y", "!<|ENDOFTEXT|>!", "<|endoftext|", "|endoftext|>", "<|endof text|>", "<<|endoftext|>>", "</s>",
              "<s>", "<unk>", "<pad>",
          "a</s>b", "<extra_id_0>", "<0x41>", "<0xFF>", "<0xff>", "[CLS]", "<sep>", "a<sep>b", "a <sep> b"]
    # white space of every kind
    spaces = [0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x85, 0xA0, 0x1680,
              0x180E] + list(range(0x2000, 0x2010)) + \
        [0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF]
    s += ["cat%sdog" % chr(c) for c in spaces]
    s += ["".join(map(chr, spaces)), "\u3000cat\u3000", "\u00a0\u00a0cat\u00a0\u00a0", "cat\r\ndog\r\n", "\n\ncat\n\n",
          "\t cat \t dog \t", " \u2003 \u2003 ", "cat  \u00a0 \u3000dog",
          "\u2581", "\u2581\u2581cat", "cat\u2581dog", "cat\u2581", " \u2581 "]
    # accents, composed and decomposed; marks that reorder; hangul
    for w in ["café", "naïve façade", "Ångström Å", "Crème Brûlée", "ÀÉÎÕÜ", "żółć ŁÓDŹ", "Příliš žluťoučký kůň",
              "Việt Nam ệ ộ", "ǖǘǚǜ", "ṩ ṧ", "한국어 고양이", "が ぎ パ", "й ё", "ΐ ΰ", "ḍ̇ q̣̇"]:
        s += [w, nfd(w)]
    s += ["e\u0301", "\u0301e", "\u0301", "a\u0323\u0302", "a\u0302\u0323", "q\u0307\u0323", "a" + "\u0301" * 20,
          "Z̷̢̛̬a̵̡͔l̸̳̈́g̶̖̀o̴͉͝", "x\u20e3", "1\ufe0f\u20e3", "\u0344 \u0340 \u0341",
          "\u1100\u1161\u11a8", "\u1100\u1161 \u11a8", "\u212b \u2126 \u212a", "\u0958 \u0929", "\u2adc",
              "\U0001d15e \U0001d1bb", "\uf900 \uf9ff \ufa0e \U0002f800"]
    # case: Turkish, German, Greek, Cherokee, Georgian, titlecase, mathematical
    s += ["İstanbul ISPARTA ılık Iğdır", "i\u0307", "STRASSE Straße STRAẞE", "ΟΔΥΣΣΕΥΣ ΟΔΟΣ Σ ς σ ΑΣ.", "ǅ ǈ ǋ ǲ Ǆ", "ᎠᎡ ꭰꭱ",
          "ᲐᲑ აბ Ⴀ", "𝐀𝐁 𝒜 𝔸", "ÞÆŒ ĲĳŊ", "Ⓐⓐ Ⅷ", "𐐀𐐨", "ΆΈΉ ᾼ ῼ ᾳ", "ꜲꜳꞋ Ɐ Ȿ",
          "ﬁ ﬂ ﬀ ﬃ ﬄ ﬅ ﬆ", "Ａｂｃ １２３ ！？", "ｶﾞ ﾊﾟ ｱｲｳ", "㌔ ㍿ ㈱ ㋀", "ﷺ ﷲ", "ª º ™ © ® ℃ ℉ № ℡", "…‥․ ‼ ⁇", "𝓗𝓮𝓵𝓵𝓸", "ᵃᵇᶜ ₐₑ",
              "ﾠ ㅤ"]
    # scripts
    s += ["猫の絵文字", "红色的苹果,白色背景", "紅色的蘋果、白色背景。", "日本語とEnglishの混在123", "𠀀𠜎𪚥", "中文。中文！中文？「引号」", "ไทย ภาษาไทย กำ", "สวัสดีครับ",
          "مرحبا بالعالم", "السَّلامُ عَلَيْكُمْ", "ﻣﺮﺣﺒﺎ", "لا ﻻ", "שלום עולם", "שָׁלוֹם", "יִשְׂרָאֵל",
          "नमस्ते दुनिया", "क्षत्रिय ज्ञ", "বাংলা ভাষা", "தமிழ் மொழி", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "සිංහල", "မြန်မာဘာသာ",
              "ខ្មែរ", "ລາວ", "བོད་སྐད", "አማርኛ", "հայերեն Ա և", "ქართული", "Привет, мир! ЁЖ", "Ελληνικά", "ᏣᎳᎩ", "ᐃᓄᒃᑎᑐᑦ",
                  "ᚠᚢᚦ", "𓀀𓂀", "𒀀", "ꦗꦮ", "ⴰⵎⴰⵣⵉⵖ", "𐎀𐎁"]
    # emoji: plain, skin tones, joined, flags, keycaps, variation selectors, tags
    s += ["😀", "😀😀😀", "cat 🐱 dog 🐶", "👍🏽", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇯🇵", "1️⃣2️⃣#️⃣", "❤️ ❤ ❤︎", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🧑🏿‍🤝‍🧑🏻",
          "☃️☂️", "🫠🫡", "a👍b", "👁️‍🗨️", "🤷‍♀️", "\u200d", "\ufe0f", "🪿🫨", "☕️☕"]
    # controls, zero width, bidi, private use, noncharacters, astral, unassigned, newer than Unicode 15
    s += ["a\x01b", "\x7f", "".join(map(chr, range(1, 32))), "a\x1b[31mb", "\x80\x9f", "a\u200bb", "a\u200cb", "a\u2060b",
          "\ufeffcat", "soft\u00adhyphen", "\u202eabc\u202c", "\u2066x\u2069", "\u061c",
          "\ue000\uf8ff", "\U000f0000\U0010fffd", "\uffff\ufffe", "\ufffd", "\ufdd0", "\U0010ffff", "\u0378", "\U0001f8ff",
              "\U000e0001", "\u034f", "\u180b", "\ufff9\ufffa\ufffb", "\u2028\u2029",
          "\u1c89\u1c8a", "\ua7cb\ua7cc\ua7ce\ua7d2\ua7da\ua7dc", "\U00010d50\U00010d65\U00010d40", "\U00016ea0", "\U000105c0",
              "a\u0898\u0334", "a\u1acf\u0334", "\U00011935\U00011930", "a\u0300\u1dfa\u0323"]
    # quotes and punctuation beyond ASCII
    s += ["“quoted” ‘single’ «guillemets» „low“", "don’t it’s we’ll", "a–b—c―d", "¿Qué? ¡Hola!", "·•◦‣", "→←↑↓⇒", "∀x∈ℝ: x²≥0",
          "√2 ≈ 1.414", "█▓▒░", "♠♥♦♣", "♪♫", "²³¹", "µ μ", "ſ K Å"]
    # ties that only rounding decides, runs, long words, long texts
    s += [".999", "a.999", "have.999 .9999 .99", "999", "aaaaaaaa", "a" * 100, "ab" * 200, "9" * 77, "!" * 200,
          " ".join("a" * 30), "word " * 80, "猫" * 150, "😀" * 40, "supercalifragilisticexpialidocious" * 3,
          "xqzjkvw" * 30, "é" * 200, nfd("é") * 120, "a \u0301" * 60, "the " * 400,
              ("The quick brown fox jumps over the lazy dog. " * 30), " " * 500, "a" + " " * 300 + "b", "\u2581" * 100,
                  "<|endoftext|>" * 20,
          "".join(chr(0x4E00 + 37 * i) for i in range(200)), "".join(chr(c) for c in range(0x21, 0x250)),
              "".join(chr(c) for c in range(0x370, 0x530) if unicodedata.category(chr(c)) != "Cn"),
                  "".join(chr(c) for c in range(0x300, 0x370))]
    return s


def small_rules(path):
    """Normalisation rules like nmt_nfkc's for a few blocks (the whole table would be 240 KB; models/emoji has it)."""
    blocks = [(0xA0, 0x180), (0x1E00, 0x1F00), (0x2000, 0x2070), (0x2100, 0x2150), (0x3000, 0x3001), (0xFB00, 0xFB07), (0xFF01,
            0xFFA0)]
    rules = {}
    for c in (chr(x) for first, end in blocks for x in range(first, end)):
        to = unicodedata.normalize("NFKC", c)
        for source in {c, unicodedata.normalize("NFD", c)}:
            if source != to:
                rules[source] = to
    rules.update({chr(c): "" for c in [*range(1, 9), 0x0B, *range(0x0E, 0x20), 0x7F]})
    rules.update({chr(c): " " for c in (9, 10, 12, 13, 0x1680, 0x200B, 0x2028, 0x2029, 0xFEFF)})
    with open(path, "w") as f:
        for source, to in sorted(rules.items()):
            f.write(" ".join("%04X" % ord(c) for c in source) + "\t" + " ".join("%04X" % ord(c) for c in to) + "\n")


def train_small():
    import sentencepiece as spm
    text = open("models/emoji/README.md", encoding="utf-8").read().split("\n") + ["café", "naïve", "猫", "<sep>"] * 20
    small_rules(SMALL + ".tsv")
    spm.SentencePieceTrainer.train(sentence_iterator=iter(text), model_prefix=SMALL[:-6], normalization_rule_tsv=SMALL + ".tsv",
                                   model_type="unigram", vocab_size=700, hard_vocab_limit=False, byte_fallback=True, pad_id=0,
                                       eos_id=1,
                                   unk_id=2, bos_id=-1, user_defined_symbols=["<sep>"], character_coverage=0.99, num_threads=1,
                                       minloglevel=2)
    os.remove(SMALL[:-6] + ".vocab")
    os.remove(SMALL + ".tsv")


def write(name, lines, comment):
    with open(f"{GOLDEN}/{name}", "w") as f:
        f.write(f"# {comment}; written by tools/make_tokenizer_goldens.py\n")
        f.writelines(line + "\n" for line in lines)


def main():
    import sentencepiece as spm
    import transformers
    os.makedirs(GOLDEN, exist_ok=True)
    if not os.path.exists(SMALL):
        train_small()
    strings = hard_strings()
    clip = transformers.CLIPTokenizer.from_pretrained(CLIP)
    write("strings.txt", [s.encode().hex() for s in strings], f"{len(strings)} strings as hexadecimal UTF-8")
    write("clip.txt", [" ".join(map(str, clip(s).input_ids)) for s in strings],
          f"transformers {transformers.__version__} CLIPTokenizer, {CLIP}")
    for name, path in (("unigram.txt", T5), ("unigram_bytes.txt", SMALL)):
        sp = spm.SentencePieceProcessor(model_file=path)
        write(name, [" ".join(map(str, sp.encode(s) + [sp.eos_id()])) for s in strings],
              f"sentencepiece {spm.__version__}, {path}")
    print(len(strings), "strings")


if __name__ == "__main__":
    main()
