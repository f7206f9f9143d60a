//! Programs without an update: validation, and each network's forward pass alone.

use super::parts::{Bound, Inputs};
use super::{BatchShape, Programs, Recorded};
use crate::Result;
use crate::graph::{Tape, Value};
use crate::loss::{self, Images};
use crate::nn::Network;
use crate::ops::prepare::Prepare;
use crate::ops::resize::Resize;
use crate::plan::Program;
use crate::train::states::EMA;
use crate::types::{DType, Shape};

/// What a validation program gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EvaluateOptions {
    /// Use the averaged weights.
    pub ema: bool,
    /// Logits of the discriminator on HR and SR.
    pub discriminator: bool,
    /// LR, SR and HR.
    pub images: bool,
    /// Metrics of bicubic upsampling of LR, beside SR's.
    pub bicubic: bool,
    /// The perceptual distance, where the config has one.
    pub perceptual: bool,
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
        let losses = &self.cfg.training.losses;
        let perceptual = if options.perceptual { self.perceptual_distances(&mut tape, sr, inputs.hr)? } else { None };
        let images = Images { sr, hr: inputs.hr, perceptual };
        let (components, metrics) = loss::image_components(&mut tape, &images, losses)?;
        let mut outputs = vec![("metrics".to_owned(), components)];
        if options.bicubic {
            let (height, width) = shape.hr;
            let up = tape.push(Resize { height, width, antialias: false }, &[inputs.lr])?;
            let upsampled = Images { sr: up, perceptual: None, ..images };
            let (components, _) = loss::image_components(&mut tape, &upsampled, losses)?;
            outputs.push(("bicubic_metrics".to_owned(), components));
        }
        if options.discriminator {
            let mut d = Bound::new(&mut tape, self.layout(Network::Discriminator), "", "");
            let real = self.run_discriminator(&mut tape, inputs.hr, &mut d, false)?;
            let fake = self.run_discriminator(&mut tape, sr, &mut d, false)?;
            outputs.extend([("real_logits".to_owned(), real), ("fake_logits".to_owned(), fake)]);
        }
        if options.images {
            outputs.extend([("lr".to_owned(), inputs.lr), ("sr".to_owned(), sr), ("hr".to_owned(), inputs.hr)]);
        }
        let program = Program { name: "evaluate", tape, outputs, checks: vec![], commits: vec![] };
        Ok(Recorded { program, metrics })
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
