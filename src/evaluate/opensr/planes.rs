//! Images with a plane for each band, and their bilinear resizing.

/// An image as (band, row, column).
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// Bands.
    pub bands: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Plane after plane, row after row.
    pub values: Vec<f64>,
}

impl Planes {
    /// From values in the order row, column, band.
    pub fn from_interleaved(values: &[f32], [height, width, bands]: [usize; 3]) -> Planes {
        let band = |b: usize| values.iter().skip(b).step_by(bands).map(|v| f64::from(*v));
        Planes { bands, height, width, values: (0..bands).flat_map(band).collect() }
    }

    /// The plane of a band.
    pub fn plane(&self, band: usize) -> &[f64] {
        let pixels = self.height * self.width;
        &self.values[band * pixels..(band + 1) * pixels]
    }

    /// Without `border` pixels on each side.
    pub(super) fn cropped(&self, border: usize) -> Planes {
        let (height, width) = (self.height - 2 * border, self.width - 2 * border);
        let mut values = Vec::with_capacity(self.bands * height * width);
        for band in 0..self.bands {
            let rows = self.plane(band).chunks_exact(self.width).skip(border).take(height);
            rows.for_each(|row| values.extend_from_slice(&row[border..border + width]));
        }
        Planes { bands: self.bands, height, width, values }
    }

    /// Bilinear, with the triangle stretched when reducing, as PyTorch's `interpolate(mode="bilinear", antialias=True)`.
    pub(super) fn resized(&self, height: usize, width: usize) -> Planes {
        let (rows, columns) = (taps(self.height, height), taps(self.width, width));
        let mut values = Vec::with_capacity(self.bands * height * width);
        for band in 0..self.bands {
            let plane = self.plane(band);
            let narrow: Vec<f64> = plane
                .chunks_exact(self.width)
                .flat_map(|row| columns.iter().map(|tap| tap.weigh(|x| row[x])))
                .collect();
            for tap in &rows {
                values.extend((0..width).map(|x| tap.weigh(|y| narrow[y * width + x])));
            }
        }
        Planes { bands: self.bands, height, width, values }
    }

    /// The mean of all bands, one plane.
    pub(super) fn mean(&self) -> Planes {
        let all: Vec<usize> = (0..self.bands).collect();
        self.mean_of(&all)
    }

    /// The mean of some bands, one plane.
    pub(super) fn mean_of(&self, bands: &[usize]) -> Planes {
        let value = |p: usize| bands.iter().map(|band| self.plane(*band)[p]).sum::<f64>() / bands.len() as f64;
        Planes { bands: 1, values: (0..self.height * self.width).map(value).collect(), ..*self }
    }
}

/// The pixels that an output pixel is made of, from `first` on.
struct Tap {
    first: usize,
    weights: Vec<f64>,
}

impl Tap {
    fn weigh(&self, value: impl Fn(usize) -> f64) -> f64 {
        self.weights.iter().enumerate().map(|(i, weight)| weight * value(self.first + i)).sum()
    }
}

/// The triangle around each output pixel, cut at the borders.
fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = input as f64 / output as f64;
    let reach = scale.max(1.0);
    let tap = |i: usize| {
        let center = scale * (i as f64 + 0.5);
        let first = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(input);
        let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - center) / reach).abs()).max(0.0);
        let sum: f64 = (first..end).map(weight).sum();
        Tap { first, weights: (first..end).map(|j| weight(j) / sum).collect() }
    };
    (0..output).map(tap).collect()
}
