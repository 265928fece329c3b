"""What cdbench writes for other programs is read by them: TensorBoard, pyarrow, junitparser, MLflow.

    python tests/peers/logs_of_others.py [--cdbench PATH] [--work DIR] [--shots DIR] [--mlflow]

Runs a small part of experiments/smoke.toml, stops it in the middle of a training, lets it go on, and reads
event files, Parquet, JUnit and (with --mlflow) the runs that `cdbench export mlflow` sent to a server that it
starts here, on a free port with a store of its own. Needs `tensorboard`, `pyarrow`, `junitparser`, and `mlflow`
for --mlflow; `--shots` also `playwright` and Chromium, for a look at TensorBoard's page.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser()
parser.add_argument("--cdbench", default=ROOT / "target/release/cdbench", type=Path)
parser.add_argument("--work", type=Path)
parser.add_argument("--shots", type=Path)
parser.add_argument("--mlflow", action="store_true")
args = parser.parse_args()
work = (args.work or Path(tempfile.mkdtemp())).resolve()
work.mkdir(parents=True, exist_ok=True)
cdbench = args.cdbench.resolve()

SMALL = ["--store", str(work / "runs"), "--filter", "method=custom-diffusion", "--set", "sampling.steps=2",
         "--set", "scales.default.prompts=3", "--set", "scales.default.real_images=4",
         "--set", "scales.default.train_steps=0.3"]


def run(*words, code=0):
    done = subprocess.run([cdbench, *words], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != code:
        sys.exit(f"{words}: {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(url, seconds=120):
    end = time.time() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.time() > end:
                raise
            time.sleep(0.5)


def tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = work / "board"
    command = [cdbench, "run", "experiments/smoke.toml", *SMALL, "--log", f"tensorboard={board}"]
    training = board / "Custom Diffusion/dog_plum/seed 0/training"

    def steps():
        events = EventAccumulator(str(training), size_guidance={"scalars": 0}).Reload()
        tags = events.Tags()["scalars"]
        return [s.step for s in events.Scalars("training/loss")] if "training/loss" in tags else []

    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not training.is_dir() or len(steps()) < 10:
        assert child.poll() is None, "it was to be interrupted"
        time.sleep(0.2)
    # one who looks on while it stops and goes on
    looking = EventAccumulator(str(training), size_guidance={"scalars": 0}).Reload()
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130
    seen = len(looking.Reload().Scalars("training/loss"))
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = steps()
    assert found == list(range(1, len(found) + 1)) and len(found) > seen, found
    again = [s.step for s in looking.Reload().Scalars("training/loss")]
    assert again == found, f"one who looks on sees {again}"
    cell = EventAccumulator(str(training.parent), size_guidance={"images": 0}).Reload()
    tags = cell.Tags()
    assert "measures/text-alignment" in tags["scalars"] and len(tags["images"]) == 3, tags
    picture = cell.Images(tags["images"][0])[0]
    assert picture.width == picture.height == 64 and picture.encoded_image_string[:4] == b"\x89PNG"
    print(f"TensorBoard: steps 1 to {len(found)} once each, {seen} of them from before; "
          f"{len(tags['scalars'])} measures and {len(tags['images'])} samples of the cell")
    if args.shots:
        shots(board)


def shots(board):
    from playwright.sync_api import sync_playwright

    port = free_port()
    beside = Path(sys.executable).parent / "tensorboard"
    server = subprocess.Popen([beside, "--logdir", board, "--port", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        runs = json.loads(wait_for(f"http://127.0.0.1:{port}/data/runs"))
        assert any(run.endswith("training") for run in runs), runs
        args.shots.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/#timeseries")
            page.get_by_text("measures/").first.wait_for(timeout=90_000)
            page.wait_for_timeout(5_000)
            page.screenshot(path=args.shots / "tensorboard.png")
            browser.close()
        print(f"TensorBoard's page: {len(runs)} runs, {args.shots / 'tensorboard.png'}")
    finally:
        server.terminate()
        server.wait()


def parquet():
    import pyarrow.parquet as pq

    out = work / "report"
    run("report", "experiments/smoke.toml", *SMALL, "--out", str(out), "--format", "json,parquet")
    cells, images = (pq.read_table(out / f"{name}.parquet") for name in ("results", "images"))
    results = json.loads((out / "results.json").read_text())
    assert cells.num_rows == len(results["cells"]) and images.num_rows == len(results["images"])
    types = {field.name: str(field.type) for field in cells.schema}
    assert types["text-alignment"] == "double" and types["anchor"] == "bool", types
    assert types["label"] == "string" and types["steps"] == "uint64", types
    for row, cell in zip(cells.to_pylist(), results["cells"]):
        assert row["text-alignment"] == cell["values"]["text-alignment"]["mean"], row["label"]
    print(f"pyarrow: {cells.num_rows} cells, {images.num_rows} images, {len(types)} columns with types")


def junit():
    from junitparser import JUnitXml

    baseline, file = work / "baseline.json", work / "check.xml"
    check = ["check", "experiments/smoke.toml", *SMALL, "--baseline", str(baseline)]
    run(*check, "--update")
    run(*check, "--junit", str(file))
    passed = JUnitXml.fromfile(str(file))
    assert passed.tests > 0 and passed.failures == 0, passed
    spoilt = json.loads(baseline.read_text())
    for cell in spoilt["cells"]:
        cell["images"]["text-alignment"] = [v + 1 for v in cell["images"]["text-alignment"]]
        cell["label"] = cell["label"].replace("Custom", "<Cust\"om & ]]>")
    baseline.write_text(json.dumps(spoilt))
    run(*check, "--junit", str(file), code=8)
    failed = JUnitXml.fromfile(str(file))
    names = [case.name for suite in failed for case in suite]
    assert failed.failures > 0 and any("<Cust\"om & ]]>" in name for name in names), names
    print(f"junitparser: {passed.tests} tests passed, then {failed.failures} of {failed.tests} failed")


def mlflow():
    from mlflow.tracking import MlflowClient
    import mlflow as library

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{work / 'mlflow.db'}"
    beside = Path(sys.executable).parent / "mlflow"
    server = subprocess.Popen(
        ["nice", "-n", "5", beside, "server", "--port", str(port), "--workers", "1", "--backend-store-uri", store,
         "--artifacts-destination", str(work / "artifacts")],
        stdout=(work / "mlflow.log").open("w"), stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": f"{beside.parent}:{os.environ['PATH']}"}, cwd=work)
    try:
        wait_for(f"{uri}/health", 300)
        export = ["export", "mlflow", "experiments/smoke.toml", *SMALL, "--tracking-uri", uri]
        client = MlflowClient(uri)
        # what an export leaves that was cut short
        experiment = client.create_experiment("smoke")
        first = run(*export)
        assert "were there" in first and ", 0 were there" in first, first
        runs = client.search_runs([experiment])
        ours = [r for r in runs if r.data.params["method"] == "custom-diffusion"]
        assert len(ours) == 1 and ours[0].info.status == "FINISHED", runs
        [one] = ours
        loss = client.get_metric_history(one.info.run_id, "training/loss")
        steps = sorted(point.step for point in loss)
        assert steps == list(range(1, len(steps) + 1)) and len(steps) > 20, steps
        assert "text-alignment" in one.data.metrics and one.data.params["settings.lr"], one.data
        files = client.list_artifacts(one.info.run_id, "samples")
        assert len(files) == 3 and files[0].file_size > 100, files
        # again: nothing twice; one that was cut short: made anew
        second = run(*export)
        assert second.startswith("0 runs sent"), second
        client.update_run(one.info.run_id, status="RUNNING")
        third = run(*export)
        assert third.startswith("1 runs sent"), third
        assert len(client.search_runs([experiment])) == len(runs)
        print(f"MLflow {library.__version__}: {len(runs)} runs, a loss of {len(steps)} steps, {len(files)} samples; "
              "again: none sent; cut short: made anew")
    finally:
        server.terminate()
        server.wait()


tensorboard()
parquet()
junit()
if args.mlflow:
    mlflow()
