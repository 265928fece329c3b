"""Times `cdbench evaluate` beside transformers: 100 photographs of 512x512 and 20 prompts through a CLIP of B/32's size
with random weights, whole processes, in turn.

    pip install -r tests/golden/requirements.txt onnxruntime
    cargo build --release
    python benches/evaluate.py PHOTOS DIR [--rounds 3] [--threads 2]

PHOTOS is a folder with any photographs in it, DIR a folder for what is made of them. Prints wall and CPU seconds and
peak memory of each process (medians), and the two numbers that both compute.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PICTURES, PROMPTS, TARGETS = 95, 20, 5


def make(photos, out):
    """The CLIP folder, the samples with their prompts, and the targets."""
    from PIL import Image

    import make_clip

    make_clip.save(out / "clip")
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for folder in ("samples", "targets"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    prompts = {}
    for i in range(PICTURES + TARGETS):
        picture = Image.open(files[i % len(files)]).convert("RGB")
        side = min(picture.size) - i
        picture = picture.crop((i, i // 2, side, side)).resize((512, 512))
        folder = "samples" if i < PICTURES else "targets"
        picture.save(out / folder / f"{i:03}.png")
        if i < PICTURES:
            prompts[f"{i:03}"] = f"photo of a dog with number {i % PROMPTS} on the beach, next to a red chair"
    (out / "prompts.json").write_text(json.dumps(prompts))


def peer(folder, threads):
    """What a script by transformers' documentation does."""
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    torch.set_num_threads(threads)
    model = CLIPModel.from_pretrained(folder / "clip").eval()
    processor = CLIPProcessor.from_pretrained(folder / "clip")

    @torch.inference_mode()
    def images(paths):
        rows = []
        for i in range(0, len(paths), 25):
            pictures = [Image.open(path).convert("RGB") for path in paths[i : i + 25]]
            rows.append(model.get_image_features(**processor(images=pictures, return_tensors="pt")))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)

    @torch.inference_mode()
    def texts(words):
        inputs = processor(text=words, return_tensors="pt", padding="max_length", max_length=77, truncation=True)
        return torch.nn.functional.normalize(model.get_text_features(**inputs), dim=-1)

    prompts = json.loads((folder / "prompts.json").read_text())
    found = images([folder / "samples" / f"{name}.png" for name in prompts])
    targets = images(sorted((folder / "targets").glob("*.png")))
    words = sorted(set(prompts.values()))
    rows = texts(words)[[words.index(prompt) for prompt in prompts.values()]]
    print((2.5 * (found * rows).sum(-1).clamp(min=0)).mean().item(), (found @ targets.T).mean().item())


def timed(command, environment):
    """Wall and CPU seconds, peak memory in GB, and the numbers printed."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    if "metric" in out:
        numbers = [float(line.split("\t")[1]) for line in out.splitlines() if "alignment" in line]
    else:
        numbers = [float(word) for word in out.split()]
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/cdbench")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.dir, options.threads)
    if not (options.dir / "prompts.json").is_file():
        make(options.photos, options.dir)
    package = Path(importlib.util.find_spec("onnxruntime").submodule_search_locations[0])
    library = next((package / "capi").glob("libonnxruntime.so.1.*"))
    threads = str(options.threads)
    environment = dict(os.environ, OMP_NUM_THREADS=threads, ORT_DYLIB_PATH=str(library))
    ours = [str(options.binary), "evaluate", str(options.dir), "--targets", str(options.dir / "targets")]
    ours += ["--clip", str(options.dir / "clip"), "--threads", threads]
    ours += ["--metrics", "text-alignment", "--metrics", "image-alignment", "--ort"]
    peers = [sys.executable, __file__, str(options.photos), str(options.dir), "--threads", threads, "--peer"]
    commands = {"transformers": peers, "cdbench, tract": ours + ["tract"], "cdbench, ONNX Runtime": ours + ["native"]}
    for command in commands.values():
        timed(command, environment)  # the export, and files in the cache
    rounds = [{name: timed(command, environment) for name, command in commands.items()} for _ in range(options.rounds)]
    print("| whole process | s | CPU s | peak GB | text alignment | image alignment |\n|---|---|---|---|---|---|")
    for name in commands:
        columns = list(zip(*[r[name][:3] for r in rounds]))
        text, image = rounds[0][name][3]
        values = " | ".join(f"{statistics.median(column):.2f}" for column in columns)
        print(f"| {name} | {values} | {text:.4f} | {image:.4f} |")


main()
