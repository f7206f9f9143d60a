//! Images between the layout of callers, (N, C, H, W), and that of the engine, (N, H, W, C).

use crate::{Error, Result};

/// The extent of a batch of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Extent {
    /// Elements of one image.
    pub fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Checks that `images` images of this extent are `found` elements; `what` they are, for the message.
    ///
    /// # Errors
    /// [`Error::Usage`] if not, or if an image is empty.
    pub fn check(&self, images: usize, found: usize, what: &str) -> Result<()> {
        let Extent { channels, height, width } = *self;
        let sides = [channels, height, width];
        let len = sides.iter().try_fold(images, |len, side| len.checked_mul(*side));
        if sides.contains(&0) || len != Some(found) {
            let message = format!(
                "{what} is {found} numbers, and {images} × {channels} × {height} × {width} (images, bands, rows, columns) \
                 were announced"
            );
            return Err(Error::usage(message).with_hint("an array is images × bands × rows × columns without gaps"));
        }
        Ok(())
    }

    /// One image with channels innermost, each value through `value`.
    pub fn interleaved(&self, planes: &[f32], mut value: impl FnMut(f32) -> f32) -> Vec<f32> {
        let pixels = self.height * self.width;
        let mut out = vec![0.0; planes.len()];
        for (channel, plane) in planes.chunks_exact(pixels).enumerate() {
            plane.iter().enumerate().for_each(|(at, v)| out[at * self.channels + channel] = value(*v));
        }
        out
    }

    /// One image with channels outermost, each value through `value`, to `planes`.
    pub fn write_planes(&self, interleaved: &[f32], planes: &mut [f32], mut value: impl FnMut(f32) -> f32) {
        let pixels = self.height * self.width;
        for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
            plane.iter_mut().enumerate().for_each(|(at, v)| *v = value(interleaved[at * self.channels + channel]));
        }
    }

    /// Band, row and column of element `at` of one image's planes.
    pub fn place(&self, at: usize) -> [usize; 3] {
        [at / (self.height * self.width), at / self.width % self.height, at % self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_inwards_and_back() {
        let extent = Extent { channels: 2, height: 2, width: 3 };
        let planes: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let interleaved = extent.interleaved(&planes, |v| v);
        assert_eq!(interleaved, [0., 6., 1., 7., 2., 8., 3., 9., 4., 10., 5., 11.]);
        let mut back = vec![f32::NAN; 12];
        extent.write_planes(&interleaved, &mut back, |v| v);
        assert_eq!(back, planes);
        assert_eq!(extent.place(10), [1, 1, 1]);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let extent = Extent { channels: 2, height: 2, width: 3 };
        assert!(extent.check(2, 24, "lr").is_ok() && extent.check(0, 0, "lr").is_ok());
        let message = extent.check(2, 23, "lr").unwrap_err().to_string();
        assert!(message.contains("lr is 23 numbers, and 2 × 2 × 2 × 3"), "{message}");
        assert!(Extent { height: 0, ..extent }.check(1, 0, "lr").is_err());
        assert!(Extent { height: usize::MAX, ..extent }.check(4, 24, "lr").is_err(), "a product that overflows");
    }
}
