//! Files of both formats, read back.

use super::*;
use std::ops::Range;

use tiff_reader::TiffFile;

const HEIGHT: usize = 700;
const WIDTH: usize = 530;

/// Two bands of numbers, every 50th row without a value.
struct Ramp;

fn value(row: usize, column: usize, band: usize) -> u16 {
    (row * 7 + column * 3 + band * 1000) as u16
}

impl Pixels for Ramp {
    fn read(&self, row: usize, columns: Range<usize>, values: &mut Vec<u8>, valid: &mut Vec<u8>) -> Result<()> {
        for column in columns {
            (0..2).for_each(|band| values.extend(value(row, column, band).to_ne_bytes()));
            valid.push(u8::from(!row.is_multiple_of(50)));
        }
        Ok(())
    }
}

fn written(format: Format, threads: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map.tif");
    let values = Values { dtype: PixelType::U16, fill: None, avoided: None };
    let image = Image {
        height: HEIGHT,
        width: WIDTH,
        bands: 2,
        values: &values,
        has_mask: true,
        tags: &[RawTag::text(270, "a description")],
        software: "test",
        compression: Compression::Deflate,
    };
    let stored = overviews(&image, &Ramp, dir.path(), threads, &|_| Ok(())).unwrap();
    let full = full_level(&image);
    let levels = [&full, stored[0].level()];
    let sources: [&dyn Pixels; 2] = [&Ramp, &stored[0]];
    let file = File::create(&path).unwrap();
    write_levels(&image, format, (&levels, &sources), (&file, &path), threads, &|_| Ok(())).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn classic_and_big_files_hold_the_same_image() {
    for big in [false, true] {
        let bytes = written(Format { big }, 1);
        assert!(bytes == written(Format { big }, 3), "the bytes depend on the threads");
        let tiff = TiffFile::from_bytes(bytes.clone()).unwrap();
        assert_eq!(tiff.is_bigtiff(), big);
        let sizes: Vec<_> = tiff.ifds().iter().map(|ifd| (ifd.height(), ifd.width())).collect();
        assert_eq!(sizes, [(700, 530), (700, 530), (350, 265), (350, 265)]);
        let pixels = tiff.read_image_bytes(0).unwrap();
        for (i, v) in pixels.chunks_exact(2).enumerate() {
            let (pixel, band) = (i / 2, i % 2);
            assert_eq!(u16::from_ne_bytes([v[0], v[1]]), value(pixel / WIDTH, pixel % WIDTH, band));
        }
        let mask = tiff.read_image_bytes(1).unwrap();
        assert!((0..HEIGHT * WIDTH).all(|i| (mask[i] != 0) != (i / WIDTH).is_multiple_of(50)));
        // Directories first, then the tiles of the overview, each with its length before it.
        let offsets: Vec<u64> = tiff.ifds().iter().map(|ifd| ifd.tile_offsets().unwrap()[0]).collect();
        assert!(offsets[2] < offsets[3] && offsets[3] < offsets[0] && offsets[0] < offsets[1]);
        let at = offsets[2] as usize;
        let length = tiff.ifds()[2].tile_byte_counts().unwrap()[0] as usize;
        assert_eq!(bytes[at - 4..at], (length as u32).to_le_bytes());
        assert_eq!(bytes[at + length - 4..at + length], bytes[at + length..at + length + 4]);
    }
}
