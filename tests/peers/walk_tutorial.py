"""Walks docs/tutorial.md as a stranger does: every block of `sh`, as it is written, in one shell.

    python tests/peers/walk_tutorial.py FOLDER [--cdbench PATH] [--photos DIR]

FOLDER is a fresh clone or is made as a copy of what git knows here. With --cdbench the build is left out and
that program taken. A block of TOML whose first line is a file's name is saved there. Blocks marked `gpu` are
read by `cdbench … --help` alone: their options must exist.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--cdbench", type=Path)
parser.add_argument("--photos", default=ROOT.parent / "shared/dreambooth", type=Path)
args = parser.parse_args()

folder = args.folder.resolve()
if not folder.exists():
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
text = (ROOT / "docs/tutorial.md").read_text()
environment = {**os.environ, "PHOTOS": str(args.photos.resolve())}
if args.cdbench:
    environment["PATH"] = f"{args.cdbench.resolve().parent}:{environment['PATH']}"

count = 0
for language, block in re.findall(r"^```(\w+(?: gpu)?)\n(.*?)^```", text, re.M | re.S):
    if language == "toml" and (name := re.match(r"# (\S+\.toml)\n", block)):
        (folder / name[1]).write_text(block)
    if language == "sh gpu":
        for command in block.replace("\\\n", " ").splitlines():
            words = command.split()
            if words[0] == "cdbench":
                said = subprocess.run(["cdbench", words[1], "--help"], env=environment, capture_output=True, text=True)
                missing = [w for w in words if w.startswith("--") and w not in said.stdout]
                if missing:
                    sys.exit(f"{command}: no {missing}")
    if language != "sh":
        continue
    for command in block.replace("\\\n", " ").splitlines():
        if args.cdbench and ("cargo build" in command or "target/release" in command):
            continue
        start = time.time()
        # one shell a command, with what earlier ones exported
        done = subprocess.run(["bash", "-ec", f"{command}\nenv -0 > .environment"], cwd=folder, env=environment)
        if done.returncode:
            sys.exit(f"{command}: exit code {done.returncode}")
        pairs = (folder / ".environment").read_bytes().decode().split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        count += 1
        print(f"--- {time.time() - start:6.1f} s  {command}", flush=True)
print(f"{count} commands, every one as written")
