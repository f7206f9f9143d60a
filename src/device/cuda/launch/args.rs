//! A kernel's argument struct, made of named fields: its C++ declaration and its bytes come from one list, so
//! that they cannot disagree.
//!
//! Where the driver specialises, everything but addresses is a constant of the declaration; otherwise sizes and
//! factors are members, and one build of a kernel serves all shapes. The kernel's text is the same: `a.x.w` is a
//! member or a constant.

use std::fmt::Write as _;

use super::finish::Finish;
use crate::device::cuda::pointer::DevicePtr;
use crate::types::{Element, Shape};

/// An NHWC tensor in device memory, or a channel slice of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// First element.
    pub ptr: DevicePtr,
    /// Extent.
    pub shape: Shape,
    /// Elements from a pixel to the next.
    pub stride: usize,
    /// How elements are stored.
    pub element: Element,
}

impl DeviceView {
    /// A tensor of floats without gaps.
    pub fn floats(ptr: DevicePtr, shape: Shape) -> DeviceView {
        DeviceView { ptr, shape, stride: shape.c(), element: Element::F32 }
    }

    /// Whether four channels from any multiple of 4 on are one aligned vector; extents of 1 are repeated.
    pub fn has_vectors(&self) -> bool {
        let (c, vector) = (self.shape.c(), 4 * self.element.size() as u64);
        c == 1 || c.is_multiple_of(4) && self.stride.is_multiple_of(4) && self.ptr.0.is_multiple_of(vector)
    }

    /// The tensor's C++ element.
    pub(crate) fn cpp_element(&self) -> &'static str {
        match self.element {
            Element::F32 => "float",
            Element::Bf16 => "bf16",
        }
    }

    /// The same memory as one row of elements, if it has no gaps.
    pub fn flat(&self) -> Option<DeviceView> {
        let dense = self.stride == self.shape.c() || self.shape.pixels() == 1;
        let shape = Shape::vector(self.shape.len());
        dense.then_some(DeviceView { shape, stride: shape.c(), ..*self })
    }
}

/// A box of a tensor of bf16 in device memory, as bulk copies bring it to shared memory: from a place that they are told,
/// zeros where there is no tensor. The first axis is the innermost, of elements that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// First element, at a multiple of 16 bytes.
    pub ptr: DevicePtr,
    /// Extents of the tensor.
    pub extents: [usize; TensorMap::AXES],
    /// Elements from an index to the next along every axis but the first, multiples of 8 in any order.
    pub strides: [usize; TensorMap::AXES - 1],
    /// Along every axis, from which index to the next the box goes, at most 8; 1 along the first.
    pub steps: [usize; TensorMap::AXES],
    /// Elements of the box along every axis; with what steps leave out at most 256, along the first a multiple of 8.
    pub extents_of_box: [usize; TensorMap::AXES],
    /// Bytes of the box's first axis, 32, 64 or 128, if its chunks of 16 bytes are permuted in shared memory, so that
    /// chunks of neighbouring rows lie in different banks; else 0.
    pub swizzle: usize,
}

impl TensorMap {
    /// Most axes that bulk copies know.
    pub const AXES: usize = 5;
    /// What a driver's encoding takes, and its alignment (64 before CUDA 13).
    pub const BYTES: usize = 128;
    pub(crate) const ALIGN: usize = 128;
    /// Where numbers of one byte begin in the plain form.
    const SMALL: usize = 8 * 3 * Self::AXES;

    /// The plain form that the host reads and a GPU's driver encodes: address, extents, strides, extents of the box, and
    /// as bytes swizzling and steps.
    pub fn record(&self) -> [u8; TensorMap::BYTES] {
        let first = [self.ptr.0 as usize];
        let words = [&first, &self.extents[..], &self.strides, &self.extents_of_box].concat();
        let mut record = [0; TensorMap::BYTES];
        for (to, word) in record.chunks_mut(8).zip(words) {
            to.copy_from_slice(&(word as u64).to_le_bytes());
        }
        let small = [self.swizzle].into_iter().chain(self.steps);
        record[Self::SMALL..].iter_mut().zip(small).for_each(|(to, number)| *to = number as u8);
        record
    }

    /// The tensor map of a record.
    pub(crate) fn of_record(record: &[u8]) -> TensorMap {
        let word = |i: usize| record[8 * i..8 * i + 8].try_into().map_or(0, u64::from_le_bytes);
        let extent = |first: usize| move |axis: usize| word(first + axis) as usize;
        let axes = Self::AXES;
        TensorMap {
            ptr: DevicePtr(word(0)),
            extents: std::array::from_fn(extent(1)),
            strides: std::array::from_fn(extent(1 + axes)),
            extents_of_box: std::array::from_fn(extent(2 * axes)),
            swizzle: usize::from(record[Self::SMALL]),
            steps: std::array::from_fn(|axis| usize::from(record[Self::SMALL + 1 + axis])),
        }
    }
}

#[derive(Clone, Debug)]
enum Field {
    TensorMap { name: &'static str, map: TensorMap },
    View { name: &'static str, view: DeviceView, qualifier: &'static str },
    Pointer { name: &'static str, element: &'static str, ptr: DevicePtr },
    Size { name: &'static str, value: i32 },
    Fixed { name: &'static str, value: i32 },
    Factor { name: &'static str, value: f32 },
    Double { name: &'static str, value: f64 },
    Table { name: &'static str, values: Vec<i32> },
    Finish(Finish),
}

/// The fields of an argument struct, in order.
#[derive(Clone, Debug, Default)]
pub struct Args {
    fields: Vec<Field>,
}

impl Args {
    /// No fields.
    pub fn new() -> Args {
        Args::default()
    }

    /// A tensor that is read: `View<const float>` or `View<const bf16>`.
    #[must_use]
    pub fn input(mut self, name: &'static str, view: DeviceView) -> Args {
        self.fields.push(Field::View { name, view, qualifier: "const " });
        self
    }

    /// A tensor that is written: `View<float>` or `View<bf16>`.
    #[must_use]
    pub fn output(mut self, name: &'static str, view: DeviceView) -> Args {
        self.fields.push(Field::View { name, view, qualifier: "" });
        self
    }

    /// A box for bulk copies: `TensorMap`. Before all other fields, since it is aligned to more than they are.
    #[must_use]
    pub fn tensor_map(mut self, name: &'static str, map: TensorMap) -> Args {
        self.fields.push(Field::TensorMap { name, map });
        self
    }

    /// An address of elements of a C++ type.
    #[must_use]
    pub fn pointer(mut self, name: &'static str, element: &'static str, ptr: DevicePtr) -> Args {
        self.fields.push(Field::Pointer { name, element, ptr });
        self
    }

    /// A whole number, `int`.
    ///
    /// # Panics
    /// If it does not fit.
    #[must_use]
    pub fn size(mut self, name: &'static str, value: usize) -> Args {
        let value = i32::try_from(value).expect("extents of tensors are below 2^31");
        self.fields.push(Field::Size { name, value });
        self
    }

    /// A whole number that is a constant on every driver: sizes of register blocks, template arguments. Each value
    /// costs a build.
    ///
    /// # Panics
    /// If it does not fit.
    #[must_use]
    pub fn fixed(mut self, name: &'static str, value: usize) -> Args {
        let value = i32::try_from(value).expect("constants are small");
        self.fields.push(Field::Fixed { name, value });
        self
    }

    /// A number that does not change while the plan lives, `float`.
    #[must_use]
    pub fn factor(mut self, name: &'static str, value: f32) -> Args {
        self.fields.push(Field::Factor { name, value });
        self
    }

    /// The same in full precision, `double`.
    #[must_use]
    pub fn double(mut self, name: &'static str, value: f64) -> Args {
        self.fields.push(Field::Double { name, value });
        self
    }

    /// Whole numbers that are constants on every driver: `name(i)`, and their number `name_count`. Each table costs
    /// a build.
    ///
    /// # Panics
    /// If one of them does not fit.
    #[must_use]
    pub fn table(mut self, name: &'static str, values: impl IntoIterator<Item = usize>) -> Args {
        let values = values.into_iter().map(|v| i32::try_from(v).expect("extents of tensors are below 2^31"));
        self.fields.push(Field::Table { name, values: values.collect() });
        self
    }

    /// What becomes of finished values: member `finish`.
    #[must_use]
    pub fn finish(mut self, finish: &Finish) -> Args {
        self.fields.push(Field::Finish(finish.clone()));
        self
    }

    /// Whether a field calls pointwise functions.
    pub(crate) fn has_finish(&self) -> bool {
        self.fields.iter().any(|f| matches!(f, Field::Finish(_)))
    }

    /// The declaration `struct Args`, and its content.
    pub(crate) fn render(&self, specialise: bool) -> (String, ArgsContent) {
        let (before, members) = (String::new(), String::new());
        let mut out = Rendered { members, before, bytes: Bytes::default(), tensor_maps: Vec::new(), specialise };
        for field in &self.fields {
            match field {
                Field::TensorMap { name, map } => out.tensor_map(name, map),
                Field::View { name, view, qualifier } => out.view(name, view, qualifier),
                Field::Pointer { name, element, ptr } => {
                    let _ = writeln!(out.members, "  {element}* {name};");
                    out.bytes.push(&ptr.0.to_le_bytes());
                }
                Field::Size { name, value } => out.number("int", name, &value.to_string(), &value.to_le_bytes()),
                Field::Fixed { name, value } => {
                    let _ = writeln!(out.members, "  static constexpr int {name} = {value};");
                }
                Field::Factor { name, value } => {
                    out.number("float", name, &float_literal(*value), &value.to_le_bytes());
                }
                Field::Double { name, value } => {
                    out.number("double", name, &format!("{value:e}"), &value.to_le_bytes());
                }
                Field::Table { name, values } => out.table(name, values),
                Field::Finish(finish) => finish.render(&mut out),
            }
        }
        out.bytes.align(if out.tensor_maps.is_empty() { 8 } else { TensorMap::ALIGN });
        let content = ArgsContent { bytes: out.bytes.0, tensor_maps: out.tensor_maps };
        (format!("{}struct Args {{\n{}}};\n", out.before, out.members), content)
    }
}

/// What an argument struct holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgsContent {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where records of tensor maps lie in them, which a GPU's driver encodes.
    pub tensor_maps: Vec<usize>,
}

impl From<Vec<u8>> for ArgsContent {
    fn from(bytes: Vec<u8>) -> ArgsContent {
        ArgsContent { bytes, tensor_maps: Vec::new() }
    }
}

/// A declaration in the making.
pub(crate) struct Rendered {
    /// Members of the struct.
    pub members: String,
    /// Declarations before the struct.
    pub before: String,
    pub bytes: Bytes,
    tensor_maps: Vec<usize>,
    pub specialise: bool,
}

impl Rendered {
    /// A tensor member.
    pub fn view(&mut self, name: &str, view: &DeviceView, qualifier: &str) {
        let _ = writeln!(self.members, "  {} {name};", view_type(view, qualifier, self.specialise));
        self.bytes.view(view, self.specialise);
    }

    fn tensor_map(&mut self, name: &str, map: &TensorMap) {
        let _ = writeln!(self.members, "  TensorMap {name};");
        self.bytes.align(TensorMap::ALIGN);
        self.tensor_maps.push(self.bytes.0.len());
        self.bytes.0.extend_from_slice(&map.record());
    }

    fn number(&mut self, kind: &str, name: &str, literal: &str, bytes: &[u8]) {
        if self.specialise {
            let _ = writeln!(self.members, "  static constexpr {kind} {name} = {literal};");
        } else {
            let _ = writeln!(self.members, "  {kind} {name};");
            self.bytes.push(bytes);
        }
    }

    fn table(&mut self, name: &str, values: &[i32]) {
        // No array of C++ is empty.
        let list: Vec<String> = values.iter().chain(values.is_empty().then_some(&0)).map(i32::to_string).collect();
        let _ = writeln!(self.before, "__device__ const int {name}_table[] = {{{}}};", list.join(", "));
        let _ = writeln!(
            self.members,
            "  static constexpr int {name}_count = {};\n  \
             __device__ static int {name}(int i) {{ return {name}_table[i]; }}",
            values.len()
        );
    }
}

/// The C++ type of a view, its elements `const ` or not.
pub(crate) fn view_type(view: &DeviceView, qualifier: &str, specialise: bool) -> String {
    let [n, h, w, c] = view.shape.0;
    let element = format!("{qualifier}{}", view.cpp_element());
    if specialise {
        format!("FixedView<{element}, {n}, {h}, {w}, {c}, {}>", view.stride)
    } else {
        format!("View<{element}>")
    }
}

/// A C++ literal of exactly this value.
pub(crate) fn float_literal(value: f32) -> String {
    format!("{value:e}f")
}

/// A struct's bytes, laid out as C++ does: each member at a multiple of its size.
#[derive(Default)]
pub(crate) struct Bytes(Vec<u8>);

impl Bytes {
    /// One scalar member.
    pub fn push(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Padding up to a multiple of `size`.
    pub fn align(&mut self, size: usize) {
        self.0.resize(self.0.len().next_multiple_of(size), 0);
    }

    /// An `AnyView`.
    pub fn any_view(&mut self, view: &DeviceView) {
        self.view(view, false);
        self.push(&i32::from(view.element == Element::Bf16).to_le_bytes());
        self.align(8);
    }

    /// A `View` or `FixedView`.
    pub fn view(&mut self, view: &DeviceView, specialise: bool) {
        self.push(&view.ptr.0.to_le_bytes());
        if !specialise {
            let [n, h, w, c] = view.shape.0;
            for extent in [n, h, w, c, view.stride] {
                let extent = i32::try_from(extent).expect("extents of tensors are below 2^31");
                self.push(&extent.to_le_bytes());
            }
            self.align(8);
        }
    }
}
