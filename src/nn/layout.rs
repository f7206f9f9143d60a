//! The table of a network's parameters and buffers: names, places, file order, initial values.

use crate::Result;
use crate::rng::{Rng, Stream, name_hash};
use crate::types::Shape;

/// How a tensor's order in files differs from that in memory (weights O,kh,kw,I; files O,I,kh,kw).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLayout {
    /// The same elements under an extent of one dimension.
    Vector,
    /// (O,1,1,I) in memory, [O, I] in files.
    Matrix,
    /// (O,kh,kw,I) in memory, [O, I, kh, kw] in files.
    Conv,
    /// (O,1,1,h·w·c) in memory with channels innermost, [O, c·h·w] in files with channels outermost: a linear
    /// layer behind a flattened feature map.
    Flattened {
        /// Pixels of the feature map, h·w.
        pixels: usize,
        /// Its channels.
        channels: usize,
    },
    /// The right singular vector of a matrix that is ordered as `Conv` or `Flattened`.
    RightVector {
        /// Taps or pixels.
        pixels: usize,
        /// Input channels.
        channels: usize,
    },
}

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Uniform in ±bound. PyTorch's default for convolutions and linear layers has bound 1/√fan_in.
    Uniform(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// ICNR (Aitken et al., 2017): normal kernels, each repeated for `repeat` consecutive output channels, so
    /// that a pixel shuffle starts without checkerboard.
    Icnr {
        /// Standard deviation.
        std: f32,
        /// Output channels per kernel.
        repeat: usize,
    },
    /// A normal vector scaled to length 1.
    UnitVector,
}

/// One parameter or buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in checkpoints: `generator.body.0.conv1.weight`.
    pub name: String,
    /// Extent in memory.
    pub shape: Shape,
    /// Order in files.
    pub file: FileLayout,
    /// Initial values.
    pub init: Init,
    /// Whether weight decay applies; false for biases and norm parameters.
    pub decays: bool,
    /// Parameters: first element in the network's flat state.
    pub offset: usize,
}

/// Parameters of a flat state start at multiples of this many floats.
const ALIGN: usize = 16;

/// All tensors of a network.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// `generator` or `discriminator`.
    pub prefix: String,
    /// Trained tensors, in the order of their places.
    pub params: Vec<Tensor>,
    /// Statistics and power-iteration vectors, each a state of its own.
    pub buffers: Vec<Tensor>,
    /// Floats of the flat state, with alignment gaps.
    pub len: usize,
}

impl Layout {
    /// An empty table for a network called `prefix`.
    pub fn new(prefix: &str) -> Self {
        Layout { prefix: prefix.to_owned(), ..Layout::default() }
    }

    /// Name of the flat state.
    pub fn params_state(&self) -> String {
        format!("{}.params", self.prefix)
    }

    /// Number of trained elements.
    pub fn param_count(&self) -> usize {
        self.params.iter().map(|p| p.shape.len()).sum()
    }

    /// Ranges of the flat state that weight decay applies to.
    pub fn decayed(&self) -> Vec<(usize, usize)> {
        self.params.iter().filter(|p| p.decays).map(|p| (p.offset, p.offset + p.shape.len())).collect()
    }

    pub(super) fn add_param(&mut self, mut tensor: Tensor) {
        tensor.offset = self.len.next_multiple_of(ALIGN);
        self.len = (tensor.offset + tensor.shape.len()).next_multiple_of(ALIGN);
        self.params.push(tensor);
    }

    /// Initial values of the flat state. Each tensor's numbers depend on the seed and its name alone.
    pub fn initial_params(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.len];
        for p in &self.params {
            flat[p.offset..p.offset + p.shape.len()].copy_from_slice(&p.initial(seed));
        }
        flat
    }

    /// The flat state with the values that `read` gives for each parameter's [bare name](Layout::bare_name), in file
    /// order.
    ///
    /// # Errors
    /// Fails if `read` fails.
    pub fn filled(&self, mut read: impl FnMut(&str) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.len];
        for p in &self.params {
            let values = p.from_file(&read(self.bare_name(p))?);
            flat[p.offset..p.offset + values.len()].copy_from_slice(&values);
        }
        Ok(flat)
    }

    /// A tensor's name without its network: `body.0.conv1.weight`.
    pub fn bare_name<'t>(&self, tensor: &'t Tensor) -> &'t str {
        tensor.name.strip_prefix(&self.prefix).map_or(&tensor.name, |s| s.trim_start_matches('.'))
    }

    /// The parameter `tensor` cut out of a flat state.
    pub fn slice<'a>(&self, tensor: &Tensor, flat: &'a [f32]) -> &'a [f32] {
        &flat[tensor.offset..tensor.offset + tensor.shape.len()]
    }
}

impl Tensor {
    /// The extent under which files hold it.
    pub fn file_shape(&self) -> Vec<usize> {
        let [o, h, w, i] = self.shape.0;
        match self.file {
            FileLayout::Vector | FileLayout::RightVector { .. } => vec![self.shape.len()],
            FileLayout::Matrix | FileLayout::Flattened { .. } => vec![o, i],
            FileLayout::Conv => vec![o, i, h, w],
        }
    }

    /// (rows, pixels, channels): in memory a row is pixels × channels, in files channels × pixels.
    fn transposed(&self) -> Option<(usize, usize, usize)> {
        let [o, h, w, i] = self.shape.0;
        match self.file {
            FileLayout::Vector | FileLayout::Matrix => None,
            FileLayout::Conv => Some((o, h * w, i)),
            FileLayout::Flattened { pixels, channels } => Some((o, pixels, channels)),
            FileLayout::RightVector { pixels, channels } => Some((1, pixels, channels)),
        }
    }

    /// Elements in file order from elements in memory order.
    pub fn to_file(&self, memory: &[f32]) -> Vec<f32> {
        self.permute(memory, false)
    }

    /// Elements in memory order from elements in file order.
    pub fn from_file(&self, file: &[f32]) -> Vec<f32> {
        self.permute(file, true)
    }

    fn permute(&self, from: &[f32], to_memory: bool) -> Vec<f32> {
        let Some((rows, pixels, channels)) = self.transposed() else { return from.to_vec() };
        let mut out = vec![0.0; from.len()];
        for r in 0..rows {
            let base = r * pixels * channels;
            for p in 0..pixels {
                for c in 0..channels {
                    let (memory, file) = (base + p * channels + c, base + c * pixels + p);
                    if to_memory { out[memory] = from[file] } else { out[file] = from[memory] }
                }
            }
        }
        out
    }

    /// Initial values in memory order.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, Stream::Init, name_hash(&self.name), 0);
        let len = self.shape.len();
        match self.init {
            Init::Constant(v) => vec![v; len],
            Init::Uniform(bound) => (0..len).map(|_| (2.0 * rng.uniform() - 1.0) * bound).collect(),
            Init::Normal(std) => (0..len).map(|_| rng.normal() * std).collect(),
            Init::Icnr { std, repeat } => {
                let kernel = len / self.shape.n();
                let mut out = Vec::with_capacity(len);
                for _ in 0..self.shape.n() / repeat {
                    let one: Vec<f32> = (0..kernel).map(|_| rng.normal() * std).collect();
                    (0..repeat).for_each(|_| out.extend_from_slice(&one));
                }
                out
            }
            Init::UnitVector => {
                let v: Vec<f32> = (0..len).map(|_| rng.normal()).collect();
                let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12) as f32;
                v.into_iter().map(|x| x / norm).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: [usize; 4], file: FileLayout, init: Init) -> Tensor {
        Tensor { name: "t".into(), shape: Shape(shape), file, init, decays: true, offset: 0 }
    }

    #[test]
    fn files_hold_oihw() {
        let t = tensor([2, 1, 3, 2], FileLayout::Conv, Init::Constant(0.0));
        let file: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let memory = t.from_file(&file);
        assert_eq!(memory, [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
        assert_eq!(t.to_file(&memory), file);
        assert_eq!(t.file_shape(), [2, 2, 1, 3]);
    }

    #[test]
    fn icnr_repeats_each_kernel_for_one_shuffled_pixel() {
        let t = tensor([8, 3, 3, 2], FileLayout::Conv, Init::Icnr { std: 1.0, repeat: 4 });
        let w = t.initial(3);
        assert!((1..4).all(|k| w[k * 18..(k + 1) * 18] == w[..18]));
        assert_ne!(w[..18], w[72..90]);
    }
}
