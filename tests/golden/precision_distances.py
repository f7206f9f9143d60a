"""Computes how far PyTorch's own runs in tf32 and bf16 are from the golden cases.

For every case (`*.safetensors`, see make_golden.py) in FOLDER it rebuilds the networks with the file's weights, runs the
case once in each precision on the CPU, and writes FOLDER/precision_distances.json: {case: {precision: {tensor: distance}}},
where distance is sqrt(sum((run - file)^2)) with four significant digits. `SRGAN_GOLDEN_PRECISION` (tests/golden) allows
l2_tol + 3 * distance, nothing else.

One run says little of a tensor of few elements: the error of a single number may be near zero by chance, and of two
equally good implementations one is then more than three times as far away as the other in a fifth of all cases. For
tensors of fewer than FEW elements the distance is therefore the largest of that run's and of NOISY_RUNS others, whose
convolutions' inputs and gradients are off by up to half a unit in the last place, as make_golden.py does for float32.

  bf16  the networks' forward passes under torch.autocast, as Lightning's `bf16-mixed` runs them, and autograd's backward
        passes of that; losses, their gradients, master weights, clipping, Adam and EMA in float32
  tf32  float32, with both operands of every convolution of the networks rounded to 10 mantissa bits, also where a
        convolution is a gradient, or the gradient of one (R1). Ties go away from zero, as in the GPU's conversion
        `cvt.rna.tf32.f32`. Sums, biases and linear layers stay float32

The losses have no network in them but the perceptual one, which is run as the others are: the rest of them is float32
in every precision, SSIM's window (a convolution in PyTorch) too.

First the float32 run of each case must be within l2_tol, which shows that the case was rebuilt. The script fails on that,
on a value that is not finite, and on a layer that autocast left in float32; it lists the tensors where three distances
reach the tensor's norm, unless that is zero in float32: there a result of zero would pass.

Run it with Python 3.11, `pip install torch==2.11.0 opensr-srgan==0.4.3 torchvision lpips safetensors pyyaml`:
    python precision_distances.py [FOLDER]
"""
from __future__ import annotations

import json, sys
from pathlib import Path

import torch, yaml
from safetensors import safe_open
from torch.nn.grad import conv2d_input, conv2d_weight

import make_golden as golden

F = torch.nn.functional
FEW, NOISY_RUNS = 16, 8
# Relative to the largest numbers of a unit; to the smallest it is twice as much.
HALF_UNIT = {"f32": 0.0, "tf32": 2.0**-12, "bf16": 2.0**-9}
NOISE_GEN = torch.Generator()


def tf32(x):
    """`cvt.rna.tf32.f32`: the nearest number with 10 mantissa bits, ties away from zero."""
    bits = x.contiguous().view(torch.int32)
    return torch.where(x.isfinite(), (bits + 0x1000 & ~0x1FFF).view(torch.float32), x)


class Convolve(torch.autograd.Function):
    """conv2d of rounded operands. This class and the next two are closed under differentiation."""

    @staticmethod
    def forward(ctx, x, w, how):
        ctx.save_for_backward(x, w)
        ctx.how = how
        return F.conv2d(tf32(x), tf32(w), None, *how)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return InputGrad.apply(g, w, x.shape, ctx.how), WeightGrad.apply(x, g, w.shape, ctx.how), None


class InputGrad(torch.autograd.Function):
    """The gradient of Convolve with respect to x."""

    @staticmethod
    def forward(ctx, g, w, shape, how):
        ctx.save_for_backward(g, w)
        ctx.how = how
        return conv2d_input(shape, tf32(w), tf32(g), *how)

    @staticmethod
    def backward(ctx, c):
        g, w = ctx.saved_tensors
        return Convolve.apply(c, w, ctx.how), WeightGrad.apply(c, g, w.shape, ctx.how), None, None


class WeightGrad(torch.autograd.Function):
    """The gradient of Convolve with respect to w."""

    @staticmethod
    def forward(ctx, x, g, shape, how):
        ctx.save_for_backward(x, g)
        ctx.how = how
        return conv2d_weight(tf32(x), shape, tf32(g), *how)

    @staticmethod
    def backward(ctx, c):
        x, g = ctx.saved_tensors
        return InputGrad.apply(g, c, x.shape, ctx.how), Convolve.apply(x, c, ctx.how), None, None


def in_tf32(net, problems):
    def convolve(m):
        how = (m.stride, m.padding, m.dilation, m.groups)

        def forward(x, w, bias):
            y = Convolve.apply(x, w, how)
            return y if bias is None else y + bias.view(1, -1, 1, 1)
        return forward

    for name, m in net.named_modules():
        if isinstance(m, torch.nn.Conv2d):
            if m.padding_mode != "zeros" or isinstance(m.padding, str):
                problems.add(f"{name}: padding {m.padding_mode} {m.padding} is not rebuilt in tf32")
            m._conv_forward = convolve(m)


def in_bf16(net, problems):
    def check(name):
        def hook(m, i, o):
            if o.dtype != torch.bfloat16:
                problems.add(f"{name}: autocast computed it in {o.dtype}")
        return hook

    for name, m in net.named_modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            m.register_forward_hook(check(name))
    forward = net.forward

    def mixed(*args):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(*args).float()
    net.forward = mixed


class Noise(torch.autograd.Function):
    """Identity that is off by up to a share of each element, forward and backward."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        off = torch.rand(x.shape, generator=NOISE_GEN) * 2 - 1
        return (x.float() * (1 + share * off)).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return Noise.apply(g, ctx.share), None


def add_noise(net, share):
    for m in net.modules():
        if isinstance(m, torch.nn.Conv2d):
            m.register_forward_pre_hook(lambda m, i: (Noise.apply(i[0], share), *i[1:]))


PRECISIONS = {"f32": lambda net, problems: None, "tf32": in_tf32, "bf16": in_bf16}


def load(net, tensors, prefix):
    """Takes a network's weights and buffers; only counters of batches may be missing."""
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    missing, unexpected = net.load_state_dict(found, strict=False)
    missing = [k for k in missing if net.state_dict()[k].is_floating_point()]
    assert not missing and not unexpected, f"{prefix} missing {missing}, unexpected {unexpected}"


def lower(net, precision, problems, share):
    """Lets a network compute in a precision, with noise if its share is not 0."""
    PRECISIONS[precision](net, problems)
    if share:
        add_noise(net, share)


def run(case, tensors, precision, problems, share=0.0):
    """The tensors of one run of a case, with noise if its share is not 0."""
    cfg = yaml.safe_load(case["config"])
    g, d, crit = golden.build(cfg)
    prefix = "init." if case["kind"] == "training" else ""
    for net, name in ((g, "generator."), (d, "discriminator.")):
        if any(k.startswith(prefix + name) for k in tensors):
            load(net, tensors, prefix + name)
            lower(net, precision, problems, share)
    if crit.perceptual_model is not None:
        lower(crit.perceptual_model, precision, problems, share)
    match case["kind"]:
        case "generator":
            return golden.generator_run(g, tensors)
        case "discriminator":
            return golden.discriminator_run(d, tensors, case["r1_gamma"])
        case "content_loss":
            return golden.loss_run(crit, tensors)
        case "training":
            return golden.training_run(g, d, crit, tensors, cfg, case["steps"])
        case other:
            raise ValueError(f"a case of unknown kind {other}")


def distances(case, tensors, precision):
    """{tensor: distance}, what is wrong with the run without noise, and the tensors that zero would pass for."""
    problems = set()
    got = run(case, tensors, precision, problems)
    NOISE_GEN.manual_seed(7)
    others = [] if precision == "f32" else [run(case, tensors, precision, set(), HALF_UNIT[precision])
                                            for _ in range(NOISY_RUNS)]
    found, loose = {}, []
    for name in sorted(case["l2_tol"]):
        want = tensors[name].double()
        runs = [got, *others] if want.numel() < FEW else [got]
        distance = max((r[name].detach().double() - want).norm().item() for r in runs)
        found[name] = float(f"{distance:.4g}")
        if not got[name].isfinite().all():
            problems.add(f"{name}: not finite")
        if precision == "f32" and not distance <= case["l2_tol"][name]:
            problems.add(f"{name}: distance {distance:.2e} is beyond l2_tol {case['l2_tol'][name]:.2e}")
        if 3 * distance >= want.norm().item() > case["l2_tol"][name]:
            loose.append(f"{name}: distance {distance:.2e} of norm {want.norm().item():.2e}")
    return found, sorted(problems), loose


def main(folder):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    golden.DTYPE = torch.float32
    out, failed = {}, False
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            case = json.loads(file.metadata()["case"])
            tensors = {k: file.get_tensor(k).float() for k in file.keys()}
        for precision in PRECISIONS:
            found, problems, loose = distances(case, tensors, precision)
            if precision != "f32":
                out.setdefault(case["name"], {})[precision] = found
            print(f"{case['name']} {precision}: {len(found)} tensors, {len(problems)} problems, {len(loose)} loose")
            for line in [f"PROBLEM {p}" for p in problems] + [f"loose {p}" for p in loose]:
                print(f"  {line}")
            failed |= bool(problems)
    if failed:
        sys.exit("there are problems: nothing was written")
    (folder / "precision_distances.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
