//! Pictures of 8 bits, their PNG files, and text in them.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;

use crate::files::write_atomic;
use crate::{Error, Result};

/// Side of a character in dots.
pub(crate) const GLYPH: usize = 8;

/// An 8-bit picture, grey or RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of these pixels, `height × width × channels`, with 1 or 3 channels.
    ///
    /// # Panics
    /// If their number is another.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), width * height * channels, "{width}x{height}x{channels}");
        Picture { width, height, channels, pixels }
    }

    /// A picture of one value.
    pub(crate) fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        Picture { width, height, channels, pixels: vec![value; width * height * channels] }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 = grey, 3 = RGB.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Rows of pixels, `height × width × channels`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Encodes the picture as a PNG file.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let side = |n: usize| u32::try_from(n).map_err(|_| Error::Internal(format!("a picture {n} pixels long")));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(if self.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_depth(png::BitDepth::Eight);
        let encoded = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.pixels)?;
            writer.finish()
        });
        encoded.map_err(|e| Error::Internal(format!("PNG: {e}")))?;
        Ok(bytes)
    }

    /// Writes the picture as a PNG file, whole or not at all.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let bytes = self.to_png()?;
        write_atomic(path, |out| out.write_all(&bytes))
    }

    /// Copies `other` to column `x`, row `y`; it must fit and have the same number of channels.
    pub(super) fn paste(&mut self, other: &Picture, x: usize, y: usize) {
        let (from, to) = (other.width * other.channels, self.width * self.channels);
        for row in 0..other.height {
            let start = (y + row) * to + x * self.channels;
            self.pixels[start..start + from].copy_from_slice(&other.pixels[row * from..(row + 1) * from]);
        }
    }

    /// The same with each pixel repeated `factor` times in both directions.
    pub(super) fn enlarged(&self, factor: usize) -> Picture {
        let mut pixels = Vec::with_capacity(self.pixels.len() * factor * factor);
        for row in self.pixels.chunks_exact((self.width * self.channels).max(1)) {
            let wide: Vec<u8> = row.chunks_exact(self.channels).flat_map(|pixel| pixel.repeat(factor)).collect();
            (0..factor).for_each(|_| pixels.extend_from_slice(&wide));
        }
        Picture { width: self.width * factor, height: self.height * factor, channels: self.channels, pixels }
    }

    /// Gives the pixel in column `x`, row `y` the value of each of its channels. One outside the picture is none.
    pub(crate) fn set(&mut self, (x, y): (usize, usize), value: impl Fn(usize) -> u8) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * self.channels;
            (0..self.channels).for_each(|c| self.pixels[at + c] = value(c));
        }
    }

    /// Fills `width × height` pixels from column `x`, row `y` on; what does not fit is cut.
    pub(crate) fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), value: u8) {
        for row in y..y + height {
            (x..x + width).for_each(|column| self.set((column, row), |_| value));
        }
    }

    /// Writes `text` in the grey `value` at column `x`, row `y`; characters of [`GLYPH`] dots, each `dot` pixels a side.
    /// What does not fit is cut, and characters beyond ASCII are question marks.
    pub(crate) fn write(&mut self, text: &str, (x, y): (usize, usize), dot: usize, value: u8) {
        for (i, c) in text.chars().enumerate() {
            let rows = BASIC_LEGACY[if c.is_ascii() { c as usize } else { '?' as usize }];
            let dots = (0..GLYPH * GLYPH).filter(|d| rows[d / GLYPH] >> (d % GLYPH) & 1 == 1);
            for d in dots {
                self.fill((x + (i * GLYPH + d % GLYPH) * dot, y + d / GLYPH * dot), (dot, dot), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_holds_the_pixels() {
        let picture = Picture { width: 2, height: 1, channels: 3, pixels: vec![1, 2, 3, 4, 5, 6] };
        let bytes = picture.to_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture.pixels);
    }

    #[test]
    fn pixels_are_repeated() {
        let picture = Picture::new(2, 1, 1, vec![7, 9]).enlarged(2);
        assert_eq!(picture, Picture::new(4, 2, 1, vec![7, 7, 9, 9, 7, 7, 9, 9]));
    }

    #[test]
    fn text_is_upright_and_cut_at_the_edges() {
        let mut picture = Picture::filled(2 * GLYPH, GLYPH, 1, 255);
        picture.write("L", (0, 0), 2, 0);
        // Of an L the stem is on the left; only the upper half fits.
        let dark = |x: usize| (0..GLYPH).any(|y| picture.pixels[y * 2 * GLYPH + x] == 0);
        assert!(dark(2) && !dark(12), "{:?}", picture.pixels);
        picture.write("\u{e4}~", (9, 5), 3, 0);
    }
}
