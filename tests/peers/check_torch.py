#!/usr/bin/env python3
"""Takes generators to opensr-srgan and back, and compares pixels.

    pip install torch opensr-srgan numpy onnx safetensors
    cargo build --bins
    python tests/peers/check_torch.py target/debug

Needs PyTorch and opensr-srgan 0.5; where they are not installed it says so and exits with 77. For a small generator of
every family, trained for two steps with an average: `srgan export --format torch` loads by torch.load(weights_only=True),
by load_state_dict(strict=True), by load_from_config and by SRGAN_model.load_from_checkpoint, each giving the map of
`srgan predict`; so does the state dict in safetensors. A checkpoint that opensr-srgan writes, with its average, is mapped
as its own model maps. Exits with 1 and what differs.
"""

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
warnings.filterwarnings("ignore")

try:
    import numpy as np
    import onnx
    import torch
    from opensr_srgan import load_from_config
    from opensr_srgan.model.SRGAN import SRGAN_model
    from safetensors.torch import load_file
    from small_networks import GENERATORS, SHARE, ground, predicted, run, train
except ImportError as absent:
    print(f"SKIPPED: the round trip through PyTorch ({absent}); pip install torch opensr-srgan onnx safetensors")
    sys.exit(77)

SIZE = (37, 29)
DISCRIMINATORS = {
    "standard": "{model_type: standard, n_blocks: 4}",
    "esrgan": "{model_type: esrgan, base_channels: 4, linear_size: 8}",
}


def noise_of(folder, name):
    """The vector that `srgan predict` gives a stochastic generator."""
    facts = {prop.key: prop.value for prop in onnx.load(str(folder / f"{name}.onnx")).metadata_props}
    return np.array([float(number) for number in facts["noise"].split(",")], "float32") if "noise" in facts else None


def forward(model, image, noise):
    with torch.no_grad():
        model.eval()
        generator = model.generator
        given = {} if noise is None else {"noise": torch.tensor(noise)[None]}
        return generator(torch.tensor(image), **given).numpy()


def check_out(binaries, folder, name, image, want):
    """What differs between a map of ours and the same network in opensr-srgan."""
    problems = []
    run(binaries / "srgan", "export", name, "-o", f"{name}.ckpt", cwd=folder)
    run(binaries / "srgan", "export", name, "-o", f"{name}.onnx", cwd=folder)
    run(binaries / "srgan", "export", name, "-o", f"{name}.safetensors", cwd=folder)
    run(binaries / "srgan", "export", name, "-o", f"{name}-gan.ckpt", "--discriminator", cwd=folder)
    noise = noise_of(folder, name)
    config, file = folder / f"{name}.yaml", folder / f"{name}.ckpt"
    saved = torch.load(file, weights_only=True)
    strict = SRGAN_model(config, mode="eval")
    strict.load_state_dict(saved["state_dict"], strict=True)
    plain = SRGAN_model(config, mode="eval")
    plain.load_state_dict(load_file(folder / f"{name}.safetensors"), strict=True)
    both = torch.load(folder / f"{name}-gan.ckpt", weights_only=True)["state_dict"]
    whole = SRGAN_model(folder / f"{name}-gan.yaml", mode="train")
    for network in ("generator", "discriminator"):
        part = {key.removeprefix(f"{network}."): value for key, value in both.items() if key.startswith(network)}
        getattr(whole, network).load_state_dict(part, strict=True)
    averaged = load_from_config(config, file, mode="train")
    averaged.ema.apply_to(averaged.generator)
    ways = {
        "load_state_dict": strict,
        "safetensors": plain,
        "with its discriminator": whole,
        "load_from_config": load_from_config(config, file, mode="eval"),
        "its average": averaged,
        "load_from_checkpoint": SRGAN_model.load_from_checkpoint(file),
    }
    spread = want.max() - want.min()
    for way, model in ways.items():
        got = forward(model, image, noise)
        away = np.abs(got - want).max()
        if got.shape != want.shape or not away <= SHARE * spread or spread == 0:
            problems.append(f"{name}, {way}: {away} away of a range of {spread}")
    return problems


def check_back(binaries, folder, name, scene, image):
    """What differs between a network of opensr-srgan's and our map of its checkpoint."""
    torch.manual_seed(5)
    config = folder / f"{name}.yaml"
    model = SRGAN_model(config, mode="train")
    for module in model.generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    model.ema.update(model.generator)
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight.mul_(1.1)
    model.ema.update(model.generator)
    checkpoint = {"state_dict": model.state_dict(), "epoch": 1, "global_step": 2}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "theirs.ckpt")
    problems = []
    noise = noise_of(folder, name)
    for live in (True, False):
        if not live:
            model.ema.apply_to(model.generator)
        want = forward(model, image, noise)
        options = ["--config", config.name] + (["--live"] if live else [])
        got = predicted(binaries, folder, "theirs.ckpt", scene, *options).transpose(2, 0, 1)[None]
        away, spread = np.abs(got - want).max(), want.max() - want.min()
        if got.shape != want.shape or not away <= SHARE * spread or spread == 0:
            problems.append(f"{name} of opensr-srgan, live {live}: {away} away of a range of {spread}")
    return problems


def main():
    binaries = Path(sys.argv[1]).resolve()
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = ground(np.random.default_rng(3), *SIZE)
        image = np.ascontiguousarray(scene.transpose(2, 0, 1)[None])
        for family, generator in GENERATORS.items():
            discriminator = DISCRIMINATORS.get(family, "{model_type: patchgan, n_blocks: 1}")
            train(binaries, folder, family, generator, discriminator=discriminator)
            want = predicted(binaries, folder, family, scene).transpose(2, 0, 1)[None]
            (folder / f"{family}.yaml").unlink()
            problems += check_out(binaries, folder, family, image, want)
            problems += check_back(binaries, folder, family, scene, image)
            print(f"{family}: out and back")
    print("\n".join(problems) or "every generator gives the same pixels in opensr-srgan, both ways")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
