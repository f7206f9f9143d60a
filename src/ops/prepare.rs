//! From raw pixels in the file's type to the network's input: normalisation, then flips and turns by a code
//! per sample. The first op of every program.

use super::{Application, Exec, Kernel, KernelCall, Op};
use crate::device::cpu::{Ctx, View};
use crate::tape::{DType, Shape, Tape, Tensor64, Value};
use crate::{Error, Result};

/// How pixel values are mapped to the network's range, and back. Values outside the range are cut off; NaN
/// stays NaN, so that a bad pixel makes the step non-finite instead of vanishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// Reflectance times 10/3, in 0..1.
    Sen2Stretch,
    /// Divided by 10 000, in 0..1.
    Normalise10k,
    /// Divided by 10 000, then 0..1 mapped to −1..1.
    Normalise10kSigned,
    /// Reflectance times 10/3, then 0..1 mapped to −1..1.
    NormaliseS2,
    /// Cut off to 0..1.
    ZeroOne,
    /// 0..1 mapped to −1..1.
    ZeroOneSigned,
    /// Unchanged.
    Identity,
}

impl Normalization {
    /// Every method.
    pub const ALL: [Normalization; 7] = [
        Normalization::Sen2Stretch,
        Normalization::Normalise10k,
        Normalization::Normalise10kSigned,
        Normalization::NormaliseS2,
        Normalization::ZeroOne,
        Normalization::ZeroOneSigned,
        Normalization::Identity,
    ];

    /// The method of a name or one of its aliases, in any case and either spelling of "normalise".
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase().replace("normalize", "normalise");
        let name = match name.as_str() {
            "reflectance" | "reflectance_0_1" | "sentinel2" | "s2" => "normalise_10k",
            "reflectance_signed" | "sentinel2_signed" | "s2_signed" => "normalise_10k_signed",
            "zero_to_one" | "zero_one_range" => "zero_one",
            "signed_zero_one" | "minusone_one" => "zero_one_signed",
            "none" => "identity",
            other => other,
        };
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The method's own name.
    pub fn name(self) -> &'static str {
        match self {
            Normalization::Sen2Stretch => "sen2_stretch",
            Normalization::Normalise10k => "normalise_10k",
            Normalization::Normalise10kSigned => "normalise_10k_signed",
            Normalization::NormaliseS2 => "normalise_s2",
            Normalization::ZeroOne => "zero_one",
            Normalization::ZeroOneSigned => "zero_one_signed",
            Normalization::Identity => "identity",
        }
    }

    /// A raw value in the network's range.
    pub fn normalize(self, value: f32) -> f32 {
        let mut one = [value];
        self.normalize_all(&mut one);
        one[0]
    }

    /// [`Normalization::normalize`] for each value.
    pub fn normalize_all(self, values: &mut [f32]) {
        const STRETCH: f32 = 10.0 / 3.0;
        let signed = |v: f32| (v * 2.0 - 1.0).clamp(-1.0, 1.0);
        let unit = |v: f32| v.clamp(0.0, 1.0);
        match self {
            Normalization::Sen2Stretch => each(values, |v| unit(v * STRETCH)),
            Normalization::Normalise10k => each(values, |v| unit(v / 10_000.0)),
            Normalization::Normalise10kSigned => each(values, |v| signed(unit(v / 10_000.0))),
            Normalization::NormaliseS2 => each(values, |v| signed(v * STRETCH)),
            Normalization::ZeroOne => each(values, unit),
            Normalization::ZeroOneSigned => each(values, signed),
            Normalization::Identity => {}
        }
    }

    /// A value of the network's range as a raw one.
    pub fn denormalize(self, value: f32) -> f32 {
        let unsigned = |v: f32| (v + 1.0) / 2.0;
        match self {
            Normalization::Sen2Stretch => (value * 0.3).clamp(0.0, 1.0),
            Normalization::Normalise10k => (value * 10_000.0).clamp(0.0, 10_000.0),
            Normalization::Normalise10kSigned => unsigned(value).clamp(0.0, 1.0) * 10_000.0,
            Normalization::NormaliseS2 => (unsigned(value) * 0.3).clamp(0.0, 1.0),
            Normalization::ZeroOne => value.clamp(0.0, 1.0),
            Normalization::ZeroOneSigned => unsigned(value).clamp(0.0, 1.0),
            Normalization::Identity => value,
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    values.iter_mut().for_each(|v| *v = f(*v));
}

/// Operands raw (N,H,W,C), an input slot of type `dtype`, and codes (N,1,1,1), an input slot of type
/// [`DType::U8`]; output (N,H,W,C) normalised, then by the bits of the sample's code flipped horizontally
/// (bit 0), flipped vertically (bit 1), transposed (bit 2; only squares can be, others ignore it), in this order.
/// Data, so it has no derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Type of the raw elements.
    pub dtype: DType,
    /// What is done to values.
    pub normalization: Normalization,
}

/// Where pixel (y, x) of the output is in an h × w input under `code`.
#[inline(always)]
fn source(code: u8, [h, w]: [usize; 2], y: usize, x: usize) -> (usize, usize) {
    let (y, x) = if code & 4 != 0 && h == w { (x, y) } else { (y, x) };
    (if code & 2 != 0 { h - 1 - y } else { y }, if code & 1 != 0 { w - 1 - x } else { x })
}

impl Op for Prepare {
    fn name(&self) -> &'static str {
        "prepare"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let raw = inputs[0];
        if inputs[1] != Shape([raw.n(), 1, 1, 1]) {
            return Err(format!("{} holds not one code for each image of {raw}", inputs[1]));
        }
        Ok(raw)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        let message = "raw data has no derivative".into();
        Err(Error::Shape { node: tape.node(at.output).path.to_string(), op: self.name(), message })
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (raw, codes) = (inputs[0], inputs[1]);
        Tensor64::from_fn(output, |[n, y, x, c]| {
            let (y, x) = source(codes.data[n] as u8, [output.h(), output.w()], y, x);
            f64::from(self.normalization.normalize(raw.at([n, y, x, c]) as f32))
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(self)
    }
}

impl Kernel for Prepare {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (raw, codes, out) = (call.inputs[0], call.inputs[1], call.output);
        ctx.pool.run(out.n * out.h, &|line, _| {
            let (n, y) = (line / out.h, line % out.h);
            // SAFETY: the slot of the codes holds one byte per image.
            let code = unsafe { *codes.at(0, 0, 0).cast::<u8>().add(n) };
            for x in 0..out.w {
                let (sy, sx) = source(code, [out.h, out.w], y, x);
                let from = (n * out.h + sy) * out.w + sx;
                // SAFETY: rows of the output are disjoint between items.
                let pixel = unsafe { out.pixel(line * out.w + x) };
                // SAFETY: the slot holds H·W·C elements of `dtype` for each image.
                unsafe {
                    match self.dtype {
                        DType::U8 => convert::<u8>(&raw, from, pixel),
                        DType::U16 => convert::<u16>(&raw, from, pixel),
                        DType::I16 => convert::<i16>(&raw, from, pixel),
                        DType::F32 => convert::<f32>(&raw, from, pixel),
                    }
                }
                self.normalization.normalize_all(pixel);
            }
        });
    }
}

/// The elements of raw pixel `p` as f32 (exact for all types).
///
/// # Safety
/// The view points at contiguous elements of type `T`, pixel `p` among them.
#[inline(always)]
unsafe fn convert<T: Copy + Into<f32>>(raw: &View, p: usize, to: &mut [f32]) {
    // SAFETY: the caller's promise.
    let from = unsafe { std::slice::from_raw_parts(raw.ptr.cast::<T>().add(p * raw.c), raw.c) };
    to.iter_mut().zip(from).for_each(|(t, v)| *t = (*v).into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::cpu::Cpu;
    use crate::plan::{Plan, PlanOptions, Program};

    /// Raw bytes through a plan, with `threads` threads.
    fn run(op: Prepare, shape: Shape, raw: &[u8], codes: &[u8], threads: usize) -> Vec<f32> {
        let mut tape = Tape::new();
        let x = tape.input("raw", shape, op.dtype);
        let code = tape.input("codes", Shape([shape.n(), 1, 1, 1]), DType::U8);
        let y = tape.push(op, &[x, code]).unwrap();
        let outputs = vec![("y".into(), y)];
        let program = Program { name: "case", tape, outputs, checks: vec![], commits: vec![] };
        let plan = Plan::compile(&program, PlanOptions { fuse: true, share: true, threads }).unwrap();
        let mut cpu = Cpu::new(threads).unwrap();
        let id = cpu.load(plan).unwrap();
        cpu.upload(id, "raw", raw).unwrap();
        cpu.upload(id, "codes", codes).unwrap();
        cpu.poison();
        cpu.run(id).unwrap().outputs.remove(0)
    }

    fn bytes_in(dtype: DType, values: &[i32]) -> Vec<u8> {
        let bytes = |v: &i32| match dtype {
            DType::U8 => vec![*v as u8],
            DType::U16 => (*v as u16).to_ne_bytes().to_vec(),
            DType::I16 => (*v as i16).to_ne_bytes().to_vec(),
            DType::F32 => (*v as f32).to_ne_bytes().to_vec(),
        };
        values.iter().flat_map(bytes).collect()
    }

    #[test]
    fn every_type_code_and_method_is_that_of_the_reference() {
        let shapes = [Shape([8, 3, 3, 2]), Shape([8, 2, 3, 5])];
        let codes: Vec<u8> = (0..8).collect();
        for (dtype, low, high) in
            [(DType::U8, 0, 255), (DType::U16, 0, 65_535), (DType::I16, -32_768, 32_767), (DType::F32, -20_000, 20_000)]
        {
            for (shape, normalization) in shapes.iter().flat_map(|s| Normalization::ALL.map(|n| (*s, n))) {
                let values: Vec<i32> =
                    (0..shape.len() as i32).map(|i| low + (i * 7919).rem_euclid(high - low + 1)).collect();
                let op = Prepare { dtype, normalization };
                let raw = Tensor64::new(shape, values.iter().map(|v| f64::from(*v)).collect());
                let code = Tensor64::new(Shape([8, 1, 1, 1]), codes.iter().map(|c| f64::from(*c)).collect());
                let want: Vec<f32> = op.reference(&[&raw, &code], shape).data.iter().map(|v| *v as f32).collect();
                for threads in [1, 3] {
                    assert_eq!(run(op, shape, &bytes_in(dtype, &values), &codes, threads), want, "{op:?} {shape}");
                }
            }
        }
    }

    #[test]
    fn flips_and_turns() {
        let op = Prepare { dtype: DType::U8, normalization: Normalization::Identity };
        let turned = |code: u8| {
            let got = run(op, Shape([1, 2, 2, 1]), &[1, 2, 3, 4], &[code], 1);
            [got[0] as u8, got[1] as u8, got[2] as u8, got[3] as u8]
        };
        assert_eq!(turned(0), [1, 2, 3, 4]);
        assert_eq!(turned(1), [2, 1, 4, 3]);
        assert_eq!(turned(2), [3, 4, 1, 2]);
        assert_eq!(turned(4), [1, 3, 2, 4]);
        // Flipped horizontally first, then transposed: a quarter turn counterclockwise.
        assert_eq!(turned(5), [2, 4, 1, 3]);
        assert_eq!(run(op, Shape([1, 1, 2, 1]), &[1, 2], &[4], 1), [1.0, 2.0]);
    }

    #[test]
    fn a_bad_pixel_stays_one() {
        for normalization in Normalization::ALL {
            let raw: Vec<u8> = [0.5f32, f32::NAN].iter().flat_map(|v| v.to_ne_bytes()).collect();
            let got = run(Prepare { dtype: DType::F32, normalization }, Shape([1, 1, 2, 1]), &raw, &[0], 1);
            assert!(got[0].is_finite() && got[1].is_nan(), "{normalization:?}: {got:?}");
            assert!(normalization.denormalize(f32::NAN).is_nan());
        }
    }

    /// Values that opensr-srgan's functions give: raw value, normalised; network value, denormalised.
    #[test]
    fn methods_map_values_as_documented() {
        use Normalization::*;
        for (method, raw, normalised, back) in [
            (Sen2Stretch, 0.15, 0.5, 0.15),
            (Sen2Stretch, 0.6, 1.0, 0.3),
            (Normalise10k, 2500.0, 0.25, 2500.0),
            (Normalise10k, -3.0, 0.0, 0.0),
            (Normalise10kSigned, 2500.0, -0.5, 2500.0),
            (Normalise10kSigned, 12_000.0, 1.0, 10_000.0),
            (NormaliseS2, 0.15, 0.0, 0.15),
            (NormaliseS2, -1.0, -1.0, 0.0),
            (ZeroOne, 0.7, 0.7, 0.7),
            (ZeroOne, 1.7, 1.0, 1.0),
            (ZeroOneSigned, 0.25, -0.5, 0.25),
            (Identity, 123.5, 123.5, 123.5),
        ] {
            let got = method.normalize(raw);
            assert!((got - normalised).abs() < 1e-6, "{method:?} of {raw}: {got}");
            let got = method.denormalize(got);
            assert!((got - back).abs() <= 1e-6 * back.abs().max(1.0), "{method:?} back from {normalised}: {got}");
        }
    }

    #[test]
    fn names_and_aliases() {
        for method in Normalization::ALL {
            assert_eq!(Normalization::parse(method.name()), Some(method));
        }
        for (alias, name) in [
            (" Normalize_10k ", "normalise_10k"),
            ("normalize_10k_signed", "normalise_10k_signed"),
            ("normalize_s2", "normalise_s2"),
            ("reflectance", "normalise_10k"),
            ("S2_signed", "normalise_10k_signed"),
            ("minusone_one", "zero_one_signed"),
            ("zero_one_range", "zero_one"),
            ("none", "identity"),
        ] {
            assert_eq!(Normalization::parse(alias).map(Normalization::name), Some(name), "{alias}");
        }
        assert_eq!(Normalization::parse("custom"), None);
        assert_eq!(Normalization::parse(""), None);
    }

    #[test]
    fn one_code_per_image_is_required() {
        let op = Prepare { dtype: DType::U8, normalization: Normalization::Identity };
        let message = op.shape(&[Shape([4, 2, 2, 1]), Shape([3, 1, 1, 1])]).unwrap_err();
        assert!(message.contains("3x1x1x1"), "{message}");
    }
}
