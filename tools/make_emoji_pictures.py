#!/usr/bin/env python3
"""Makes a folder of pictures with captions to train on: emoji in front of plain colours, 256 x 256.

Pictures: Fluent Emoji 3D (MIT, Microsoft; npm package @lobehub/fluent-emoji-3d). Names: emojibase-data (MIT). Both are fetched
with `npm pack`, which only downloads; their licences are written beside the pictures.

FOLDER/NAME.png with NAME.txt: "red apple" in front of white, "red apple on a teal background" for each further colour. Subjects
are those of smileys, animals, food, travel, activities and objects whose English name has at most two words, up to Emoji 5
(gifts and diamonds by their usual names, clock faces left out); --subjects FILE takes the names in FILE instead, one a line.
models/emoji was first trained on 440 such subjects with all ten colours (the exact list was not kept), then on what this makes.

Usage: python3 tools/make_emoji_pictures.py FOLDER [--colors N] [--subjects FILE] [--size PIXELS] [--packages FOLDER]
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

PICTURES = "@lobehub/fluent-emoji-3d@1.1.0"
NAMES = "emojibase-data@17.0.0"
GROUPS = (0, 3, 4, 5, 6, 7)  # smileys, animals and nature, food, travel and places, activities, objects
USUAL = {"wrapped gift": "gift", "gem stone": "diamond"}
COLORS = {
    "teal": (60, 180, 180),
    "yellow": (250, 215, 70),
    "blue": (60, 120, 230),
    "pink": (242, 160, 195),
    "black": (20, 20, 20),
    "green": (70, 175, 92),
    "orange": (250, 150, 58),
    "gray": (142, 142, 140),
    "purple": (148, 92, 200),
    "red": (227, 60, 50),
}
FLUENT_LICENCE = """MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE
"""


def fetch(package, folder):
    """The files of a package, {path: bytes}; its tarball lies in the folder, downloaded unless it is there."""
    name = package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz"
    if not (folder / name).exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(folder / name) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def find_asset(members, code):
    for name in (code, code.replace("-fe0f", ""), code + "-fe0f"):
        if f"package/assets/{name}.webp" in members:
            return f"package/assets/{name}.webp"
    return None


def choose(names, members, wanted):
    """(name, asset) of the subjects, in emojibase's order."""
    chosen, taken = [], set()
    for emoji in names:
        name = USUAL.get(emoji["label"].lower(), emoji["label"])
        asset = find_asset(members, emoji["hexcode"].lower())
        usual = emoji.get("group") in GROUPS and emoji["version"] <= 5 and name.isascii() and len(name.split()) <= 2
        if wanted is None:
            take = usual and not name.endswith("-thirty")
        else:
            take = name.lower() in wanted
        if take and asset and name.lower() not in taken:
            chosen.append((name, asset))
            taken.add(name.lower())
    return chosen, taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--colors", type=int, default=1, help="colours of each subject beside white, 0 to 10 (1)")
    parser.add_argument("--subjects", type=Path, help="file of names, one a line")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--packages", type=Path, help="where the packages are or are kept; default: a folder that is removed")
    options = parser.parse_args()
    if not 0 <= options.colors <= len(COLORS):
        parser.error(f"--colors is {options.colors}, expected 0 to {len(COLORS)}")
    begin = time.time()
    wanted = None
    if options.subjects:
        wanted = {line.strip().lower() for line in options.subjects.read_text().splitlines() if line.strip()}
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        packages = options.packages or Path(temporary)
        packages.mkdir(parents=True, exist_ok=True)
        pictures, names = fetch(PICTURES, packages), fetch(NAMES, packages)
        labels = json.loads(names["package/en/data.json"])
        subjects, taken = choose(labels, pictures, wanted)
        for name in sorted((wanted or set()) - taken):
            print(f"there is no emoji called {name!r}", file=sys.stderr)
        count = 0
        for number, (name, asset) in enumerate(subjects):
            emoji = Image.open(io.BytesIO(pictures[asset])).convert("RGBA")
            emoji = emoji.resize((options.size, options.size), Image.LANCZOS) if emoji.width != options.size else emoji
            colors = list(COLORS)
            first = number % len(colors)  # so that one colour each uses all of them
            for color in [None] + (colors[first:] + colors[:first])[: options.colors]:
                caption = f"{name} on a {color} background" if color else name
                picture = Image.new("RGBA", emoji.size, COLORS[color] if color else (255, 255, 255))
                picture.alpha_composite(emoji)
                file = options.folder / (caption.replace(" ", "_").replace("/", "-") + ".png")
                picture.convert("RGB").save(file)
                file.with_suffix(".txt").write_text(caption + "\n")
                count += 1
        (options.folder / "LICENSE-emojibase-data").write_bytes(names["package/LICENSE"])
        (options.folder / "LICENSE-fluent-emoji").write_text(FLUENT_LICENCE)
    print(f"{count} pictures of {len(subjects)} subjects in {options.folder}, {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
