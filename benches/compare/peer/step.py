"""Times srgan's training step in PyTorch and prints one JSON object with the keys of `srgan bench --json`.

    python step.py -c ../rcab_4x64.yaml --phase adversarial --hr 128 --steps 10 --warmup 3 --mode tuned

--mode reference  as opensr-srgan runs it: NCHW, float32 with matrix products in tf32 where CUDA has them, eager
--mode tuned      channels_last, fused Adam, and on CUDA bfloat16 autocast and cuDNN's benchmark
--mode compiled   the same with both networks under torch.compile; on the CPU that needs a C++ compiler

Images are random and on the device before the first step. Step memory counts from when networks and optimisers are
there; on CUDA both kinds of memory are the most that PyTorch's tensors took at once.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import yaml
from torch.nn.functional import binary_cross_entropy_with_logits as bce, mse_loss

from losses import content_loss, image_metrics
from networks import Generator, discriminator, vgg19


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--phase", choices=["forward", "pretrain", "adversarial"], default="adversarial")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="values that override the config's")
    parser.add_argument("--mode", choices=["reference", "tuned", "compiled"], default="tuned")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hr", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, help="compute threads; PyTorch's choice if left out")
    return parser.parse_args()


class Training:
    """Networks, optimisers and a batch of one config, and the steps over them."""

    def __init__(self, cfg, args):
        self.device, self.cuda = args.device, args.device.startswith("cuda")
        self.tuned = args.mode != "reference"
        self.weights, rates = cfg["Training"]["Losses"], cfg["Optimizers"]
        self.clip = float(rates.get("gradient_clip_val", 0))
        bands, self.batch = cfg["Model"]["in_bands"], cfg["Data"]["train_batch_size"]
        self.g = self.place(Generator(bands, cfg["Generator"]))
        self.d = self.place(discriminator(bands, cfg["Discriminator"]))
        low = args.hr // cfg["Generator"]["scaling_factor"]
        self.lr = self.place(torch.rand(self.batch, bands, low, low))
        self.hr = self.place(torch.rand(self.batch, bands, args.hr, args.hr))
        adam = {"betas": tuple(rates.get("betas", (0.0, 0.99))), "eps": float(rates.get("eps", 1e-7))}
        adam |= {"fused": True} if self.tuned else {}
        self.optim_g = torch.optim.Adam(self.g.parameters(), float(rates["optim_g_lr"]), **adam)
        self.optim_d = torch.optim.Adam(self.d.parameters(), float(rates["optim_d_lr"]), **adam)
        self.average = [p.detach().clone() for p in self.g.parameters()]
        compiled = args.mode == "compiled"
        self.run_g = torch.compile(self.g) if compiled else self.g
        self.run_d = torch.compile(self.d) if compiled else self.d
        self.run_vgg = None
        if self.weights["perceptual_weight"] > 0:
            vgg = self.place(vgg19(cfg["TruncatedVGG"]))
            self.run_vgg = torch.compile(vgg) if compiled else vgg

    def place(self, what):
        return what.to(self.device, memory_format=torch.channels_last if self.tuned else torch.contiguous_format)

    def autocast(self):
        return torch.autocast("cuda", torch.bfloat16, enabled=self.cuda and self.tuned)

    def generate(self):
        with self.autocast():
            return self.run_g(self.lr)

    def judge(self, *images):
        with self.autocast():
            logits = [self.run_d(image) for image in images]
        return [l.float() for l in logits]

    def forward(self):
        with torch.no_grad():
            self.generate()

    def pretrain(self):
        self.update_generator(self.content(self.generate()))

    def adversarial(self):
        sr = self.generate()
        real, fake = self.judge(self.hr, sr.detach())
        d_loss = bce(real, torch.full_like(real, 0.9)) + bce(fake, torch.zeros_like(fake))
        self.update(self.optim_d, self.d, 0.5 * d_loss)
        content = self.content(sr)
        # As opensr-srgan does: D's weights need no gradients while G learns.
        self.d.requires_grad_(False)
        (fake,) = self.judge(sr)
        self.update_generator(content + self.weights["adv_loss_beta"] * bce(fake, torch.ones_like(fake)))
        self.d.requires_grad_(True)

    def content(self, sr):
        sr = sr.float()
        image_metrics(sr.detach(), self.hr, self.weights)
        content = content_loss(sr, self.hr, self.weights)
        if self.run_vgg is None:
            return content
        bands = self.weights["fixed_idx"]
        with self.autocast():
            with torch.no_grad():
                wanted = self.run_vgg(self.hr[:, bands])
            found = self.run_vgg(sr[:, bands])
        return content + self.weights["perceptual_weight"] * mse_loss(found.float(), wanted.float())

    def update_generator(self, loss):
        self.update(self.optim_g, self.g, loss)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.g.parameters()], 0.001)

    def update(self, optimiser, network, loss):
        optimiser.zero_grad()
        loss.backward()
        if self.clip > 0:
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        optimiser.step()


def timed(step, count, synchronise):
    """Seconds of each of `count` steps."""
    times = []
    for _ in range(count):
        synchronise()
        start = time.perf_counter()
        step()
        synchronise()
        times.append(time.perf_counter() - start)
    return times


def peak_resident_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load_config(args):
    with open(args.config) as file:
        cfg = yaml.safe_load(file)
    for override in args.overrides:
        path, value = override.split("=", 1)
        section, key = path.split(".")
        cfg[section][key] = yaml.safe_load(value)
    return cfg


def main():
    args = parse_args()
    cfg = load_config(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = args.mode != "reference"
    training = Training(cfg, args)
    if args.phase == "forward":
        training.g.eval()
    step = getattr(training, args.phase)
    synchronise = torch.cuda.synchronize if training.cuda else lambda: None
    before = peak_resident_mib()
    timed(step, args.warmup, synchronise)
    times = timed(step, args.steps, synchronise)
    peak = torch.cuda.max_memory_allocated() / 2**20 if training.cuda else peak_resident_mib()
    median = statistics.median(times)
    result = {
        "impl": "pytorch",
        "version": torch.__version__,
        "mode": args.mode,
        "device": args.device,
        "phase": args.phase,
        "batch": training.batch,
        "hr": args.hr,
        "step_ms_median": round(1e3 * median, 3),
        "step_ms_min": round(1e3 * min(times), 3),
        "patches_per_s": round(training.batch / median, 3),
        "peak_mem_mib": round(peak, 1),
        "step_mem_mib": round(peak if training.cuda else peak - before, 1),
    }
    if training.cuda:
        result["libraries"] = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
