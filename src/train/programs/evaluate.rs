//! Programs without an update: validation, and each network's forward pass alone.

use super::parts::Inputs;
use super::{BatchShape, Programs, Recorded};
use crate::Result;
use crate::graph::{Tape, Value};
use crate::loss::{self, Images};
use crate::metrics::Metric;
use crate::nn::{Bound, Network};
use crate::ops::add::Add;
use crate::ops::concat::ConcatChannels;
use crate::ops::image_metrics::ImageMetrics;
use crate::ops::prepare::Prepare;
use crate::ops::resize::Resize;
use crate::ops::slice::SliceChannels;
use crate::ops::sum_to::{sum_product_to, sum_to};
use crate::plan::Program;
use crate::train::states::EMA;
use crate::types::{DType, Shape};

/// Output of evaluation programs: squared errors of SR and values of HR, each summed over the pixels of an image by band,
/// (N,1,1,2B).
pub const BAND_SUMS: &str = "band_sums";

/// Output of evaluation programs: [`ImageMetrics`] of each band alone, (N,1,1,5B).
pub const BAND_METRICS: &str = "band_metrics";
/// Before the names of what is measured of bicubic upsampling.
pub const BICUBIC: &str = "bicubic_";

/// What a validation program gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EvaluateOptions {
    /// Use the averaged weights.
    pub ema: bool,
    /// Logits of the discriminator on HR and SR.
    pub discriminator: bool,
    /// LR, bicubic upsampling of LR, SR and HR.
    pub images: bool,
    /// Metrics of bicubic upsampling of LR, beside SR's: outputs whose names begin with [`BICUBIC`].
    pub bicubic: bool,
    /// Metrics of each band alone, [`BAND_METRICS`].
    pub bands: bool,
    /// The perceptual distance, where the config has one.
    pub perceptual: bool,
}

/// Named outputs of a program.
type Outputs = Vec<(&'static str, Value)>;

fn band_sums(tape: &mut Tape, sr: Value, hr: Value) -> Result<Value> {
    let [n, _, _, bands] = tape.shape(hr).0;
    let by_band = Shape([n, 1, 1, bands]);
    let error = tape.push(Add::DIFFERENCE, &[sr, hr])?;
    let squares = sum_product_to(tape, error, error, by_band)?;
    let values = sum_to(tape, hr, by_band)?;
    tape.push(ConcatChannels, &[squares, values])
}

impl Programs {
    /// Validation: SR with the stored statistics, metrics per image, logits of D where asked, and the images
    /// themselves where asked.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn evaluate(&self, shape: BatchShape, options: EvaluateOptions) -> Result<Recorded> {
        let mut tape = Tape::new();
        let inputs = self.inputs(&mut tape, shape)?;
        let prefix = if options.ema { EMA } else { "" };
        let mut g = Bound::new(&mut tape, self.layout(Network::Generator), prefix, prefix);
        let sr = self.run_generator(&mut tape, &inputs, &mut g, false)?;
        let (height, width) = shape.hr;
        let enlarged = match options.bicubic || options.images {
            true => Some(tape.push(Resize { height, width, antialias: false }, &[inputs.lr])?),
            false => None,
        };
        let bicubic = enlarged.filter(|_| options.bicubic).map(|image| (BICUBIC, image));
        let (mut outputs, mut metrics) = (Vec::new(), Vec::new());
        for (prefix, image) in [("", sr)].into_iter().chain(bicubic) {
            let (measured, of_channels) = self.measured(&mut tape, (image, inputs.hr), options)?;
            outputs.extend(measured.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
            metrics = of_channels;
        }
        if options.discriminator {
            let mut d = Bound::new(&mut tape, self.layout(Network::Discriminator), "", "");
            let real = self.run_discriminator(&mut tape, inputs.hr, &mut d, false)?;
            let fake = self.run_discriminator(&mut tape, sr, &mut d, false)?;
            outputs.extend([("real_logits".to_owned(), real), ("fake_logits".to_owned(), fake)]);
        }
        if options.images {
            let images = [("lr", inputs.lr), ("sr", sr), ("hr", inputs.hr)].into_iter();
            outputs
                .extend(images.chain(enlarged.map(|image| ("bicubic", image))).map(|(name, v)| (name.to_owned(), v)));
        }
        let program = Program { name: "evaluate", tape, outputs, checks: vec![], commits: vec![] };
        Ok(Recorded { program, metrics })
    }

    /// What is measured of images beside HR, by the names of outputs, and the metrics of the first.
    fn measured(
        &self,
        tape: &mut Tape,
        (image, hr): (Value, Value),
        options: EvaluateOptions,
    ) -> Result<(Outputs, Vec<Metric>)> {
        let losses = &self.cfg.training.losses;
        let perceptual = if options.perceptual { self.perceptual_distances(tape, image, hr)? } else { None };
        let images = Images { sr: image, hr, perceptual };
        let (components, metrics) = loss::image_components(tape, &images, losses)?;
        let mut outputs = vec![("metrics", components), (BAND_SUMS, band_sums(tape, image, hr)?)];
        if options.bands {
            let op = ImageMetrics { max_val: losses.max_val as f32, ssim_win: losses.ssim_win };
            let mut of_bands = Vec::new();
            for offset in 0..self.cfg.model.in_bands {
                let band = SliceChannels { offset, channels: 1 };
                let pair = [tape.push(band, &[image])?, tape.push(band, &[hr])?];
                of_bands.push(tape.push(op, &pair)?);
            }
            outputs.push((
                BAND_METRICS,
                if of_bands.len() == 1 { of_bands[0] } else { tape.push(ConcatChannels, &of_bands)? },
            ));
        }
        Ok((outputs, metrics))
    }

    /// The generator's forward pass alone, in evaluation mode, on LR that is already prepared.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn forward(&self, batch: usize, lr: (usize, usize)) -> Result<Program> {
        let mut tape = Tape::new();
        let lr = tape.input("lr", Shape([batch, lr.0, lr.1, self.cfg.model.in_bands]), DType::F32);
        let noise = self.noise(&mut tape, batch);
        let inputs = Inputs { lr, hr: lr, noise };
        let mut g = Bound::new(&mut tape, self.layout(Network::Generator), "", "");
        let sr = self.run_generator(&mut tape, &inputs, &mut g, false)?;
        let outputs = vec![("sr".to_owned(), sr)];
        Ok(Program { name: "forward", tape, outputs, checks: vec![], commits: vec![] })
    }

    /// The generator's forward pass on raw LR pixels, as a map is made with: the program, and LR as the network sees it.
    /// Input slots `lr` and `codes` (zeros); the output `sr` is normalised.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn predict(&self, batch: usize, lr: (usize, usize), dtype: DType) -> Result<(Program, Value)> {
        let mut tape = Tape::new();
        let codes = tape.input("codes", Shape([batch, 1, 1, 1]), DType::U8);
        let raw = tape.input("lr", Shape([batch, lr.0, lr.1, self.cfg.model.in_bands]), dtype);
        let prepared = tape.push(Prepare { dtype, normalization: self.normalization()? }, &[raw, codes])?;
        let noise = self.noise(&mut tape, batch);
        let inputs = Inputs { lr: prepared, hr: prepared, noise };
        let mut g = Bound::new(&mut tape, self.layout(Network::Generator), "", "");
        let sr = self.run_generator(&mut tape, &inputs, &mut g, false)?;
        let outputs = vec![("sr".to_owned(), sr)];
        Ok((Program { name: "predict", tape, outputs, checks: vec![], commits: vec![] }, prepared))
    }

    /// The discriminator's logits in evaluation mode for prepared images.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn judge(&self, batch: usize, hr: (usize, usize)) -> Result<Program> {
        let mut tape = Tape::new();
        let image = tape.input("hr", Shape([batch, hr.0, hr.1, self.cfg.model.in_bands]), DType::F32);
        let mut d = Bound::new(&mut tape, self.layout(Network::Discriminator), "", "");
        let logits = self.run_discriminator(&mut tape, image, &mut d, false)?;
        let outputs = vec![("logits".to_owned(), logits)];
        Ok(Program { name: "judge", tape, outputs, checks: vec![], commits: vec![] })
    }
}
