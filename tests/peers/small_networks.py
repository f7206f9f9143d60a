"""Small trained generators of every family, and their maps: what check_exports.py, check_torch.py and check_peers_maps.py
share."""

import subprocess
import sys

import numpy as np

BANDS = 3
GENERATORS = {
    "standard": "{model_type: SRResNet, block_type: standard, n_channels: 8, n_blocks: 2, scaling_factor: 4}",
    "standard8": "{model_type: SRResNet, n_channels: 8, n_blocks: 1, scaling_factor: 8, large_kernel_size: 5}",
    "res": "{model_type: SRResNet, block_type: res, n_channels: 6, n_blocks: 2, scaling_factor: 2}",
    "rcab": "{model_type: SRResNet, block_type: rcab, n_channels: 16, n_blocks: 2, scaling_factor: 2}",
    "rrdb": "{model_type: SRResNet, block_type: rrdb, n_channels: 8, n_blocks: 1, scaling_factor: 4}",
    "lka": "{model_type: SRResNet, block_type: lka, n_channels: 8, n_blocks: 1, scaling_factor: 2}",
    "esrgan": "{model_type: esrgan, n_channels: 8, growth_channels: 5, n_blocks: 2, scaling_factor: 4}",
    "esrgan1": "{model_type: esrgan, n_channels: 8, growth_channels: 4, n_blocks: 1, scaling_factor: 1}",
    "stochastic": "{model_type: stochastic_gan, n_channels: 8, n_blocks: 2, noise_dim: 7, scaling_factor: 2}",
}
CONFIG = """\
Data: {{dataset_type: Scenes, scenes: [train.npy], hr_size: 32, val_fraction: 0.4, num_workers: 0, train_batch_size: 2, val_batch_size: 2,
  patches_per_epoch: 4, store_dir: stores, {data}}}
Model: {{in_bands: 3}}
Training: {{max_steps: {steps}, pretrain_g_only: true, g_pretrain_steps: -1, device: cpu, num_threads: 1,
  EMA: {{enabled: true, decay: 0.5}}}}
Generator: {generator}
Discriminator: {discriminator}
Optimizers: {{optim_g_lr: 0.01}}
"""
# The share of the range that pixels may differ by.
SHARE = 1e-4


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def ground(rng, height, width):
    """Smooth values with detail, 0 to 1."""
    y, x, b = np.meshgrid(np.arange(height), np.arange(width), np.arange(BANDS), indexing="ij")
    waves = 0.5 + 0.3 * np.sin(y / 4 + b) * np.cos(x / 3)
    return np.clip(waves + rng.normal(0, 0.05, waves.shape), 0.02, 0.98).astype("float32")


def train(binaries, folder, name, generator, data="normalization: identity", values=lambda image: image, **sections):
    """Trains a generator, for two steps unless `steps` says more, its run in the folder `name`; `values` makes a file's
    values of 0 to 1."""
    sections = {"discriminator": "{model_type: patchgan, n_blocks: 1}", "steps": 2} | sections
    np.save(folder / "train.npy", values(ground(np.random.default_rng(1), 96, 64)).astype("float32"))
    (folder / f"{name}.yaml").write_text(CONFIG.format(generator=generator, data=data, **sections))
    run(binaries / "srgan-train", "-c", f"{name}.yaml", "--run-dir", name, cwd=folder)


def predicted(binaries, folder, model, scene, *options):
    """The map of a scene (height, width, band) in one window."""
    np.save(folder / "scene.npy", scene)
    fixed = ["--device", "cpu", "--threads", "1", "--window", "64", "--overwrite", "--force"]
    run(binaries / "srgan", "predict", "-m", model, "scene.npy", "-o", "map.npy", *fixed, *options, cwd=folder)
    return np.load(folder / "map.npy", allow_pickle=False)
