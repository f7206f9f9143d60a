//! Zeros between channels, so that tensors side by side start at places that a device reads fast; and their removal.
//! The two are each other's adjoint. Networks pad the weights of layers whose channels are not a multiple of the
//! device's vectors (`Net::align`); no padding reaches a file.

use super::{Application, Exec, Kernel, KernelCall, Op, Rounding};
use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::tape::{Shape, Tape, Tensor64, Value};

/// Segments of channels, and how wide each is with its padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments(Vec<(usize, usize)>);

impl Segments {
    /// Segments (channels, channels with padding).
    pub fn new(segments: &[(usize, usize)]) -> Segments {
        Segments(segments.to_vec())
    }

    /// Segments of these widths, each padded to a multiple of `align`.
    pub fn aligned(widths: impl IntoIterator<Item = usize>, align: usize) -> Segments {
        Segments(widths.into_iter().map(|width| (width, width.next_multiple_of(align))).collect())
    }

    /// Channels without padding.
    pub fn channels(&self) -> usize {
        self.0.iter().map(|(width, _)| width).sum()
    }

    /// Channels with padding.
    pub fn padded(&self) -> usize {
        self.0.iter().map(|(_, padded)| padded).sum()
    }

    /// Pairs (place without padding, place with it) of all channels.
    fn places(&self) -> Vec<(usize, usize)> {
        let (mut plain, mut padded) = (0, 0);
        let mut places = Vec::with_capacity(self.channels());
        for (width, with_padding) in &self.0 {
            places.extend((0..*width).map(|c| (plain + c, padded + c)));
            (plain, padded) = (plain + width, padded + with_padding);
        }
        places
    }

    fn launch(&self, call: &CudaCall, pad: bool) -> Vec<KernelLaunch> {
        let args = Args::new()
            .input("from", call.inputs[0])
            .output("to", call.output)
            .table("width", self.0.iter().map(|s| s.0))
            .table("padded", self.0.iter().map(|s| s.1))
            .fixed("PAD", usize::from(pad));
        vec![KernelLaunch::over("pad_channels", "pad_channels", call.output.shape.len(), args)]
    }
}

/// (N, H, W, channels) to (N', H, W, channels with padding), zeros in new channels and new images. For weights
/// (O, kh, kw, I) both ends of a layer are padded at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadChannels {
    /// The channels.
    pub segments: Segments,
    /// Images of the output, at least those of the operand.
    pub images: usize,
}

/// What [`PadChannels`] made its output from: the adjoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpadChannels {
    /// The channels.
    pub segments: Segments,
    /// Images of the output, at most those of the operand.
    pub images: usize,
}

impl Op for PadChannels {
    fn name(&self) -> &'static str {
        "pad_channels"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if c != self.segments.channels() || n > self.images {
            return Err(format!(
                "{} does not become {} images of segments {:?}",
                inputs[0], self.images, self.segments
            ));
        }
        Ok(Shape([self.images, h, w, self.segments.padded()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let back = UnpadChannels { segments: self.segments.clone(), images: tape.shape(at.inputs[0]).n() };
        Ok(vec![Some(tape.push(back, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let mut out = Tensor64::zeros(output);
        for_places(inputs[0].shape, &self.segments, |[n, y, x], (plain, padded)| {
            let at = out.index([n, y, x, padded]);
            out.data[at] = inputs[0].at([n, y, x, plain]);
        });
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn rounding(&self) -> Rounding {
        Rounding::Weights
    }
}

impl Op for UnpadChannels {
    fn name(&self) -> &'static str {
        "unpad_channels"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if c != self.segments.padded() || n < self.images {
            return Err(format!(
                "{} is not padded by {:?} to {} images or more",
                inputs[0], self.segments, self.images
            ));
        }
        Ok(Shape([self.images, h, w, self.segments.channels()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let back = PadChannels { segments: self.segments.clone(), images: tape.shape(at.inputs[0]).n() };
        Ok(vec![Some(tape.push(back, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let mut out = Tensor64::zeros(output);
        for_places(output, &self.segments, |[n, y, x], (plain, padded)| {
            let at = out.index([n, y, x, plain]);
            out.data[at] = inputs[0].at([n, y, x, padded]);
        });
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

/// Calls `visit` for every pixel of the tensor without padding and every channel of it.
fn for_places(plain: Shape, segments: &Segments, mut visit: impl FnMut([usize; 3], (usize, usize))) {
    let places = segments.places();
    for p in 0..plain.pixels() {
        let (x, y, n) = (p % plain.w(), p / plain.w() % plain.h(), p / plain.w() / plain.h());
        places.iter().for_each(|place| visit([n, y, x], *place));
    }
}

impl Kernel for PadChannels {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (from, to, places) = (call.inputs[0], call.output, self.segments.places());
        ctx.pool.run(to.n * to.h, &|row, _| {
            let (n, y) = (row / to.h, row % to.h);
            for x in 0..to.w {
                // SAFETY: rows of the output are disjoint between items, and places lie inside both tensors.
                unsafe {
                    let pixel = std::slice::from_raw_parts_mut(to.at(n, y, x), to.c);
                    pixel.fill(0.0);
                    if n < from.n {
                        places.iter().for_each(|(plain, padded)| pixel[*padded] = *from.at(n, y, x).add(*plain));
                    }
                }
            }
        });
    }
    fn cuda(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        self.segments.launch(call, true)
    }
}

impl Kernel for UnpadChannels {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (from, to, places) = (call.inputs[0], call.output, self.segments.places());
        ctx.pool.run(to.n * to.h, &|row, _| {
            let (n, y) = (row / to.h, row % to.h);
            for x in 0..to.w {
                // SAFETY: as above.
                unsafe {
                    let pixel = std::slice::from_raw_parts_mut(to.at(n, y, x), to.c);
                    places.iter().for_each(|(plain, padded)| pixel[*plain] = *from.at(n, y, x).add(*padded));
                }
            }
        });
    }
    fn cuda(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        self.segments.launch(call, false)
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let segments = Segments::aligned([5, 3, 4], 4);
    vec![
        Case::new(PadChannels { segments: segments.clone(), images: 4 }, &[[3, 2, 1, 12]]),
        Case::new(PadChannels { segments: Segments::new(&[(3, 3)]), images: 2 }, &[[2, 1, 1, 3]]),
        Case::new(UnpadChannels { segments, images: 2 }, &[[3, 1, 2, 16]]),
    ]
}
