//! Zeros between channels, so that tensors side by side start at places that a device reads fast; and their removal,
//! which is the adjoint. Networks pad the weights of layers whose channels are not a multiple of the
//! device's vectors (`Net::align`); no padding reaches a file.

use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Rounding, Tape, Tensor64, Value};
use crate::types::Shape;

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
}

/// Whether padding comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// (N, H, W, channels) becomes (images, H, W, channels with padding), zeros in new channels and new images.
    Add,
    /// The reverse: what [`Padding::Add`] made its output from.
    Remove,
}

/// Adds or removes padding. For weights (O, kh, kw, I) both ends of a layer are padded at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadChannels {
    /// The channels.
    pub segments: Segments,
    /// Images of the output.
    pub images: usize,
    /// The direction.
    pub padding: Padding,
}

impl PadChannels {
    /// Padding for channels, and up to so many images.
    pub fn add(segments: Segments, images: usize) -> PadChannels {
        PadChannels { segments, images, padding: Padding::Add }
    }

    /// Widths of the segments in operand and output.
    fn widths(&self) -> impl Iterator<Item = (usize, usize)> {
        let turned = self.padding == Padding::Remove;
        self.segments.0.iter().map(move |(width, padded)| if turned { (*padded, *width) } else { (*width, *padded) })
    }

    /// Pairs (place in the operand, place in the output) of the channels that both have.
    fn places(&self) -> Vec<(usize, usize)> {
        let (mut from, mut to) = (0, 0);
        let mut places = Vec::with_capacity(self.segments.channels());
        for (from_width, to_width) in self.widths() {
            places.extend((0..from_width.min(to_width)).map(|c| (from + c, to + c)));
            (from, to) = (from + from_width, to + to_width);
        }
        places
    }
}

impl Op for PadChannels {
    fn name(&self) -> &'static str {
        match self.padding {
            Padding::Add => "pad_channels",
            Padding::Remove => "unpad_channels",
        }
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let ([n, h, w, c], images) = (inputs[0].0, self.images);
        let (plain, padded) = (self.segments.channels(), self.segments.padded());
        let (from, to, grows) = match self.padding {
            Padding::Add => (plain, padded, n <= images),
            Padding::Remove => (padded, plain, n >= images),
        };
        if c != from || !grows {
            let what = format!("{:?} padding of {:?}", self.padding, self.segments);
            return Err(format!("{what}: {} does not become {images} images of {to} channels", inputs[0]));
        }
        Ok(Shape([images, h, w, to]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let padding = match self.padding {
            Padding::Add => Padding::Remove,
            Padding::Remove => Padding::Add,
        };
        let back = PadChannels { segments: self.segments.clone(), images: tape.shape(at.inputs[0]).n(), padding };
        Ok(vec![Some(tape.push(back, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let mut out = Tensor64::zeros(output);
        let rows = output.h() * output.w();
        for p in 0..inputs[0].shape.n().min(output.n()) * rows {
            let [n, y, x] = [p / rows, p / output.w() % output.h(), p % output.w()];
            for (from, to) in self.places() {
                let at = out.index([n, y, x, to]);
                out.data[at] = inputs[0].at([n, y, x, from]);
            }
        }
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        match self.padding {
            Padding::Add => Rounding::Weights,
            Padding::Remove => Rounding::Follows,
        }
    }
}

impl CpuKernel for PadChannels {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (from, to, places) = (call.inputs[0], call.output, self.places());
        ctx.pool.run(to.n() * to.h(), &|row, _| {
            let (n, y) = (row / to.h(), row % to.h());
            for x in 0..to.w() {
                // SAFETY: rows of the output are disjoint between items.
                let pixel = unsafe { to.pixel(row * to.w() + x) };
                pixel.fill(0.0);
                if n < from.n() {
                    let from = from.pixel((n * from.h() + y) * from.w() + x);
                    places.iter().for_each(|(source, place)| pixel[*place] = from[*source]);
                }
            }
        });
    }
}

impl CudaKernel for PadChannels {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = Args::new()
            .input("from", call.inputs[0])
            .output("to", call.output)
            .table("from_width", self.widths().map(|(from, _)| from))
            .table("to_width", self.widths().map(|(_, to)| to));
        vec![KernelLaunch::over("pad_channels", "pad_channels", call.output.shape.len(), args)]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let segments = Segments::aligned([5, 3, 4], 4);
    vec![
        Case::new(PadChannels::add(segments.clone(), 4), &[[3, 2, 1, 12]]),
        Case::new(PadChannels::add(Segments::new(&[(3, 3)]), 2), &[[2, 1, 1, 3]]),
        Case::new(PadChannels { segments, images: 2, padding: Padding::Remove }, &[[3, 1, 2, 16]]),
    ]
}
