"""Runs both sides of the benchmark in turn, several times, and prints the table of benches/RESULTS.md.

    pip install -r tests/golden/requirements.txt
    python benches/torch_peer.py --make DIR
    python benches/compare.py DIR [--rounds 3] [--threads 2]

Each round runs PyTorch, then cdbench, so that a machine whose speed drifts treats both alike; the table has the median
over rounds of each side's median. PyTorch gets the better of its two memory formats for every row.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def run(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    # Settings for older BLAS builds would slow the PyTorch side.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        environment.pop(name, None)
    out = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    model = str(options.dir.resolve())
    benches = ["ops", "pointwise", "models"]
    subprocess.run(["cargo", "build", "-q", "--release", "--benches"], cwd=ROOT, check=True)

    ours, torch, check, gflop, rates = {}, {}, {}, {}, []
    for _ in range(options.rounds):
        for extra in ([], ["--channels-last"]):
            peer = [sys.executable, str(HERE / "torch_peer.py"), "--model", model, "--repeats", str(options.repeats)]
            report = run(peer + ["--threads", str(options.threads)] + extra, options.threads)
            for name, ms in report["ms"].items():
                torch.setdefault((name, bool(extra)), []).append(ms)
            for name, value in report["check"].items():
                check.setdefault(name, {})["torch"] = value
            gflop |= report["gflop"]
            rates += report["gflops"].values()
        for bench in benches:
            command = ["cargo", "bench", "-q", "--bench", bench, "--"]
            report = run(command + ([model, str(options.repeats)] if bench == "models" else []), options.threads)
            for name, ms in report.get("ms", {}).items():
                ours.setdefault(name, []).append(ms)
            for name, value in report.get("check", {}).items():
                check.setdefault(name, {})["cdbench"] = value

    print(f"threads {options.threads}, rounds {options.rounds}, PyTorch's matrix product at best {max(rates):.0f} GFLOP/s\n")
    print("| work | PyTorch, ms | cdbench, ms | PyTorch / cdbench | cdbench, GFLOP/s |")
    print("|---|---:|---:|---:|---:|")
    for name, values in ours.items():
        theirs = [statistics.median(torch[key]) for key in ((name, False), (name, True)) if key in torch]
        if not theirs:
            continue
        mine = statistics.median(values)
        rate = f"{gflop[name] / mine * 1e3:.0f}" if name in gflop else ""
        print(f"| {name} | {min(theirs):.2f} | {mine:.2f} | {min(theirs) / mine:.2f} | {rate} |")
    print("\nSame work: " + "; ".join(f"{name} {v.get('torch')} / {v.get('cdbench')}" for name, v in check.items()))


if __name__ == "__main__":
    main()
