//! Raw pixels to network input: the first op of every program. Normalises a batch in the file's own type and
//! flips or turns each image by its code.
//!
//! NaN passes through, so that a bad pixel makes the step non-finite instead of vanishing; infinity does where
//! the method has no limits. Data sets refuse or mask both when they are opened.

use crate::device::cpu::{Ctx, View};
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{
    Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, OnnxChain, OnnxNode, Op, Tape, Tensor64, Value,
};
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// How pixel values become network input, and back; the methods of opensr-srgan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// x·10/3, clamped to [0, 1].
    Sen2Stretch,
    /// Reflectance × 10000 to [0, 1].
    Normalise10k,
    /// Reflectance × 10000 to [−1, 1].
    Normalise10kSigned,
    /// Reflectance 0 … 0.3 to [−1, 1].
    NormaliseS2,
    /// Clamped to [0, 1].
    ZeroOne,
    /// [0, 1] to [−1, 1].
    ZeroOneSigned,
    /// As it is.
    Identity,
}

/// `v` limited to [low, high]; NaN stays NaN.
#[inline(always)]
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    if v < low {
        low
    } else if v > high {
        high
    } else {
        v
    }
}

impl Normalization {
    /// All methods with their names in configs.
    const NAMES: [(Normalization, &'static str); 7] = [
        (Normalization::Sen2Stretch, "sen2_stretch"),
        (Normalization::Normalise10k, "normalise_10k"),
        (Normalization::Normalise10kSigned, "normalise_10k_signed"),
        (Normalization::NormaliseS2, "normalise_s2"),
        (Normalization::ZeroOne, "zero_one"),
        (Normalization::ZeroOneSigned, "zero_one_signed"),
        (Normalization::Identity, "identity"),
    ];

    /// The method called `name` in configs and checkpoints (canonical names; the config knows the aliases).
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(m, _)| *m)
    }

    /// The canonical name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(m, _)| *m == self).map_or("identity", |(_, n)| n)
    }

    /// A pixel value as network input.
    #[inline(always)]
    pub fn normalize(self, v: f32) -> f32 {
        match self {
            Normalization::Sen2Stretch => clamp(v * (10.0 / 3.0), 0.0, 1.0),
            Normalization::Normalise10k => clamp(v / 10000.0, 0.0, 1.0),
            Normalization::Normalise10kSigned => clamp(clamp(v / 10000.0, 0.0, 1.0) * 2.0 - 1.0, -1.0, 1.0),
            Normalization::NormaliseS2 => clamp(v * (10.0 / 3.0) * 2.0 - 1.0, -1.0, 1.0),
            Normalization::ZeroOne => clamp(v, 0.0, 1.0),
            Normalization::ZeroOneSigned => clamp(v * 2.0 - 1.0, -1.0, 1.0),
            Normalization::Identity => v,
        }
    }

    /// `normalize` as numbers: clamp(v·gain/divisor, 0, 1), or no clamp, and then to [−1, 1] if signed. The same bits.
    fn numbers(self) -> Numbers {
        let (gain, divisor, limited, signed) = match self {
            Normalization::Sen2Stretch => (10.0 / 3.0, 1.0, true, false),
            Normalization::Normalise10k => (1.0, 10000.0, true, false),
            Normalization::Normalise10kSigned => (1.0, 10000.0, true, true),
            Normalization::NormaliseS2 => (10.0 / 3.0, 1.0, true, true),
            Normalization::ZeroOne => (1.0, 1.0, true, false),
            Normalization::ZeroOneSigned => (1.0, 1.0, true, true),
            Normalization::Identity => (1.0, 1.0, false, false),
        };
        Numbers { gain, divisor, limited, signed }
    }

    fn cuda_args(self, args: Args) -> Args {
        let Numbers { gain, divisor, limited, signed } = self.numbers();
        let args = args.factor("gain", gain).factor("divisor", divisor);
        args.size("limited", usize::from(limited)).size("is_signed", usize::from(signed))
    }

    /// [`Normalization::normalize`] in ONNX.
    fn normalize_in_onnx(self) -> OnnxChain {
        let Numbers { gain, divisor, limited, signed } = self.numbers();
        let chain = OnnxChain::default().then("Mul", gain).then("Div", divisor);
        let chain = if limited { chain.clip(0.0, 1.0) } else { chain };
        if signed { chain.then("Mul", 2.0).then("Sub", 1.0) } else { chain }
    }

    /// [`Normalization::denormalize`] in ONNX.
    pub fn denormalize_in_onnx(self) -> OnnxChain {
        let Numbers { gain, divisor, limited, signed } = self.numbers();
        let chain = OnnxChain::default();
        let chain = if signed { chain.then("Add", 1.0).then("Div", 2.0) } else { chain };
        let chain = chain.then("Mul", divisor / gain);
        if limited { chain.clip(0.0, divisor) } else { chain }
    }

    /// Network output as a pixel value: the inverse inside the range that is not clamped.
    pub fn denormalize(self, v: f32) -> f32 {
        match self {
            Normalization::Sen2Stretch => clamp(v * (3.0 / 10.0), 0.0, 1.0),
            Normalization::Normalise10k => clamp(v * 10000.0, 0.0, 10000.0),
            Normalization::Normalise10kSigned => clamp((v + 1.0) / 2.0, 0.0, 1.0) * 10000.0,
            Normalization::NormaliseS2 => clamp((v + 1.0) / 2.0 * (3.0 / 10.0), 0.0, 1.0),
            Normalization::ZeroOne => clamp(v, 0.0, 1.0),
            Normalization::ZeroOneSigned => clamp((v + 1.0) / 2.0, 0.0, 1.0),
            Normalization::Identity => v,
        }
    }
}

/// A method as clamp(v·gain/divisor, 0, 1)·2 − 1, the clamp and what follows it where they apply.
struct Numbers {
    gain: f32,
    divisor: f32,
    limited: bool,
    signed: bool,
}

/// Operands: raw pixels (N,H,W,C) in an input slot of `dtype`, and a code per image (N,1,1,1) in a slot of
/// bytes. Bit 0 of a code flips left to right, bit 1 top to bottom, bit 2 then exchanges rows and columns (square
/// images only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Type of the raw pixels.
    pub dtype: DType,
    /// How values are scaled.
    pub normalization: Normalization,
}

/// Where output pixel (y, x) of an h×w image comes from.
#[inline(always)]
fn source(code: u8, (y, x): (usize, usize), (h, w): (usize, usize)) -> (usize, usize) {
    let (y, x) = if code & 4 != 0 { (x, y) } else { (y, x) };
    let x = if code & 1 != 0 { w - 1 - x } else { x };
    let y = if code & 2 != 0 { h - 1 - y } else { y };
    (y, x)
}

impl Op for Prepare {
    fn name(&self) -> &'static str {
        "prepare"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[1] != Shape([inputs[0].n(), 1, 1, 1]) {
            return Err(format!("codes are {}, images {}", inputs[1], inputs[0]));
        }
        Ok(inputs[0])
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(Error::Internal("prepare has no derivative: it makes input data".into()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::from_fn(output, |[n, y, x, c]| {
            let code = inputs[1].data[n] as u8;
            let (y, x) = source(code, (y, x), (output.h(), output.w()));
            f64::from(self.normalization.normalize(inputs[0].at([n, y, x, c]) as f32))
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    /// Without the codes: an exported network sees images as they are.
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(self.normalization.normalize_in_onnx().nodes())
    }
}

/// A pixel type as it lies in a raw slot.
///
/// # Safety
/// All bits are a value, and it is no longer than a float.
unsafe trait Raw: Copy + Sync {
    fn to_f32(self) -> f32;
}

macro_rules! raw {
    ($($t:ty),*) => {
        // SAFETY: a number of at most 32 bits.
        $(unsafe impl Raw for $t {
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
        })*
    };
}
raw!(u8, u16, i16, f32);

impl CpuKernel for Prepare {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        match self.dtype {
            DType::U8 => self.run_as::<u8>(ctx, &call),
            DType::U16 => self.run_as::<u16>(ctx, &call),
            DType::I16 => self.run_as::<i16>(ctx, &call),
            DType::F32 => self.run_as::<f32>(ctx, &call),
        }
    }
}

impl CudaKernel for Prepare {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let element = match self.dtype {
            DType::U8 => "const unsigned char",
            DType::U16 => "const unsigned short",
            DType::I16 => "const short",
            DType::F32 => "const float",
        };
        let (raw, codes, output) = (call.inputs[0].ptr, call.inputs[1].ptr, call.output);
        let [n, h, w, c] = output.shape.0;
        let vector = if c.is_multiple_of(4) && output.has_vectors() { 4 } else { 1 };
        let args = Args::new().pointer("raw", element, raw).pointer("codes", "const unsigned char", codes);
        let args = self.normalization.cuda_args(args.output("output", output).fixed("V", vector));
        let grid = [w.div_ceil(CUDA_TILE), h.div_ceil(CUDA_TILE), n];
        let launch = KernelLaunch::new("prepare", "prepare", 1, args.fixed("TILE", CUDA_TILE));
        vec![launch.with_grid(grid).with_threads(CUDA_TILE * CUDA_TILE)]
    }
}

/// Pixels along the sides of a CUDA block's tile: rows and columns may be exchanged, and reads are near each other
/// in both cases.
const CUDA_TILE: usize = 16;

impl Prepare {
    fn run_as<T: Raw>(&self, ctx: &Ctx, call: &KernelCall) {
        let (raw, codes, output) = (elements::<T>(&call.inputs[0]), elements::<u8>(&call.inputs[1]), &call.output);
        ctx.pool.run(output.n() * output.h(), &|row, _| {
            let (n, y) = (row / output.h(), row % output.h());
            for x in 0..output.w() {
                let (sy, sx) = source(codes[n], (y, x), (output.h(), output.w()));
                let at = ((n * output.h() + sy) * output.w() + sx) * output.c();
                // SAFETY: rows of the output are disjoint between items.
                let target = unsafe { output.pixel(row * output.w() + x) };
                target
                    .iter_mut()
                    .zip(&raw[at..at + output.c()])
                    .for_each(|(t, s)| *t = self.normalization.normalize(s.to_f32()));
            }
        });
    }
}

/// The elements of a slot: they lie at the start of its memory, which has a float for each.
fn elements<'a, T: Raw>(slot: &View<'a>) -> &'a [T] {
    let memory = slot.dense();
    // SAFETY: as many elements, which are no longer than floats, lie inside; all bits are values of `T`.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<T>(), memory.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::devices;
    use crate::plan::{Plan, PlanOptions, Program};

    fn run<T: Raw>(dtype: DType, normalization: Normalization, shape: Shape, raw: &[T], codes: &[u8]) -> Vec<f32> {
        let mut tape = Tape::new();
        let x = tape.input("raw", shape, dtype);
        let c = tape.input("codes", Shape([shape.n(), 1, 1, 1]), DType::U8);
        let y = tape.push(Prepare { dtype, normalization }, &[x, c]).unwrap();
        let program = Program { name: "t", tape, outputs: vec![("y".into(), y)], checks: vec![], commits: vec![] };
        // SAFETY: plain numbers as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(raw.as_ptr().cast::<u8>(), std::mem::size_of_val(raw)) };
        let results = devices().into_iter().map(|mut device| {
            let options = PlanOptions::new(device.target());
            let id = device.load(Plan::compile(&program, options).unwrap()).unwrap();
            device.upload(id, "raw", bytes).unwrap();
            device.upload(id, "codes", codes).unwrap();
            device.run(id).unwrap().outputs.remove(0)
        });
        let results: Vec<Vec<f32>> = results.collect();
        let bits =
            |values: &[f32]| values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect::<Vec<_>>();
        assert!(results.iter().all(|r| bits(r) == bits(&results[0])), "{results:?}");
        results[0].clone()
    }

    #[test]
    fn every_code_is_its_own_flip_or_turn() {
        let image: Vec<u16> = (0..9).collect();
        let mut seen = Vec::new();
        for code in 0..8 {
            let out = run(DType::U16, Normalization::Identity, Shape([1, 3, 3, 1]), &image, &[code]);
            assert!(!seen.contains(&out), "code {code}");
            seen.push(out);
        }
        assert_eq!(seen[1], [2., 1., 0., 5., 4., 3., 8., 7., 6.]);
        assert_eq!(seen[2], [6., 7., 8., 3., 4., 5., 0., 1., 2.]);
        assert_eq!(seen[4], [0., 3., 6., 1., 4., 7., 2., 5., 8.]);
        // Flip left to right, then exchange rows and columns: a quarter turn.
        assert_eq!(seen[5], [2., 5., 8., 1., 4., 7., 0., 3., 6.]);
    }

    #[test]
    fn types_and_methods() {
        let shape = Shape([2, 1, 1, 2]);
        let ten_k = Normalization::Normalise10k;
        assert_eq!(run(DType::U16, ten_k, shape, &[0u16, 5000, 10000, 20000], &[0, 0]), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(run(DType::I16, ten_k, shape, &[-5i16, 2500, 10000, 1], &[0, 1]), [0.0, 0.25, 1.0, 1e-4]);
        let signed = Normalization::ZeroOneSigned;
        assert_eq!(run(DType::U8, signed, shape, &[0u8, 1, 2, 0], &[0, 0]), [-1.0, 1.0, 1.0, -1.0]);
        let odd = run(DType::F32, ten_k, shape, &[f32::NAN, f32::INFINITY, -1.0, 0.0], &[0, 0]);
        assert!(odd[0].is_nan() && odd[1..] == [1.0, 0.0, 0.0]);
    }

    #[test]
    fn every_pixel_of_a_batch_is_normalised_and_turned() {
        // Larger than a tile of any device, with one and with four channels at a time.
        for channels in [3, 4] {
            let shape = Shape([3, 20, 20, channels]);
            let raw: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 0.013).sin() * 1.3 + 0.5).collect();
            let source = Tensor64::new(shape, raw.iter().map(|v| f64::from(*v)).collect());
            let codes = [0, 5, 6];
            for (method, _) in Normalization::NAMES {
                let op = Prepare { dtype: DType::F32, normalization: method };
                let given = Tensor64::new(Shape([3, 1, 1, 1]), codes.iter().map(|c| f64::from(*c)).collect());
                let want = op.reference(&[&source, &given], shape).data;
                let got = run(DType::F32, method, shape, &raw, &codes);
                assert!(got.iter().zip(want).all(|(g, w)| f64::from(*g) == w), "{method:?}");
            }
        }
    }

    #[test]
    fn denormalize_is_the_inverse() {
        for (method, name) in Normalization::NAMES {
            assert_eq!(Normalization::parse(name), Some(method));
            for v in [0.02f32, 0.11, 0.29] {
                let ten_k = matches!(method, Normalization::Normalise10k | Normalization::Normalise10kSigned);
                let v = if ten_k { v * 10000.0 } else { v };
                let back = method.denormalize(method.normalize(v));
                assert!((back - v).abs() <= 1e-5 * v.max(1.0), "{name}: {v} {back}");
            }
        }
    }
}
