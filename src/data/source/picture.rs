//! Pictures, decoded into memory: PNG and JPEG.

use std::io::BufReader;
use std::path::Path;

use super::array::{ArraySource, Values};
use super::values::ValueType;
use super::{MaskKind, SourceInfo, largest_image, open_file, zeroed};
use crate::error::{Error, Result};

const NO_TABLE: &str = "save it with grey or colour values, or as an .npy file";

/// Decodes a PNG file: grey or colour, 8 or 16 bit; an alpha channel is a band.
pub(super) fn open_png(path: &Path) -> Result<ArraySource> {
    let damaged = |e: png::DecodingError| Error::data(path, format!("not a readable PNG file: {e}"));
    let file = open_file(path)?;
    let file_len = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_limits(png::Limits { bytes: largest_image(file_len) });
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (color, depth) = reader.output_color_type();
    let value_type = match depth {
        png::BitDepth::Eight => ValueType::U8,
        png::BitDepth::Sixteen => ValueType::U16,
        _ => return Err(Error::data(path, "PNG files need 8 or 16 bits a sample").with_hint(NO_TABLE)),
    };
    if color == png::ColorType::Indexed {
        return Err(Error::data(path, "a PNG file with a colour table holds no band values").with_hint(NO_TABLE));
    }
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let len = reader.output_buffer_size().filter(|&len| len <= largest_image(file_len));
    let len = len.ok_or_else(|| too_large(path, width, height))?;
    let mut bytes = zeroed(path, len)?;
    reader.next_frame(&mut bytes).map_err(damaged)?;
    let mut source = in_memory(path, [height, width, color.samples()], value_type, bytes);
    // PNG's 16 bits are big-endian.
    source.swap = value_type == ValueType::U16 && !cfg!(target_endian = "big");
    if matches!(color, png::ColorType::Rgba | png::ColorType::GrayscaleAlpha) {
        source.info.alpha = Some(color.samples() - 1);
        source.info.mask = Some(MaskKind::Alpha);
    }
    Ok(source)
}

/// Decodes a JPEG file: grey or RGB.
pub(super) fn open_jpeg(path: &Path) -> Result<ArraySource> {
    let damaged = |e: jpeg_decoder::Error| Error::data(path, format!("not a readable JPEG file: {e}"));
    let file = open_file(path)?;
    let limit = largest_image(file.metadata().map_err(|e| Error::io("read", path, e))?.len());
    let mut decoder = jpeg_decoder::Decoder::new(BufReader::new(file));
    decoder.set_max_decoding_buffer_size(limit);
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| Error::data(path, "not a readable JPEG file: it has no header"))?;
    let (height, width) = (usize::from(info.height), usize::from(info.width));
    let (bands, value_type) = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => (1, ValueType::U8),
        jpeg_decoder::PixelFormat::L16 => (1, ValueType::U16),
        jpeg_decoder::PixelFormat::RGB24 => (3, ValueType::U8),
        jpeg_decoder::PixelFormat::CMYK32 => {
            return Err(Error::data(path, "a JPEG file of printing colours (CMYK)").with_hint("save it as RGB"));
        }
    };
    if height * width * bands * value_type.bytes() > limit {
        return Err(too_large(path, width, height));
    }
    let bytes = decoder.decode().map_err(damaged)?;
    if bytes.len() != height * width * bands * value_type.bytes() {
        return Err(Error::data(path, "not a readable JPEG file: pixels are missing"));
    }
    let mut source = in_memory(path, [height, width, bands], value_type, bytes);
    source.info.notes.push("it is a JPEG file: what its compression has changed is learnt too".into());
    Ok(source)
}

fn too_large(path: &Path, width: usize, height: usize) -> Error {
    Error::data(path, format!("the file claims {width} × {height} pixels, more than its bytes can hold"))
}

fn in_memory(path: &Path, size: [usize; 3], value_type: ValueType, bytes: Vec<u8>) -> ArraySource {
    let [height, width, bands] = size;
    let shape = format!("{height} rows, {width} columns, {bands} bands of {value_type}");
    let info = SourceInfo::new(size, value_type, shape);
    let values = Values::Memory { bytes, strides: [width * bands, bands, 1] };
    ArraySource { path: path.into(), info, values, swap: false, next_row: 0 }
}
