#!/usr/bin/env python3
"""Uploads runs by the client of Weights & Biases to a server of this script, and compares with metrics.csv.

    pip install wandb numpy
    cargo build --bin srgan-train
    python tests/peers/check_wandb.py target/debug/srgan-train

A run that was stopped and continued arrives once, with every row, its configuration and its panels; one under
WANDB_MODE=online arrives while it goes on. Exits with 1 and what differs.
"""

import gzip
import http.server
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np

BIN = Path(sys.executable).parent
CONFIG = """\
Data: {dataset_type: Scenes, scenes: [scene.npy], layout: HWC, normalization: normalise_10k, hr_size: 16, val_fraction: 0.3,
  patches_per_epoch: 32, train_batch_size: 2, val_batch_size: 2, num_workers: 1}
Model: {in_bands: 3}
Training: {device: cpu, num_threads: 1, seed: 3, max_steps: 8, pretrain_g_only: true, g_pretrain_steps: 4,
  val_check_interval: 4, limit_val_batches: 1}
Generator: {model_type: SRResNet, block_type: res, n_channels: 8, n_blocks: 1, large_kernel_size: 3, scaling_factor: 2}
Discriminator: {model_type: patchgan, n_blocks: 1}
Logging: {num_val_images: 1, wandb: {enabled: true, project: maps, name: first, tags: [a, b]}}
"""


class Server(http.server.ThreadingHTTPServer):
    """As much of the service as an upload needs."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs, self.history, self.files, self.exits = {}, defaultdict(dict), {}, {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, address):
        """Clients that are gone are none of our business."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        if self.path == "/graphql":
            return self.reply({"data": self.graphql(json.loads(self.body()))})
        if not self.path.endswith("/file_stream"):
            self.body()
            return self.reply({})
        stream = json.loads(self.body())
        run = self.path.split("/")[-2]
        lines = stream.get("files", {}).get("wandb-history.jsonl")
        for number, line in enumerate(lines["content"] if lines else []):
            self.server.history[run][lines["offset"] + number] = json.loads(line)
        if stream.get("complete"):
            self.server.exits[run] = stream.get("exitcode")
        self.reply({})

    def do_PUT(self):
        self.server.files[self.path] = self.body()
        self.reply({})

    def graphql(self, request):
        variables = request.get("variables") or {}
        match request.get("operationName"):
            case "UpsertBucket":
                run = variables["name"]
                known = self.server.runs.setdefault(run, {})
                known.update({key: value for key, value in variables.items() if value is not None})
                project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
                bucket = {"id": run, "name": run, "displayName": "n", "project": project, "historyLineCount": 0}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                base = f"{self.server.url}/upload/{variables['run']}/"
                files = [{"name": name, "uploadUrl": base + name.replace(" ", "%20")} for name in variables["files"]]
                return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
            case _:
                return {}

    def log_message(self, *_):
        pass


def metrics(folder):
    """Rows of metrics.csv: the values that are there, by step."""
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return {int(line[0]): {k: float(v) for k, v in zip(header[1:], line[1:]) if v} for line in lines}


def check_arrived(server, folder, run):
    want = metrics(folder)
    rows = [line for _, line in sorted(server.history[run].items())]
    assert [row["_step"] for row in rows] == sorted(want), f"{run}: steps {[row['_step'] for row in rows]}"
    for row in rows:
        expected = want[row["_step"]]
        assert {k for k in row if not k.startswith("_")} - {"Val SR"} == set(expected), f"{run}: {sorted(row)}"
        for name, value in expected.items():
            got = float(row[name])
            assert got == value or (math.isnan(got) and math.isnan(value)), f"{run}: {name} {got}, {value} wanted"
    config = json.loads(server.runs[run]["config"])
    assert config["Generator"]["value"]["n_channels"] == 8, config
    pictures = [row["Val SR"] for row in rows if "Val SR" in row]
    assert pictures and all(p["_type"] == "images/separated" for p in pictures), f"{run}: no panels"
    for name in (name for p in pictures for name in p["filenames"]):
        path = f"/upload/{run}/" + name.replace(" ", "%20")
        assert server.files[path].startswith(b"\x89PNG"), f"{run}: {name} did not arrive"
    assert server.exits.get(run) == 0, f"{run}: exit {server.exits}"
    print(f"{run}: {len(rows)} rows and {len(pictures)} panels arrived as metrics.csv has them")


def main():
    program = str(Path(sys.argv[1]).resolve())
    server = Server()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rng = np.random.default_rng(5)
        scene = 4000 + 3000 * np.tanh(rng.standard_normal((96, 96, 3)).cumsum(0).cumsum(1) / 40)
        np.save(folder / "scene.npy", scene.astype("uint16"))
        (folder / "cfg.yaml").write_text(CONFIG)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        env = clean | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "PATH": f"{BIN}:{clean['PATH']}"}

        def call(*command, **variables):
            done = subprocess.run(command, cwd=folder, env=env | variables, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            return done.stdout + done.stderr

        text = call(program, "-c", "cfg.yaml", "--run-dir", "offline", "Training.max_steps=5", WANDB_RUN_ID="kept1")
        assert "wandb sync offline/wandb/offline-run-" in text, text
        call(program, "-c", "cfg.yaml", "--resume", "offline")
        uploads = [str(path) for path in (folder / "offline/wandb").glob("offline-run-*")]
        assert len(uploads) == 1 and uploads[0].endswith("-kept1"), uploads
        call(str(BIN / "wandb"), "beta", "sync", uploads[0])
        check_arrived(server, folder / "offline", "kept1")
        run = server.runs["kept1"]
        assert (run["project"], run["displayName"], run["tags"]) == ("maps", "first", ["a", "b"]), run

        # Where it is asked for only when the run continues, the rows before come from metrics.csv.
        call(program, "-c", "cfg.yaml", "--run-dir", "late", "Training.max_steps=5", "Logging.wandb.enabled=false")
        call(program, "-c", "cfg.yaml", "--resume", "late", WANDB_RUN_ID="late1")
        call(str(BIN / "wandb"), "beta", "sync", str(next((folder / "late/wandb").glob("offline-run-*"))))
        check_arrived(server, folder / "late", "late1")

        text = call(program, "-c", "cfg.yaml", "--run-dir", "online", WANDB_MODE="online", WANDB_RUN_ID="live1")
        assert "the run is uploaded" in text, text
        check_arrived(server, folder / "online", "live1")
        text = call(program, "-c", "cfg.yaml", "--run-dir", "alone", WANDB_MODE="online", PATH="/nonexistent")
        assert "no program `wandb`" in text and "wandb sync alone/wandb/" in text, text
        for variable in ({"WANDB_MODE": "onlin"}, {"WANDB_RUN_ID": "a/b"}):
            command = [program, "-c", "cfg.yaml", "--run-dir", "wrong"]
            done = subprocess.run(command, cwd=folder, env=env | variable, capture_output=True, text=True, timeout=60)
            said = next(iter(variable)) in done.stderr and not (folder / "wrong").exists()
            assert done.returncode == 2 and said, f"{variable}: exit code {done.returncode}\n{done.stderr}"
        text = call(program, "-c", "cfg.yaml", "--run-dir", "off", WANDB_MODE="disabled")
        assert not (folder / "off/wandb").exists() and "Weights & Biases" not in text, text


if __name__ == "__main__":
    main()
