//! Raw pixels as they leave the loader: the file's own type, N,H,W,C interleaved, not yet normalised.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a pixel's value, as it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelType {
    /// Unsigned 8 bit.
    U8,
    /// Unsigned 16 bit.
    U16,
    /// Signed 16 bit.
    I16,
    /// 32-bit float.
    F32,
}

impl PixelType {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            PixelType::U8 => 1,
            PixelType::U16 | PixelType::I16 => 2,
            PixelType::F32 => 4,
        }
    }

    /// numpy's type string, as in the header of an `.npy` file.
    pub fn descr(self) -> &'static str {
        match self {
            PixelType::U8 => "|u1",
            PixelType::U16 => "<u2",
            PixelType::I16 => "<i2",
            PixelType::F32 => "<f4",
        }
    }
}

impl fmt::Display for PixelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PixelType::U8 => "uint8",
            PixelType::U16 => "uint16",
            PixelType::I16 => "int16",
            PixelType::F32 => "float32",
        })
    }
}

/// Images of one size and type: bytes in native order, `batch` × `height` × `width` × `bands`.
#[derive(Clone, Debug, PartialEq)]
pub struct RawImages {
    /// The values; `batch * height * width * bands * dtype.bytes()` bytes.
    pub data: Vec<u8>,
    /// Type of one value.
    pub dtype: PixelType,
    /// Number of images.
    pub batch: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Bands, interleaved by pixel.
    pub bands: usize,
}

impl RawImages {
    /// Zero-filled images of the given shape.
    pub fn zeros(dtype: PixelType, [batch, height, width, bands]: [usize; 4]) -> Self {
        let data = vec![0; batch * height * width * bands * dtype.bytes()];
        RawImages { data, dtype, batch, height, width, bands }
    }

    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.height * self.width * self.bands * self.dtype.bytes()
    }

    /// The bytes of image `index`.
    pub fn image(&self, index: usize) -> &[u8] {
        let len = self.image_bytes();
        &self.data[index * len..(index + 1) * len]
    }

    pub(crate) fn image_mut(&mut self, index: usize) -> &mut [u8] {
        let len = self.image_bytes();
        &mut self.data[index * len..(index + 1) * len]
    }

    /// All values converted to `f32` (exact for every pixel type), in the order of `data`.
    pub fn to_f32(&self) -> Vec<f32> {
        values_as_f32(&self.data, self.dtype).collect()
    }
}

/// The values of `bytes`, each as `f32`.
pub(crate) fn values_as_f32(bytes: &[u8], dtype: PixelType) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(dtype.bytes()).map(move |b| match dtype {
        PixelType::U8 => f32::from(b[0]),
        PixelType::U16 => f32::from(u16::from_ne_bytes([b[0], b[1]])),
        PixelType::I16 => f32::from(i16::from_ne_bytes([b[0], b[1]])),
        PixelType::F32 => f32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
    })
}

/// Where a sample comes from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleId {
    /// The source file.
    pub file: String,
    /// First row of the HR crop in the file.
    pub row: usize,
    /// First column of the HR crop in the file.
    pub column: usize,
}

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at row {}, column {}", self.file, self.row, self.column)
    }
}

/// One batch of raw samples.
///
/// The geometry code in `augment` is applied to HR and LR alike by the program. With the output pixel
/// (y, x): bit 2 (transpose) swaps, (sy, sx) = (x, y), else (y, x); then bit 0 (flip horizontally)
/// mirrors sx and bit 1 (flip vertically) mirrors sy; `out[y][x] = in[sy][sx]`. The eight codes are the
/// eight flips and quarter turns of a square; patches that are not square get codes 0 to 3 only.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Valid samples; the slots after them repeat the last valid one (validation only).
    pub n: usize,
    /// High-resolution crops.
    pub hr: RawImages,
    /// Low-resolution crops, for paired data sets only; else the program makes them from `hr`.
    pub lr: Option<RawImages>,
    /// Geometry code of each slot, 0..8; 0 in validation.
    pub augment: Vec<u8>,
    /// In training the sample's index in the epoch, in validation the image's global index; one per slot.
    pub indices: Vec<u64>,
    /// Source of each slot.
    pub samples: Vec<SampleId>,
}

/// Shape and type of every training batch's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainSpec {
    /// Type and (rows, columns) of an HR patch.
    pub hr: (PixelType, usize, usize),
    /// Type and (rows, columns) of an LR patch, for paired data sets.
    pub lr: Option<(PixelType, usize, usize)>,
    /// Bands of both.
    pub bands: usize,
}

/// One of the distinct sizes of the validation images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValSize {
    /// HR rows.
    pub hr_height: usize,
    /// HR columns.
    pub hr_width: usize,
    /// LR rows and columns, for paired data sets.
    pub lr: Option<(usize, usize)>,
    /// Number of validation images of this size.
    pub count: usize,
}
