//! What becomes of a kernel's finished values: pointwise ops and pixel shuffles, fused behind it, and stores.

use std::fmt::Write as _;

use super::args::{DeviceView, Rendered, float_literal, view_type};

/// Operands of one pointwise function, at most.
pub const MAX_PARTS: usize = 11;
/// Factors of one pointwise function, at most.
pub const MAX_FACTORS: usize = 4;
/// Stages and stores of a step that runs unspecialised, at most.
const MAX_STAGES: usize = 12;
const MAX_STORES: usize = 6;

/// How a pointwise op is computed on a CUDA device: a `POINTWISE` function of its file in `kernels/`.
#[derive(Clone, Debug, PartialEq)]
pub struct PointwiseCode {
    /// The function's name.
    pub function: &'static str,
    /// Where its values `in[0]`, `in[1]`, … come from.
    pub parts: Vec<Part>,
    /// Its numbers `k[0]`, `k[1]`, …
    pub factors: Vec<f32>,
}

/// An operand's value at the output's position, or, where it holds several vectors side by side, one of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which operand.
    pub operand: usize,
    /// Channel that stands for channel 0.
    pub channel: usize,
}

impl PointwiseCode {
    /// `function` of the op's operands in their order.
    pub fn new(function: &'static str, operands: usize) -> PointwiseCode {
        let parts = (0..operands).map(|operand| Part { operand, channel: 0 }).collect();
        PointwiseCode { function, parts, factors: vec![] }
    }

    /// The same with numbers.
    #[must_use]
    pub fn with_factors(self, factors: &[f32]) -> PointwiseCode {
        PointwiseCode { factors: factors.to_vec(), ..self }
    }
}

/// One stage of a step, with its operands in memory.
#[derive(Clone, Debug)]
pub(crate) enum FinishStage {
    /// A pointwise function.
    Function(FinishFunction),
    /// Values go on at their places behind a pixel shuffle of this factor.
    Shuffle(usize),
}

/// A pointwise function with its operands in memory.
#[derive(Clone, Debug)]
pub(crate) struct FinishFunction {
    /// Index into the table of all functions.
    pub index: usize,
    /// Name of the function.
    pub name: &'static str,
    /// Which of `inputs` arrives in registers; its view is not read.
    pub carrier: usize,
    pub inputs: Vec<DeviceView>,
    pub factors: Vec<f32>,
}

impl FinishStage {
    fn function(&self) -> Option<&FinishFunction> {
        if let FinishStage::Function(function) = self { Some(function) } else { None }
    }

    fn shuffle_factor(&self) -> Option<usize> {
        if let FinishStage::Shuffle(factor) = self { Some(*factor) } else { None }
    }

    /// What it reads from memory.
    fn read(&self) -> impl Iterator<Item = &DeviceView> {
        self.function().into_iter().flat_map(FinishFunction::read)
    }
}

/// Pointwise stages, shuffles and stores, in the order of a plan's step.
#[derive(Clone, Debug)]
pub struct Finish {
    pub(crate) stages: Vec<FinishStage>,
    /// (stages done before, where the values go).
    pub(crate) stores: Vec<(usize, DeviceView)>,
}

impl Finish {
    /// Only a store.
    pub fn store(output: DeviceView) -> Finish {
        Finish { stages: vec![], stores: vec![(0, output)] }
    }

    /// The most channels that one call may have: 4 if every operand allows vectors, else 1. Behind a shuffle values
    /// are read and stored one by one, so what lies there may be anything.
    pub fn vector(&self) -> usize {
        let unmoved = self.stages.iter().position(|s| s.shuffle_factor().is_some()).unwrap_or(self.stages.len());
        let read = self.stages[..unmoved].iter().flat_map(FinishStage::read);
        let stored = self.stores.iter().filter(|(after, _)| *after <= unmoved).map(|(_, view)| view);
        // A stored tensor of one channel is no repeated one.
        let squares: usize = self.stages.iter().filter_map(FinishStage::shuffle_factor).map(|r| r * r).product();
        let channels = self.stores.last().map_or(1, |(_, view)| view.shape.c() * squares);
        if channels.is_multiple_of(4) && read.chain(stored).all(DeviceView::has_vectors) { 4 } else { 1 }
    }

    /// What is done, without addresses: ` +add[1,1,1,64] +leaky_relu`.
    pub(crate) fn signature(&self) -> String {
        let mut text = String::new();
        for stage in &self.stages {
            let _ = match stage {
                FinishStage::Function(function) => write!(text, " +{}", function.name),
                FinishStage::Shuffle(factor) => write!(text, " +shuffle{factor}"),
            };
            stage.read().for_each(|view| _ = write!(text, "{:?}", view.shape.0));
        }
        self.stores.iter().skip(1).for_each(|(after, _)| _ = write!(text, " >{after}"));
        text
    }

    /// Whether an unspecialised kernel has room for it.
    pub(crate) fn fits(&self) -> bool {
        self.stages.len() <= MAX_STAGES && self.stores.len() <= MAX_STORES
    }

    pub(crate) fn render(&self, out: &mut Rendered) {
        if out.specialise { self.render_code(out) } else { self.render_table(out) }
    }

    /// Straight code with constant extents: `apply` up to the first shuffle, which calls `apply_from<stage>` for every
    /// value at its new place.
    fn render_code(&self, out: &mut Rendered) {
        let (mut members, mut code) = (String::new(), String::new());
        let begin = |code: &mut String, name: &str| {
            let _ = writeln!(
                code,
                "  template <int V>\n  __device__ __forceinline__ void {name}(float (&v)[V], int n, int y, int x, \
                 int c) const {{"
            );
        };
        begin(&mut code, "apply");
        let mut stores = self.stores.iter().enumerate().peekable();
        for done in 0..=self.stages.len() {
            while let Some((i, (_, to))) = stores.next_if(|(_, (after, _))| *after == done) {
                let _ = writeln!(members, "  {} to{i};", view_type(to, "", true));
                out.bytes.view(to, true);
                let _ = writeln!(code, "    store<V>(to{i}, v, n, y, x, c);");
            }
            match self.stages.get(done) {
                Some(FinishStage::Function(function)) => function.render_code(done, &mut members, &mut code, out),
                Some(FinishStage::Shuffle(factor)) => {
                    let next = format!("apply_from{}", done + 1);
                    let _ = writeln!(
                        code,
                        "#pragma unroll\n    for (int j = 0; j < V; ++j) {{\n      \
                         const Shuffled to({factor}, y, x, c + j);\n      float one[] = {{v[j]}};\n      \
                         {next}<1>(one, n, to.y, to.x, to.c);\n    }}\n  }}"
                    );
                    begin(&mut code, &next);
                }
                None => {}
            }
        }
        let _ = writeln!(out.before, "struct FixedFinish {{\n{members}{code}  }}\n}};");
        out.members.push_str("  FixedFinish finish;\n");
    }

    /// A table that `Finish` of kernels/include/finish.cuh goes through.
    fn render_table(&self, out: &mut Rendered) {
        out.members.push_str("  Finish finish;\n");
        let bytes = &mut out.bytes;
        let int = |v: usize| (v as i32).to_le_bytes();
        let empty = self.stores[0].1;
        bytes.align(8);
        bytes.push(&int(self.stages.len()));
        bytes.push(&int(self.stores.len()));
        for i in 0..MAX_STAGES {
            let factor = self.stages.get(i).and_then(FinishStage::shuffle_factor).unwrap_or(0);
            let function = self.stages.get(i).and_then(FinishStage::function);
            for value in [factor, function.map_or(0, |f| f.index), function.map_or(0, |f| f.carrier)] {
                bytes.push(&int(value));
            }
            bytes.push(&int(function.map_or(0, |f| f.inputs.len())));
            for k in 0..MAX_FACTORS {
                bytes.push(&function.and_then(|f| f.factors.get(k)).copied().unwrap_or(0.0).to_le_bytes());
            }
            bytes.align(8);
            for p in 0..MAX_PARTS {
                bytes.any_view(function.and_then(|f| f.inputs.get(p)).unwrap_or(&empty));
            }
        }
        for i in 0..MAX_STORES {
            let (after, to) = self.stores.get(i).unwrap_or(&self.stores[0]);
            bytes.push(&int(*after));
            bytes.align(8);
            bytes.any_view(to);
        }
    }
}

impl FinishFunction {
    fn read(&self) -> impl Iterator<Item = &DeviceView> {
        self.inputs.iter().enumerate().filter(|(i, _)| *i != self.carrier).map(|(_, view)| view)
    }

    /// The call with its operands, for stage `number`.
    fn render_code(&self, number: usize, members: &mut String, code: &mut String, out: &mut Rendered) {
        let count = self.inputs.len();
        let _ = writeln!(code, "    {{\n      float in[{count}][V];");
        for (p, view) in self.inputs.iter().enumerate() {
            if p == self.carrier {
                let _ = writeln!(code, "      carry<V>(in[{p}], v);");
                continue;
            }
            let _ = writeln!(members, "  {} s{number}_{p};", view_type(view, "const ", true));
            out.bytes.view(view, true);
            let _ = writeln!(code, "      load<V>(in[{p}], s{number}_{p}, n, y, x, c);");
        }
        let mut factors: Vec<String> = self.factors.iter().map(|f| float_literal(*f)).collect();
        factors.resize(MAX_FACTORS, "0.f".into());
        let values: Vec<String> = (0..count).map(|p| format!("in[{p}][j]")).collect();
        let _ = writeln!(code, "      const float k[] = {{{}}};", factors.join(", "));
        let _ = writeln!(code, "#pragma unroll\n      for (int j = 0; j < V; ++j) {{");
        let _ = writeln!(code, "        const float values[] = {{{}}};", values.join(", "));
        let _ = writeln!(code, "        v[j] = {}(values, k);\n      }}\n    }}", self.name);
    }
}

/// Sizes of the unspecialised table, for the text of kernels.
pub(crate) fn table_sizes() -> String {
    format!(
        "constexpr int MAX_PARTS = {MAX_PARTS}, MAX_FACTORS = {MAX_FACTORS}, MAX_STAGES = {MAX_STAGES}, \
         MAX_STORES = {MAX_STORES};\n"
    )
}
