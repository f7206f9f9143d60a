//! The perceptual term on a tape: which bands it sees, and the network with its fixed weights.

use super::Programs;
use crate::graph::{Tape, Value};
use crate::nn::{Bound, Net, PERCEPTUAL_BANDS};
use crate::train::perceptual::{BANDS_SLOT, Bands};
use crate::types::{DType, Shape};
use crate::{Result, nn};

impl Programs {
    /// The perceptual distance of each image, (N,1,1,1); `None` where the config's weight is 0. Bands that are drawn
    /// anew for each batch come from the slot [`BANDS_SLOT`].
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn perceptual_distances(&self, tape: &mut Tape, sr: Value, hr: Value) -> Result<Option<Value>> {
        let Some(layout) = &self.perceptual else { return Ok(None) };
        let count = self.cfg.model.in_bands;
        let shape = Shape([PERCEPTUAL_BANDS, 1, 1, count]);
        let bands = match Bands::of(&self.cfg) {
            Bands::All => None,
            Bands::Fixed(bands) => Some(tape.constant(shape, Bands::matrix(bands, count))),
            Bands::Drawn => Some(match tape.nodes().iter().position(|node| &*node.path == BANDS_SLOT) {
                Some(known) => Value::at(known),
                None => tape.input(BANDS_SLOT, shape, DType::F32),
            }),
        };
        let mut bound = Bound::new(tape, layout, "", "");
        let net = &mut Net::new(tape, bound.vars(), false).aligned_to(self.align);
        nn::perceptual_distance(net, &self.cfg, (sr, hr), bands).map(Some)
    }
}
