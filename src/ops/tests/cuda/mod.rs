//! Every CUDA kernel on the host driver, against its op's reference: the ops' cases and random extents, with the
//! threads of a block in each order, so that a missing barrier shows, and under AddressSanitizer.

mod libraries;
mod shuffle;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::{all_cases, assert_close, precision, random, run_on};
use crate::device::cuda::host::{HostDriver, HostOptions, ThreadOrder, sanitizer_library};
use crate::graph::{Op, Tensor64};
use crate::ops::add::Add;
use crate::ops::avg_pool::{AvgPool, AvgPoolGrad};
use crate::ops::conv2d::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad, Geometry};
use crate::ops::image_metrics::ImageMetrics;
use crate::ops::linear::{Linear, LinearInputGrad, LinearWeightGrad};
use crate::ops::max_pool::{MaxPool, MaxPoolGrad};
use crate::ops::mul::Mul;
use crate::ops::pixel_losses::{PixelLosses, PixelLossesGrad};
use crate::ops::pixel_shuffle::{PixelShuffle, PixelUnshuffle};
use crate::ops::prelu::{PreluGrad, PreluSlopeGrad};
use crate::ops::resize::Resize;
use crate::ops::slice::EmbedChannels;
use crate::ops::sum_to::{Expand, SumTo};
use crate::ops::{Case, lpips_distance, norm};
use crate::rng::{Rng, Stream};
use crate::runtime::Cuda;
use crate::types::{Precision, Shape};

/// The CUDA device on the host driver.
pub(super) fn on_host(options: HostOptions) -> Cuda {
    let cache = std::env::temp_dir().join("srgan_host_kernels");
    Cuda::new(Box::new(HostDriver::new(&cache, options).unwrap()))
}

fn check(cases: &[Case], options: HostOptions) {
    for (case, strided) in cases.iter().flat_map(|case| [(case, false), (case, true)]) {
        let (got, want) = run_on(&mut on_host(options), case, strided);
        assert_close(&got, &want, 3e-6, &format!("{:?} of {:?} strided {strided}, {options:?}", case.op, case.inputs));
    }
}

fn check_in_every_order(cases: &[Case]) {
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(1)] {
        check(cases, HostOptions { order, ..HostOptions::default() });
    }
}

#[test]
fn kernels_compute_the_references() {
    check_in_every_order(&all_cases());
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn kernels_compute_the_references_at_random_extents() {
    check_in_every_order(&random_cases(24));
}

/// As a GPU compiles them: sizes are constants of the source, so each case costs a build. Of each op the first case runs
/// on contiguous operands and the last on channel slices.
#[test]
fn specialised_kernels_compute_the_references() {
    let cases = all_cases();
    let mut ends: BTreeMap<&str, [&Case; 2]> = BTreeMap::new();
    for case in &cases {
        ends.entry(case.op.name()).or_insert([case; 2])[1] = case;
    }
    let mut device = on_host(HostOptions { specialise: true, ..HostOptions::default() });
    for (case, strided) in ends.values().flat_map(|[first, last]| [(*first, false), (*last, true)]) {
        let (got, want) = run_on(&mut device, case, strided);
        assert_close(&got, &want, 3e-6, &format!("{:?} of {:?} strided {strided}", case.op, case.inputs));
    }
}

/// The same in bf16, where an op allows it.
#[test]
fn specialised_kernels_compute_on_bf16() {
    let options = HostOptions { specialise: true, ..HostOptions::default() };
    let (mut seen, mut low) = (BTreeSet::new(), 0);
    for case in all_cases().iter().filter(|case| precision::allowed(case) && seen.insert(case.op.name())) {
        let (read, written) = precision::check(case, Precision::Bf16, options, true);
        low += usize::from(read || written);
    }
    assert!(low > 20, "{low} ops read or wrote bf16");
}

#[test]
fn kernels_touch_only_their_memory() {
    run_sanitized(module_path!(), "under_the_sanitizer");
}

/// Runs an ignored test of `module` in a process of its own: the sanitizer must be there when a process starts.
pub(in crate::ops) fn run_sanitized(module: &str, test: &str) {
    let (_, module) = module.split_once("::").expect("inside the crate");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("{module}::{test}")])
        .env("LD_PRELOAD", sanitizer_library().expect("the compiler has AddressSanitizer"))
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && log.contains("1 passed"), "{log}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "started by kernels_touch_only_their_memory"]
fn under_the_sanitizer() {
    check(&random_cases(6), HostOptions { sanitize: true, ..HostOptions::default() });
}

/// Cases of extents with single pixels, images and channels, odd sizes, and whole vectors, `rounds` for each op.
pub(super) fn random_cases(rounds: usize) -> Vec<Case> {
    let mut rng = Rng::new(7, Stream::Noise, 0, 0);
    let mut pick = |from: &[usize]| from[rng.below(from.len() as u32) as usize];
    let mut cases = Vec::new();
    for _ in 0..rounds {
        let (n, h, w) = (pick(&[1, 1, 2, 3]), pick(&[1, 2, 5, 8, 17]), pick(&[1, 3, 4, 9, 19]));
        let (c, o) = (pick(&[1, 3, 4, 13, 16, 21, 64, 70]), pick(&[1, 2, 4, 8, 15, 33, 68]));
        let (x, vector) = ([n, h, w, c], [1, 1, 1, c]);
        let (ksize, stride, dilation) = (pick(&[1, 3, 3, 4, 5, 9]), pick(&[1, 1, 2]), pick(&[1, 1, 3]));
        let pad = pick(&[0, ksize / 2, ksize / 2 * dilation]);
        for depthwise in [false, true] {
            let g = Geometry { stride, pad, dilation, depthwise };
            let weight = if depthwise { [c, ksize, ksize, 1] } else { [o, ksize, ksize, c] };
            convolution(&mut cases, g, Shape(x), Shape(weight));
        }
        let (x_rows, weight, y_rows) = ([n * h, 1, 1, c], [o, 1, 1, c], [n * h, 1, 1, o]);
        cases.push(Case::new(Linear, &[x_rows, weight]));
        cases.push(Case::new(LinearInputGrad, &[y_rows, weight]));
        cases.push(Case::new(LinearWeightGrad, &[x_rows, y_rows]));
        cases.push(Case::new(PixelShuffle { factor: 2 }, &[[n, h, w, 4 * c]]));
        cases.push(Case::new(PixelUnshuffle { factor: 2 }, &[[n, 2 * h, 2 * w, c]]));
        for target in [vector, [n, 1, 1, c], [n, 1, 1, 1], [1; 4], [n, h, w, 1]] {
            cases.push(Case::new(SumTo { target: Shape(target) }, &[x, x]).with_data(of_one_sign));
            cases.push(Case::new(Expand { target: Shape(x) }, &[target]));
            cases.push(Case::new(Mul, &[x, target]));
        }
        cases.push(Case::new(Add { alpha: 0.2, beta: -1.5 }, &[x, vector]));
        cases.push(Case::new(PreluGrad, &[x, x, [1; 4]]));
        cases.push(Case::new(PreluSlopeGrad, &[x, x]).with_data(of_one_sign));
        let (out_h, out_w) = (pick(&[1, 2, 6]), pick(&[1, 3, 6]));
        cases.push(Case::new(AvgPool { out_h, out_w }, &[x]));
        cases.push(Case::new(AvgPoolGrad { height: h, width: w }, &[[n, out_h, out_w, c]]));
        cases.push(Case::new(EmbedChannels { offset: o, channels: c + 2 * o }, &[x]));
        let resize = Resize { height: out_h * 2, width: out_w * 3, antialias: o % 2 == 0 };
        cases.push(Case::new(resize, &[x]));
        // One pixel may be clipped to the same value in both images: an infinite ratio.
        let large = [n, h + 6, w + 6, c];
        cases.push(Case::new(PixelLosses { max_val: 1.0 }, &[large, large]));
        cases.push(Case::new(PixelLossesGrad, &[x, x, [1, 1, 1, 4]]));
        cases.push(Case::new(ImageMetrics { max_val: 1.0, ssim_win: pick(&[3, 7, 11]) }, &[large, large]));
        cases.extend(norm::cases_of(large));
        cases.extend(lpips_distance::cases_of(Shape(x)));
        let pool = MaxPool { size: pick(&[1, 2, 3, 5]), stride: pick(&[1, 2, 3]) };
        if let Ok(pooled) = pool.shape(&[Shape(x)]) {
            cases.push(Case::new(pool, &[x]));
            cases.push(Case::new(MaxPoolGrad { pool }, &[pooled.0, x]));
        }
    }
    cases
}

/// Products of one sign: a sum of both signs that comes near 0 would have no digits left.
fn of_one_sign(operand: usize, shape: Shape) -> Tensor64 {
    let sign = if operand == 0 { 1.0 } else { -1.0 };
    Tensor64::new(shape, random(shape, 10 + operand as u64).data.into_iter().map(|v| sign * v.abs()).collect())
}

/// The three passes of a convolution, where the kernel fits.
fn convolution(cases: &mut Vec<Case>, g: Geometry, input: Shape, weight: Shape) {
    let Ok(output) = g.output(input, weight) else { return };
    cases.push(Case::new(Conv2d(g), &[input.0, weight.0]).contiguous(&[1]));
    cases.push(Case::new(Conv2dInputGrad { geometry: g, input }, &[output.0, weight.0]).contiguous(&[1]));
    cases.push(Case::new(Conv2dWeightGrad { geometry: g, weight }, &[input.0, output.0]));
}
