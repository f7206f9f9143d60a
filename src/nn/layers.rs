//! Layers by name: what network code calls. Declares parameters or binds them, and writes the ops.

use std::collections::HashMap;

use super::layout::{FileLayout, Init, Layout, Tensor};
use crate::Result;
use crate::graph::{Op, Tape, Value};
use crate::ops::add::Add;
use crate::ops::conv2d::{Conv2d, Geometry};
use crate::ops::leaky_relu::LeakyRelu;
use crate::ops::linear::Linear;
use crate::ops::norm::{self, By};
use crate::ops::pad_channels::{PadChannels, Segments};
use crate::ops::pixel_shuffle::PixelShuffle;
use crate::ops::prelu::Prelu;
use crate::ops::slice::SliceFlat;
use crate::ops::spectral_norm::spectral_norm;
use crate::types::Shape;

/// Where parameters come from.
pub enum Vars<'a> {
    /// The first pass: every parameter is entered in the table.
    Declare(&'a mut Layout),
    /// Later passes: parameters are slices of `flat`; `buffers` holds the current value of each buffer and
    /// is updated by training-mode forwards.
    Bound {
        /// The table.
        layout: &'a Layout,
        /// All parameters, (1,1,1,len).
        flat: Value,
        /// Current buffers by name.
        buffers: &'a mut HashMap<String, Value>,
        /// Parameters that have been cut out of `flat`, by name: what gradients are taken for.
        params: &'a mut HashMap<String, Value>,
    },
}

/// A network being written on a tape.
pub struct Net<'a> {
    /// The tape.
    pub tape: &'a mut Tape,
    /// Parameters.
    pub vars: Vars<'a>,
    /// Batch statistics and power iterations (true) or stored ones.
    pub train: bool,
    ranks: usize,
    align: usize,
    path: String,
}

/// A convolution layer: kernel side, geometry, initial weights.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec {
    /// Output channels.
    pub out_ch: usize,
    /// Side of the square kernel.
    pub ksize: usize,
    /// Stride, padding, dilation, depthwise.
    pub geometry: Geometry,
    /// Whether a bias is added.
    pub bias: bool,
    /// Weights start by this, biases at zero; `None` is PyTorch's default for both.
    pub init: Option<fn(usize) -> Init>,
    /// Spectral normalisation of the weight.
    pub spectral: bool,
}

impl ConvSpec {
    /// Stride 1, output as large as the input.
    pub fn same(out_ch: usize, ksize: usize) -> Self {
        ConvSpec { out_ch, ksize, geometry: Geometry::same(ksize), bias: true, init: None, spectral: false }
    }
}

impl<'a> Net<'a> {
    /// A network whose tensors' names start with the table's prefix.
    pub fn new(tape: &'a mut Tape, vars: Vars<'a>, train: bool) -> Self {
        let path = match &vars {
            Vars::Declare(layout) => layout.prefix.clone(),
            Vars::Bound { layout, .. } => layout.prefix.clone(),
        };
        Net { tape, vars, train, ranks: 1, align: 1, path }
    }

    /// The same network whose batch statistics are those of the batches of `ranks` ranks.
    #[must_use]
    pub fn synced_over(self, ranks: usize) -> Self {
        Net { ranks, ..self }
    }

    /// The same network where tensors side by side start at multiples of `align` channels, if need be behind zeros.
    #[must_use]
    pub fn aligned_to(self, align: usize) -> Self {
        Net { align, ..self }
    }

    /// Channels between which parts of a feature map start, as [`Net::aligned_to`] set it.
    pub fn align(&self) -> usize {
        self.align
    }

    /// Runs `body` with `name` appended to the path.
    pub fn at<T>(&mut self, name: impl std::fmt::Display, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = self.path.len();
        self.path = format!("{}.{name}", self.path);
        let result = body(self);
        self.path.truncate(outer);
        result
    }

    /// Writes an op under the current path.
    pub fn push(&mut self, op: impl Op, inputs: &[Value]) -> Result<Value> {
        let path = self.path.clone();
        self.tape.scoped(&path, |tape| tape.push(op, inputs))
    }

    /// Extent of a value.
    pub fn shape(&self, v: Value) -> Shape {
        self.tape.shape(v)
    }

    fn tensor(&self, leaf: &str, shape: Shape, file: FileLayout, init: Init) -> Tensor {
        let decays = leaf != "bias";
        Tensor { name: format!("{}.{leaf}", self.path), shape, file, init, decays, offset: 0 }
    }

    fn param(&mut self, tensor: Tensor) -> Result<Value> {
        match &mut self.vars {
            Vars::Declare(layout) => {
                let v = self.tape.state(&tensor.name, tensor.shape);
                // A network that is applied twice has its tensors once.
                match layout.params.iter().find(|p| p.name == tensor.name) {
                    None => layout.add_param(tensor),
                    Some(known) if known.shape == tensor.shape => {}
                    Some(_) => return Err(crate::Error::Internal(format!("two tensors are called {}", tensor.name))),
                }
                Ok(v)
            }
            Vars::Bound { layout, flat, params, .. } => {
                if let Some(v) = params.get(&tensor.name) {
                    return Ok(*v);
                }
                let known = layout.params.iter().find(|p| p.name == tensor.name && p.shape == tensor.shape);
                let known = known.ok_or_else(|| crate::Error::Internal(format!("undeclared {}", tensor.name)))?;
                let flat = *flat;
                let slice = SliceFlat { offset: known.offset, shape: known.shape };
                let v = self.tape.scoped(&tensor.name, |tape| tape.push(slice, &[flat]))?;
                params.insert(tensor.name, v);
                Ok(v)
            }
        }
    }

    fn buffer(&mut self, tensor: Tensor) -> Value {
        match &mut self.vars {
            Vars::Declare(layout) => {
                let v = self.tape.state(&tensor.name, tensor.shape);
                layout.buffers.push(tensor);
                v
            }
            Vars::Bound { buffers, .. } => match buffers.get(&tensor.name) {
                Some(v) => *v,
                None => {
                    let v = self.tape.state(&tensor.name, tensor.shape);
                    buffers.insert(tensor.name, v);
                    v
                }
            },
        }
    }

    fn set_buffer(&mut self, leaf: &str, v: Value) {
        let name = format!("{}.{leaf}", self.path);
        if let Vars::Bound { buffers, .. } = &mut self.vars {
            buffers.insert(name, v);
        }
    }

    /// The weight parameter, spectrally normalised if asked. `matrix` is (pixels, channels) of a row.
    fn weight(
        &mut self,
        shape: Shape,
        file: FileLayout,
        init: Init,
        spectral: Option<(usize, usize)>,
    ) -> Result<Value> {
        let Some((pixels, channels)) = spectral else {
            let tensor = self.tensor("weight", shape, file, init);
            return self.param(tensor);
        };
        let tensor = self.tensor("weight_orig", shape, file, init);
        let weight = self.param(tensor)?;
        let u = self.tensor("weight_u", Shape::vector(shape.n()), FileLayout::Vector, Init::UnitVector);
        let right = FileLayout::RightVector { pixels, channels };
        let v = self.tensor("weight_v", Shape::vector(pixels * channels), right, Init::UnitVector);
        let (u, v) = (self.buffer(u), self.buffer(v));
        let (path, train) = (self.path.clone(), self.train);
        let (normalised, updated) = self.tape.scoped(&path, |tape| spectral_norm(tape, weight, u, v, train))?;
        if let Some((u, v)) = updated {
            self.set_buffer("weight_u", u);
            self.set_buffer("weight_v", v);
        }
        Ok(normalised)
    }

    /// Adds a bias of `channels` elements, and of zeros for the channels of `y` beyond.
    fn bias(&mut self, y: Value, channels: usize, init: Init) -> Result<Value> {
        let tensor = self.tensor("bias", Shape::vector(channels), FileLayout::Vector, init);
        let mut bias = self.param(tensor)?;
        let all = self.shape(y).c();
        if all > channels {
            let segments = Segments::new(&[(channels, all)]);
            bias = self.push(PadChannels::add(segments, 1), &[bias])?;
        }
        self.push(Add::SUM, &[y, bias])
    }

    /// A convolution layer `name`.
    pub fn conv(&mut self, name: impl std::fmt::Display, x: Value, spec: ConvSpec) -> Result<Value> {
        self.padded_conv(name, x, spec, None)
    }

    /// A convolution layer of channels with padding in between: that of its input by segments, and the number of
    /// its output's channels.
    pub fn padded_conv(
        &mut self,
        name: impl std::fmt::Display,
        x: Value,
        spec: ConvSpec,
        padding: Option<(&Segments, usize)>,
    ) -> Result<Value> {
        self.at(name, |net| {
            let channels = padding.map_or_else(|| net.shape(x).c(), |(segments, _)| segments.channels());
            let per_filter = if spec.geometry.depthwise { 1 } else { channels };
            let fan_in = per_filter * spec.ksize * spec.ksize;
            let bound = Init::Uniform(1.0 / (fan_in as f32).sqrt());
            let shape = Shape([spec.out_ch, spec.ksize, spec.ksize, per_filter]);
            let init = spec.init.map_or(bound, |f| f(fan_in));
            let matrix = spec.spectral.then_some((spec.ksize * spec.ksize, per_filter));
            let mut weight = net.weight(shape, FileLayout::Conv, init, matrix)?;
            if let Some((segments, images)) = padding {
                weight = net.push(PadChannels::add(segments.clone(), images), &[weight])?;
            }
            let y = net.push(Conv2d(spec.geometry), &[x, weight])?;
            let zero_or_bound = if spec.init.is_some() { Init::Constant(0.0) } else { bound };
            if spec.bias { net.bias(y, spec.out_ch, zero_or_bound) } else { Ok(y) }
        })
    }

    /// A linear layer on (N,1,1,K), or on a feature map that PyTorch would flatten channels first.
    pub fn linear(&mut self, name: impl std::fmt::Display, x: Value, out: usize, spectral: bool) -> Result<Value> {
        self.at(name, |net| {
            let [n, h, w, c] = net.shape(x).0;
            let (pixels, inputs) = (h * w, h * w * c);
            let file = if pixels == 1 { FileLayout::Matrix } else { FileLayout::Flattened { pixels, channels: c } };
            let bound = Init::Uniform(1.0 / (inputs as f32).sqrt());
            let x = if pixels == 1 { x } else { net.push(SliceFlat::reshape(Shape([n, 1, 1, inputs])), &[x])? };
            let weight = net.weight(Shape([out, 1, 1, inputs]), file, bound, spectral.then_some((pixels, c)))?;
            let y = net.push(Linear, &[x, weight])?;
            net.bias(y, out, bound)
        })
    }

    /// PReLU with one slope, 0.25 at the start.
    pub fn prelu(&mut self, name: impl std::fmt::Display, x: Value) -> Result<Value> {
        self.at(name, |net| {
            let slope = net.tensor("weight", Shape::SCALAR, FileLayout::Vector, Init::Constant(0.25));
            let slope = net.param(slope)?;
            net.push(Prelu, &[x, slope])
        })
    }

    /// A factor for each of `channels` channels, in files the weight of a convolution 1×1 with one output.
    pub fn channel_weights(&mut self, channels: usize) -> Result<Value> {
        let init = Init::Constant(1.0 / channels as f32);
        let tensor = self.tensor("weight", Shape::vector(channels), FileLayout::Conv, init);
        self.param(tensor)
    }

    /// Leaky ReLU with slope 0.2, the one of generators and discriminators.
    pub fn leaky_relu(&mut self, x: Value) -> Result<Value> {
        self.push(LeakyRelu { slope: 0.2 }, &[x])
    }

    /// Batch normalisation; in training mode the running statistics move.
    pub fn batch_norm(&mut self, name: impl std::fmt::Display, x: Value) -> Result<Value> {
        self.at(name, |net| {
            let channels = Shape::vector(net.shape(x).c());
            let vector = |net: &Self, leaf: &str, v: f32| {
                let tensor = net.tensor(leaf, channels, FileLayout::Vector, Init::Constant(v));
                Tensor { decays: false, ..tensor }
            };
            let (gamma, beta) = (vector(net, "weight", 1.0), vector(net, "bias", 0.0));
            let (mean, var) = (vector(net, "running_mean", 0.0), vector(net, "running_var", 1.0));
            let (gamma, beta) = (net.param(gamma)?, net.param(beta)?);
            let running = (net.buffer(mean), net.buffer(var));
            let by = if net.train { By::Batches(net.ranks) } else { By::Running };
            let path = net.path.clone();
            let norm = |tape: &mut Tape| norm::batch_norm(tape, x, gamma, beta, running, by);
            let (y, updated) = net.tape.scoped(&path, norm)?;
            if let Some((mean, var)) = updated {
                net.set_buffer("running_mean", mean);
                net.set_buffer("running_var", var);
            }
            Ok(y)
        })
    }

    /// Instance normalisation without parameters.
    pub fn instance_norm(&mut self, x: Value) -> Result<Value> {
        let path = self.path.clone();
        self.tape.scoped(&path, |tape| norm::instance_norm(tape, x))
    }

    /// `log2(scale)` stages of convolution, pixel shuffle and PReLU, named 0, 2, 3, 5, …, as in a
    /// `Sequential`.
    pub fn upsampler(&mut self, x: Value, scale: usize, init: Option<fn(usize) -> Init>) -> Result<Value> {
        let channels = self.shape(x).c();
        let stages = scale.ilog2() as usize;
        (0..stages).try_fold(x, |x, i| {
            let spec = ConvSpec { init, ..ConvSpec::same(4 * channels, 3) };
            let y = self.conv(3 * i, x, spec)?;
            let y = self.push(PixelShuffle { factor: 2 }, &[y])?;
            self.prelu(3 * i + 2, y)
        })
    }
}
