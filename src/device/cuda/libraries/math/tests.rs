//! NVIDIA's own libraries, where they are installed: they need a GPU to compute, but not to say whether a description
//! is one. Skipped where they are missing; `SRGAN_REQUIRE_LIBRARIES` makes that a failure.

use std::ptr::null_mut;
use std::sync::Arc;

use super::api::{CublasLtApi, CudnnApi};
use super::{cublaslt, cudnn};
use crate::device::cuda::launch::library::{Convolution, Factor, Layout, Product};
use crate::device::cuda::libraries::search::SearchPath;
use crate::device::cuda::libraries::{Library, Loaded};
use crate::types::{ConvShape, Element, Pass, Precision};

fn library(which: Library) -> Option<Loaded> {
    let search = SearchPath::new(&|name| std::env::var_os(name));
    match which.load(&search, None) {
        Ok(loaded) => {
            println!("{} {} of {}", which.name(), loaded.version, loaded.path.display());
            Some(loaded)
        }
        Err(e) => {
            assert!(std::env::var_os("SRGAN_REQUIRE_LIBRARIES").is_none(), "{e}");
            println!("SKIPPED: {e}");
            None
        }
    }
}

/// Every attribute exists, with the type and number of values that it is given, and the library takes the whole: it
/// checks extents, types and, when an operation is made final, whether they fit each other.
#[test]
fn cudnn_takes_every_description() {
    let Some(library) = library(Library::Cudnn) else { return };
    let api = Arc::new(CudnnApi::of(&library).unwrap());
    let plain = ConvShape::square([2, 9, 7, 16], 8, 3, 1, 1).unwrap();
    let even = ConvShape::square([1, 8, 8, 8], 16, 4, 2, 1).unwrap();
    let depthwise = ConvShape { depthwise: true, out_ch: 16, pad: 3, dilation: 3, ..plain };
    for shape in [plain, even, depthwise] {
        for pass in [Pass::Forward, Pass::InputGrad, Pass::WeightGrad] {
            for (element, precision) in [(Element::F32, Precision::Tf32), (Element::Bf16, Precision::Bf16)] {
                let layout = |channels| Layout { element, stride: channels, align: 16 };
                let convolution = Convolution {
                    pass,
                    shape,
                    input: layout(shape.in_ch + 8),
                    weight: layout(shape.weight_in_ch()),
                    output: layout(shape.out_ch + 24),
                    precision,
                };
                cudnn::check_description(&api, &convolution).unwrap();
            }
        }
    }
    // It does look: an output of a row more does not fit.
    let layout = |channels| Layout { element: Element::F32, stride: channels, align: 16 };
    let wrong = Convolution {
        pass: Pass::Forward,
        shape: ConvShape { out_h: plain.out_h + 1, ..plain },
        input: layout(16),
        weight: layout(16),
        output: layout(8),
        precision: Precision::F32,
    };
    cudnn::check_description(&api, &wrong).unwrap_err();
}

#[test]
fn cublaslt_takes_every_description() {
    let Some(library) = library(Library::CublasLt) else { return };
    let api = Arc::new(CublasLtApi::of(&library).unwrap());
    let mut handle = null_mut();
    // SAFETY: there is no GPU to keep it for.
    let status = unsafe { (api.create)(&mut handle) };
    println!("cublasLtCreate: status {status}");
    for element in [Element::F32, Element::Bf16] {
        for in_row in [true, false] {
            let factor = Factor { layout: Layout { element, stride: 24, align: 8 }, inner_in_row: in_row };
            let output = Layout { element: Element::F32, stride: 24, align: 4 };
            for precision in [Precision::F32, Precision::Tf32] {
                let (lhs, rhs) = (factor, factor);
                let product = Product { rows: 6, columns: 20, inner: 12, lhs, rhs, output, precision };
                cublaslt::check_description(&api, &product).unwrap();
            }
        }
    }
}
