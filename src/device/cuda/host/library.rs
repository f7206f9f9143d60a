//! Libraries' calls by plain loops over what a call describes, so that plans with such calls run, and wrong
//! descriptions show, on any machine.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use half::bf16;

use super::Libraries;
use crate::device::cuda::driver::{DevicePtr, Work};
use crate::device::cuda::launch::library::{Convolution, Layout, LibraryLaunch, LibraryOp, Product};
use crate::types::{Element, Pass};
use crate::{Error, Result};

/// What the host offers: one that fails when it is called, one that computes, and a slower one; or wrong ones beside
/// it: all elements are off by 3 %, one element is, one is not a number; or one that loses the device; or one whose last
/// bits differ from call to call.
pub(super) fn algorithms(libraries: Libraries) -> &'static [&'static str] {
    match libraries {
        Libraries::None => &[],
        Libraries::Slower | Libraries::Faster => &["host:fails", "host:plain", "host:slow"],
        Libraries::Faulty => &["host:scaled", "host:hole", "host:nan", "host:plain"],
        Libraries::Fatal => &["host:plain", "host:fatal"],
        Libraries::Unsteady => &["host:unsteady", "host:plain"],
    }
}

/// A candidate's time, by rule.
pub(super) fn pretended_time(work: &[Work], libraries: Libraries) -> Duration {
    let calls = |algorithm: &str| work.iter().any(|w| matches!(w, Work::Library(l) if &*l.algorithm == algorithm));
    let is_for_hopper = |entry: &Work| matches!(entry, Work::Kernel(k) if !k.args.tensor_maps.is_empty());
    Duration::from_micros(match libraries {
        Libraries::None if work.iter().any(is_for_hopper) => 1,
        Libraries::Faster if calls("host:plain") => 1,
        Libraries::Faulty if calls("host:plain") => 5,
        _ if ["host:scaled", "host:hole", "host:nan", "host:unsteady"].into_iter().any(calls) => 1,
        _ if calls("host:plain") => 20,
        _ if calls("host:slow") => 30,
        _ => 10,
    })
}

/// Elements that the unsteady algorithm has computed.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Computes a call.
///
/// # Safety
/// The operands are allocated, with the extents and layouts that the call says.
pub(super) unsafe fn run(launch: &LibraryLaunch) -> Result<()> {
    if &*launch.algorithm == "host:fails" {
        return Err(Error::device(format!("{}: this algorithm always fails", launch.path)));
    }
    if &*launch.algorithm == "host:fatal" {
        return Err(Error::DeviceLost { message: "an illegal access".to_owned() });
    }
    let operands = launch.call.operands;
    let falsify: fn(usize, f64) -> f64 = match &*launch.algorithm {
        "host:scaled" => |_, sum| 1.03 * sum,
        "host:hole" => |i, sum| if i == 0 { 0.0 } else { sum },
        "host:nan" => |i, sum| if i == 0 { f64::NAN } else { sum },
        "host:unsteady" => |_, sum| sum * (1.0 + f64::from(CALLS.fetch_add(1, Relaxed) % 64) * 2f64.powi(-21)),
        _ => |_, sum| sum,
    };
    // SAFETY: the caller's.
    unsafe {
        match &launch.call.op {
            LibraryOp::Convolution(c) => convolution(c, operands, falsify),
            LibraryOp::Product(p) => product(p, operands, falsify),
        }
    }
    Ok(())
}

/// An operand in memory.
struct Operand {
    ptr: DevicePtr,
    layout: Layout,
}

impl Operand {
    /// Element `column` of pixel or row `row`.
    unsafe fn get(&self, row: usize, column: usize) -> f64 {
        let at = row * self.layout.stride + column;
        // SAFETY: the caller's.
        unsafe {
            match self.layout.element {
                Element::F32 => f64::from((self.ptr.0 as *const f32).add(at).read()),
                Element::Bf16 => (self.ptr.0 as *const bf16).add(at).read().to_f64(),
            }
        }
    }

    /// The same element becomes `value`, rounded to nearest, of equals to even.
    unsafe fn set(&self, row: usize, column: usize, value: f64) {
        let at = row * self.layout.stride + column;
        // SAFETY: the caller's.
        unsafe {
            match self.layout.element {
                Element::F32 => (self.ptr.0 as *mut f32).add(at).write(value as f32),
                Element::Bf16 => (self.ptr.0 as *mut bf16).add(at).write(bf16::from_f32(value as f32)),
            }
        }
    }
}

unsafe fn product(p: &Product, [lhs, rhs, output]: [DevicePtr; 3], falsify: fn(usize, f64) -> f64) {
    let (lhs, rhs) = (Operand { ptr: lhs, layout: p.lhs.layout }, Operand { ptr: rhs, layout: p.rhs.layout });
    let output = Operand { ptr: output, layout: p.output };
    let at = |outer, inner, in_row: bool| if in_row { (outer, inner) } else { (inner, outer) };
    for row in 0..p.rows {
        for column in 0..p.columns {
            let mut sum = 0.0;
            for inner in 0..p.inner {
                let (a, b) = (at(row, inner, p.lhs.inner_in_row), at(column, inner, p.rhs.inner_in_row));
                // SAFETY: the caller's.
                sum += unsafe { lhs.get(a.0, a.1) * rhs.get(b.0, b.1) };
            }
            // SAFETY: the caller's.
            unsafe { output.set(row, column, falsify(row * p.columns + column, sum)) };
        }
    }
}

/// Adds every product of the convolution to the element of the written operand that it belongs to.
unsafe fn convolution(c: &Convolution, [input, weight, output]: [DevicePtr; 3], falsify: fn(usize, f64) -> f64) {
    let (input, weight, output) = (
        Operand { ptr: input, layout: c.input },
        Operand { ptr: weight, layout: c.weight },
        Operand { ptr: output, layout: c.output },
    );
    let s = &c.shape;
    let (written, rows, columns) = match c.pass {
        Pass::Forward => (&output, s.batch * s.out_h * s.out_w, s.out_ch),
        Pass::InputGrad => (&input, s.batch * s.in_h * s.in_w, s.in_ch),
        Pass::WeightGrad => (&weight, s.weight_len() / s.weight_in_ch(), s.weight_in_ch()),
    };
    let mut sums = vec![0.0; rows * columns];
    each_product(c, |pixel, in_ch, tap, of_filter, out_pixel, out_ch| {
        // SAFETY: the caller's; every index is within the extents.
        unsafe {
            let (at, term) = match c.pass {
                Pass::Forward => ((out_pixel, out_ch), input.get(pixel, in_ch) * weight.get(tap, of_filter)),
                Pass::InputGrad => ((pixel, in_ch), output.get(out_pixel, out_ch) * weight.get(tap, of_filter)),
                Pass::WeightGrad => ((tap, of_filter), input.get(pixel, in_ch) * output.get(out_pixel, out_ch)),
            };
            sums[at.0 * columns + at.1] += term;
        }
    });
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { written.set(i / columns, i % columns, falsify(i, sum)) };
    }
}

/// Calls `visit(input pixel, input channel, filter · taps + tap, channel in the filter, output pixel, output channel)`
/// for every product.
fn each_product(c: &Convolution, mut visit: impl FnMut(usize, usize, usize, usize, usize, usize)) {
    let s = &c.shape;
    for out_pixel in 0..s.batch * s.out_h * s.out_w {
        let (n, oy, ox) = (out_pixel / (s.out_h * s.out_w), out_pixel / s.out_w % s.out_h, out_pixel % s.out_w);
        for tap in 0..s.taps() {
            let (Some(y), Some(x)) = (s.source(oy, tap / s.ksize_w, s.in_h), s.source(ox, tap % s.ksize_w, s.in_w))
            else {
                continue;
            };
            let pixel = (n * s.in_h + y) * s.in_w + x;
            for out_ch in 0..s.out_ch {
                let row = out_ch * s.taps() + tap;
                for i in 0..s.weight_in_ch() {
                    visit(pixel, if s.depthwise { out_ch } else { i }, row, i, out_pixel, out_ch);
                }
            }
        }
    }
}
