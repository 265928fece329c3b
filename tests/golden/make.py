"""Makes the golden files of this folder. `--check` compares with the committed ones, `--floor` shows what f32 costs.

    pip install -r tests/golden/requirements.txt
    python tests/golden/make.py
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import backbones
import forward
import merge
import tokens
import training
import trajectories

HERE = Path(__file__).resolve().parent
# Another CPU may pick other kernels; the same one gives the same bits.
CHECK_TOLERANCE = 2e-5


def tensors(name, dtype=torch.float32, folder=None):
    """All golden tensors of one backbone by file; saves the backbone itself where a folder is given."""
    pipeline, slow, fast = backbones.make(name)
    if folder is not None:
        backbones.save(name, pipeline, fast, folder / name)
    pipeline.to(dtype)
    rows = forward.add_modifiers(name, pipeline, slow, fast)
    if folder is not None:
        # With indents these lists would be longer than the models.
        golden = tokens.golden(slow, fast)
        entries = ",\n".join(json.dumps(e, ensure_ascii=False) for e in golden.pop("prompts"))
        head = json.dumps(golden)[:-1]
        (folder / f"{name}_tokens.json").write_text(f'{head}, "prompts": [\n{entries}\n]}}\n', encoding="utf-8")
    # The models first: training changes them.
    out = {f"{name}_forward": {"rows": rows} | forward.layers(name, pipeline, fast, dtype)}
    out[f"{name}_forward"] |= forward.sampling(name, pipeline, fast, dtype)
    out[f"{name}_training"] = training.golden(name, pipeline, fast, dtype)
    return out


def build(folder: Path):
    files = {"schedulers": trajectories.golden(), "merge": merge.golden()}
    for name in backbones.NAMES:
        files |= tensors(name, folder=folder)
    for file, content in files.items():
        content = {k: v.detach().clone().contiguous() for k, v in content.items()}
        save_file(content, folder / f"{file}.safetensors")


def relative(found, wanted):
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


def made(folder: Path):
    """Files that `build` makes, relative to the folder."""
    kinds = {".json", ".txt", ".safetensors"}
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.suffix in kinds}
    return files - {Path("requirements.txt")}


def check(fresh: Path) -> list[str]:
    bad = []
    # other scripts put files here, too
    if missing := made(fresh) - made(HERE):
        bad.append(f"not here: {sorted(map(str, missing))}")
    for file in sorted(made(fresh) & made(HERE)):
        if file.suffix != ".safetensors":
            if (fresh / file).read_bytes() != (HERE / file).read_bytes():
                bad.append(f"{file} differs")
            continue
        new, old = load_file(fresh / file), load_file(HERE / file)
        if new.keys() != old.keys():
            bad.append(f"{file}: not the same keys: {sorted(new.keys() ^ old.keys())[:5]}")
        for key in new.keys() & old.keys():
            if new[key].shape != old[key].shape or new[key].dtype != old[key].dtype:
                bad.append(f"{file}: {key}: {old[key].shape} {old[key].dtype}, now {new[key].shape} {new[key].dtype}")
            elif (error := relative(new[key], old[key])) > CHECK_TOLERANCE:
                bad.append(f"{file}: {key}: relative difference {error:.1e}")
    return bad


def floor():
    """The worst relative error of the f32 goldens against the same computed in f64, per group of keys."""
    torch.set_default_dtype(torch.float64)
    for name in backbones.NAMES:
        for file, content in tensors(name, torch.float64).items():
            old, worst = load_file(HERE / f"{file}.safetensors"), {}
            for key, value in content.items():
                if value.is_floating_point():
                    group = ".".join(key.split(".")[:2])
                    worst[group] = max(worst.get(group, (0,)), (relative(old[key], value), key))
            for group, (error, key) in worst.items():
                print(f"{file:14} {group:16} {error:.1e}  {key}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files here, write nothing")
    parser.add_argument("--floor", action="store_true", help="compare the files here with a run in f64")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    if options.floor:
        return floor()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        build(fresh)
        if options.check:
            bad = check(fresh)
            print("\n".join(bad) or "the golden files are what this script makes")
            sys.exit(1 if bad else 0)
        for name in backbones.NAMES:
            shutil.rmtree(HERE / name, ignore_errors=True)
        for file in made(fresh):
            (HERE / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / file, HERE / file)


if __name__ == "__main__":
    main()
