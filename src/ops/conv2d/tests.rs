//! Convolutions on tensor cores, on the host driver, against the f64 reference of operands that are rounded first:
//! what is left is the rounding of sums in f32, and of the result where that is stored in bf16.

use std::path::PathBuf;

use super::mma::Fetch;
use super::reference::{reference_conv2d, reference_conv2d_input_grad, reference_conv2d_weight_grad};
use super::{Geometry, cuda, wgmma};
use crate::device::cuda::driver::{DevicePtr, Driver};
use crate::device::cuda::host::{HostDriver, HostOptions, ThreadOrder};
use crate::device::cuda::{CudaCall, DeviceView, Finish};
use crate::ops::tests::cuda::run_sanitized;
use crate::ops::tests::{assert_close, random};
use crate::runtime::cuda::prepare;
use crate::types::{Element, Pass, Precision, Shape};

/// How a tensor lies in memory: its elements, and the channels before and behind its own in each pixel.
#[derive(Clone, Copy, Debug)]
struct Layout {
    element: Element,
    before: usize,
    behind: usize,
}

/// One convolution, and how its operands lie.
#[derive(Clone, Copy, Debug)]
struct Case {
    geometry: Geometry,
    input: [usize; 4],
    weight: [usize; 4],
}

/// A tensor in device memory, and all memory around it.
struct Placed {
    view: DeviceView,
    memory: DevicePtr,
    bytes: Vec<u8>,
}

impl Placed {
    /// A tensor of `values`, or of NaN, as is everything around it.
    fn new(driver: &mut HostDriver, shape: Shape, values: Option<&[f64]>, layout: Layout) -> Placed {
        let Layout { element, before, behind } = layout;
        let (c, stride) = (shape.c(), before + shape.c() + behind);
        let mut bytes = vec![0xff; shape.pixels() * stride * element.size()];
        for (i, value) in values.into_iter().flatten().enumerate() {
            let at = (i / c * stride + before + i % c) * element.size();
            let bits = (*value as f32).to_le_bytes();
            bytes[at..at + element.size()].copy_from_slice(&bits[4 - element.size()..]);
        }
        let memory = driver.alloc(bytes.len()).unwrap();
        // SAFETY: allocated with this size.
        unsafe { driver.upload(memory, &bytes).unwrap() };
        let view = DeviceView { ptr: memory.offset_by(before * element.size()), shape, stride, element };
        Placed { view, memory, bytes }
    }

    /// The values now, after a look at what lies around them.
    fn read(&self, driver: &mut HostDriver) -> Vec<f64> {
        let (size, c) = (self.view.element.size(), self.view.shape.c());
        let before = (self.view.ptr.0 - self.memory.0) as usize / size;
        let mut bytes = self.bytes.clone();
        // SAFETY: allocated with this size.
        unsafe { driver.download(&mut bytes, self.memory).unwrap() };
        let mut values = Vec::new();
        for (i, element) in bytes.chunks(size).enumerate() {
            let channel = i % self.view.stride;
            if channel >= before && channel < before + c {
                let mut float = [0; 4];
                float[4 - size..].copy_from_slice(element);
                values.push(f64::from(f32::from_le_bytes(float)));
            } else {
                assert!(element.iter().all(|b| *b == 0xff), "an element outside of the tensor was written");
            }
        }
        values
    }
}

/// The nearest value of as many bits as products or elements have, ties to even (bf16) or away from zero (tf32).
fn rounded(values: &[f64], kept_bits: u32, to_even: bool) -> Vec<f64> {
    let dropped = 32 - kept_bits;
    let round = |v: &f64| {
        let bits = (*v as f32).to_bits();
        let half = 1 << (dropped - 1);
        let up = if to_even { half - 1 + (bits >> dropped & 1) } else { half };
        f64::from(f32::from_bits((bits + up) >> dropped << dropped))
    };
    values.iter().map(round).collect()
}

fn stored(values: &[f64], element: Element) -> Vec<f64> {
    if element == Element::Bf16 { rounded(values, 16, true) } else { values.to_vec() }
}

fn in_products(values: &[f64], precision: Precision) -> Vec<f64> {
    match precision {
        Precision::F32 => values.to_vec(),
        Precision::Tf32 => rounded(values, 19, false),
        Precision::Bf16 => rounded(values, 16, true),
    }
}

/// The result of a pass by every kernel for tensor cores, the own one first, and the reference's.
fn run(
    driver: &mut HostDriver,
    case: &Case,
    pass: Pass,
    precision: Precision,
    layouts: [Layout; 3],
) -> (Vec<(String, Vec<f64>)>, Vec<f64>) {
    let (g, input, weight) = (case.geometry, Shape(case.input), Shape(case.weight));
    let output = g.output(input, weight).unwrap();
    let s = g.conv_shape(input, weight, output);
    let (shapes, reference): (_, fn(_, _, _) -> _) = match pass {
        Pass::Forward => ([input, weight, output], |s, x, w| reference_conv2d(s, x, w)),
        Pass::InputGrad => ([output, weight, input], |s, d, w| reference_conv2d_input_grad(s, d, w)),
        Pass::WeightGrad => ([input, output, weight], |s, x, d| reference_conv2d_weight_grad(s, x, d)),
    };
    let values = [0, 1].map(|k| stored(&random(shapes[k], 20 + k as u64).data, layouts[k].element));
    let operands = [0, 1].map(|k| Placed::new(driver, shapes[k], Some(&values[k]), layouts[k]));
    let scratch = driver.alloc(cuda::weight_grad_scratch(&s) * 4).unwrap();
    let inputs = operands.each_ref().map(|o| o.view);
    let mut results = Vec::new();
    loop {
        let to = Placed::new(driver, shapes[2], None, layouts[2]);
        let call = CudaCall { inputs: &inputs, output: to.view, scratch, finish: Finish::store(to.view), precision };
        let (own, others) = match pass {
            Pass::WeightGrad => (cuda::weight_grad(&call, &s), wgmma::weight_grad(&call, &s)),
            _ => (cuda::correlate(&call, &s, pass), wgmma::correlate(&call, &s, pass)),
        };
        let mut ways = [("own".to_owned(), own)].into_iter().chain(others);
        let Some((name, launches)) = ways.nth(results.len()) else { break };
        for kernel in &launches {
            let launch = prepare(driver, kernel, "test").unwrap();
            // SAFETY: the kernel's own arguments, in memory that is freed below.
            unsafe { driver.launch(&launch).unwrap() };
        }
        results.push((name, to.read(driver)));
        // SAFETY: launches are done when they return.
        unsafe { driver.free(to.memory) };
    }
    for memory in [operands[0].memory, operands[1].memory, scratch] {
        // SAFETY: launches are done when they return.
        unsafe { driver.free(memory) };
    }
    let [a, b] = values.map(|v| in_products(&v, precision));
    (results, reference(&s, &a, &b))
}

const PASSES: [Pass; 3] = [Pass::Forward, Pass::InputGrad, Pass::WeightGrad];

/// Layouts of operands and result for products of one precision: aligned and not, of its own elements and of others.
fn layouts(pass: Pass, precision: Precision, number: usize) -> [Layout; 3] {
    let own = if precision == Precision::Bf16 { Element::Bf16 } else { Element::F32 };
    let other = if precision == Precision::Bf16 { Element::F32 } else { Element::Bf16 };
    let dense = |element| Layout { element, before: 0, behind: 0 };
    let slice = |element| Layout { element, before: 8, behind: 16 };
    let odd = |element| Layout { element, before: 3, behind: 2 };
    let [first, second, to] = match number {
        0 => [dense(own), dense(own), slice(own)],
        1 => [slice(own), slice(own), dense(Element::F32)],
        2 => [odd(own), odd(own), odd(own)],
        _ => [slice(other), dense(other), dense(own)],
    };
    // Weights and their gradients are contiguous; gradients are f32.
    match pass {
        Pass::WeightGrad => [first, second, dense(Element::F32)],
        _ => [first, dense(second.element), to],
    }
}

fn cache() -> PathBuf {
    std::env::temp_dir().join("srgan_host_kernels")
}

fn check(cases: &[Case], layout: impl Fn(usize) -> usize, options: HostOptions) {
    let mut driver = HostDriver::new(&cache(), options).unwrap();
    for (i, case) in cases.iter().enumerate() {
        for (precision, pass) in [Precision::Tf32, Precision::Bf16].iter().flat_map(|p| PASSES.map(|pass| (*p, pass))) {
            let layouts = layouts(pass, precision, layout(i));
            let (results, want) = run(&mut driver, case, pass, precision, layouts);
            // Half a unit in the last of 8 bits at most.
            let tolerance = if layouts[2].element == Element::Bf16 { 2e-3 } else { 3e-6 };
            for (way, got) in &results {
                let what = format!("{way}: {pass:?} in {precision:?} of {case:?} as {layouts:?}, {options:?}");
                assert_close(got, &want, tolerance, &what);
            }
        }
    }
}

fn case(ksize: usize, stride: usize, dilation: usize, input: [usize; 4], out_ch: usize) -> Case {
    let pad = ksize / 2 * dilation;
    let geometry = Geometry { stride, pad, dilation, depthwise: false };
    Case { geometry, input, weight: [out_ch, ksize, ksize, input[3]] }
}

/// Few and many channels, whole chunks and not, all kernels of the networks.
fn cases() -> Vec<Case> {
    vec![
        case(3, 1, 1, [2, 9, 15, 64], 32),
        case(3, 1, 1, [1, 7, 20, 21], 13),
        case(9, 1, 1, [1, 12, 13, 4], 64),
        case(3, 1, 1, [1, 9, 14, 12], 20),
        case(3, 1, 1, [1, 9, 14, 6], 10),
        case(9, 1, 1, [1, 12, 13, 64], 4),
        case(3, 2, 1, [1, 17, 14, 16], 85),
        case(4, 2, 1, [2, 12, 10, 13], 24),
        case(1, 1, 1, [3, 8, 9, 40], 70),
        case(3, 1, 3, [1, 14, 15, 24], 8),
        case(5, 3, 1, [1, 13, 16, 8], 16),
        case(1, 2, 1, [2, 5, 7, 3], 3),
    ]
}

#[test]
fn tensor_core_products_are_those_of_the_reference_however_operands_lie() {
    for layout in 0..4 {
        check(&cases(), |_| layout, HostOptions::default());
    }
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn tensor_core_products_do_not_depend_on_the_order_of_threads() {
    for order in [ThreadOrder::Reverse, ThreadOrder::Random(1), ThreadOrder::Random(2)] {
        check(&cases(), |i| i % 4, HostOptions { order, ..HostOptions::default() });
    }
}

#[test]
fn operands_of_four_channels_come_by_halves_of_chunks() {
    let view =
        |ptr, c, stride, element| DeviceView { ptr: DevicePtr(ptr), shape: Shape([1, 2, 2, c]), stride, element };
    let (bf16, f32) = (Element::Bf16, Element::F32);
    for (view, to, is_async, run) in [
        (view(256, 64, 64, bf16), bf16, true, 8),
        (view(256, 64, 72, f32), bf16, false, 8),
        (view(256, 4, 4, bf16), bf16, true, 4),
        (view(256, 4, 20, f32), bf16, false, 4),
        (view(264, 64, 64, bf16), bf16, true, 4),
        (view(264, 64, 64, f32), bf16, false, 1),
        (view(256, 6, 6, bf16), bf16, false, 1),
        (view(256, 4, 4, f32), f32, true, 4),
        (view(264, 6, 6, f32), f32, true, 2),
        (view(256, 4, 4, bf16), f32, false, 4),
        (view(256, 5, 8, f32), f32, false, 1),
    ] {
        let fetch = Fetch::of(&view, view.shape.c(), view.stride, to);
        assert_eq!(fetch, Fetch { is_async, run }, "{view:?} to {to:?}");
    }
}

/// Input gradients of strided and dilated convolutions stay in f32.
#[test]
fn gradients_without_a_regular_source_are_not_rounded() {
    let case = case(3, 2, 2, [1, 13, 16, 8], 16);
    let mut driver = HostDriver::new(&cache(), HostOptions::default()).unwrap();
    let layouts = [Layout { element: Element::F32, before: 0, behind: 0 }; 3];
    let (in_f32, want) = run(&mut driver, &case, Pass::InputGrad, Precision::F32, layouts);
    assert_close(&in_f32[0].1, &want, 3e-6, "in f32");
    let (in_tf32, _) = run(&mut driver, &case, Pass::InputGrad, Precision::Tf32, layouts);
    assert_eq!(in_f32, in_tf32);
}

/// Several patches along every axis, several parts, stages of the rings that come round, whole planes and not.
fn warpgroup_cases() -> Vec<Case> {
    let padded = |pad, case: Case| Case { geometry: Geometry { pad, ..case.geometry }, ..case };
    vec![
        case(3, 1, 1, [2, 19, 35, 64], 32),
        case(3, 1, 1, [1, 33, 18, 40], 136),
        case(3, 1, 1, [2, 7, 5, 16], 8),
        case(1, 1, 1, [3, 17, 9, 96], 24),
        padded(0, case(3, 1, 1, [1, 20, 21, 72], 64)),
        padded(2, case(3, 1, 1, [1, 9, 17, 24], 16)),
        case(5, 1, 1, [1, 12, 13, 24], 16),
        case(9, 1, 1, [1, 18, 20, 64], 8),
        padded(1, case(2, 1, 1, [1, 16, 16, 32], 32)),
        case(3, 2, 1, [1, 19, 37, 32], 64),
        padded(1, case(4, 2, 1, [2, 18, 20, 16], 40)),
        padded(0, case(2, 2, 1, [1, 9, 35, 16], 16)),
        case(3, 2, 1, [1, 1, 20, 24], 8),
    ]
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn products_of_warpgroups_are_those_of_the_reference_in_any_order() {
    let orders = [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(1), ThreadOrder::Random(2)];
    for (number, order) in orders.into_iter().enumerate() {
        let mut driver = HostDriver::new(&cache(), HostOptions { order, ..HostOptions::default() }).unwrap();
        for case in warpgroup_cases() {
            for pass in PASSES {
                let layouts = layouts(pass, Precision::Bf16, number % 2);
                let (results, want) = run(&mut driver, &case, pass, Precision::Bf16, layouts);
                let few_taps = case.weight[1] <= 4;
                assert_eq!(results.len() > 1, pass != Pass::WeightGrad || few_taps, "{pass:?} of {case:?}");
                let tolerance = if layouts[2].element == Element::Bf16 { 2e-3 } else { 3e-6 };
                for (way, got) in &results[1..] {
                    assert_close(got, &want, tolerance, &format!("{way}: {pass:?} of {case:?} in {order:?}"));
                }
            }
        }
    }
}

/// More patches in a part than stages hold.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn stages_of_patches_are_filled_again() {
    let case = case(3, 1, 1, [1, 160, 320, 16], 16);
    let random = (1..=4).map(ThreadOrder::Random);
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse].into_iter().chain(random) {
        let mut driver = HostDriver::new(&cache(), HostOptions { order, ..HostOptions::default() }).unwrap();
        let layouts = layouts(Pass::WeightGrad, Precision::Bf16, 0);
        let (results, want) = run(&mut driver, &case, Pass::WeightGrad, Precision::Bf16, layouts);
        assert_eq!(results.len(), 2);
        assert_close(&results[1].1, &want, 3e-6, &format!("{order:?}"));
    }
}

/// Blocks of 64 and 128 channels are for results that fill a GPU with them.
#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn wide_blocks_compute_the_reference() {
    for out_ch in [64, 128] {
        check(&[case(1, 1, 1, [1, 184, 184, 16], out_ch)], |_| 0, HostOptions::default());
    }
}

#[test]
#[cfg_attr(not(feature = "slow-tests"), ignore = "slow: cargo test --features slow-tests")]
fn tensor_core_kernels_touch_only_their_memory() {
    run_sanitized(module_path!(), "under_the_sanitizer");
}

#[test]
#[ignore = "started by tensor_core_kernels_touch_only_their_memory"]
fn under_the_sanitizer() {
    let options = HostOptions { sanitize: true, ..HostOptions::default() };
    check(&cases()[..6], |i| i % 3, options);
    check(&warpgroup_cases()[1..6], |i| i % 2, options);
}
