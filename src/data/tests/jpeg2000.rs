//! JPEG 2000 files and Sentinel-2 products give the values that `make_data_fixtures.py` wrote into them.

use super::super::source::{self, Source, tags};
use super::*;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

fn opened(path: &Path) -> Box<dyn Source> {
    source::open(path, Layout::Hwc).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All values of `bands`, from `row` on: rows, columns, bands.
fn values(source: &mut dyn Source, bands: &[usize], row: usize) -> Vec<f32> {
    let mut bytes = Vec::new();
    source.seek(row);
    while source.next_rows(bands, &mut bytes).unwrap() > 0 {}
    super::super::pixels::values_as_f32(&bytes, source.info().dtype).collect()
}

/// What a product's file holds at a pixel of a band with this number, as the script writes it.
fn in_file(number: usize, y: usize, x: usize) -> f32 {
    match (y, x) {
        (0, 0) => 0.0,
        (0, 1) => 65535.0,
        (0, 2) => 500.0,
        _ => (1100 * number + 13 * y + 7 * x + 1) as f32,
    }
}

#[test]
fn pixels_are_those_of_gdal_from_any_row_on() {
    for (name, dtype, bands) in [
        ("u8.jp2", PixelType::U8, 3),
        ("u16.jp2", PixelType::U16, 1),
        ("i16.jp2", PixelType::I16, 1),
        ("codestream_u16.j2k", PixelType::U16, 2),
    ] {
        let mut source = opened(&fixtures("jp2").join(name));
        let (height, width) = (source.info().height, source.info().width);
        assert_eq!((height, width, source.info().bands, source.info().dtype), (45, 53, bands, dtype), "{name}");
        let order: Vec<usize> = (0..bands).rev().collect();
        for row in [0, 31, 44] {
            let got = values(source.as_mut(), &order, row);
            let of = |y: usize, x: usize, band: usize| {
                let value = ((y * 37 + x * 11 + band * 101) % 251) as f32;
                if name.starts_with("i16") { value - 100.0 } else { value }
            };
            let pixels = (row..height).flat_map(|y| (0..width).map(move |x| (y, x)));
            let want: Vec<f32> = pixels.flat_map(|(y, x)| order.iter().map(move |b| of(y, x, *b))).collect();
            assert_eq!(got, want, "{name} from row {row}");
        }
    }
    let tags = opened(&fixtures("jp2/u16.jp2")).info().tags.clone();
    let scale = tags.iter().find(|tag| tag.code == tags::MODEL_PIXEL_SCALE).unwrap();
    assert_eq!(scale.to_doubles(), [10.0, 10.0, 0.0]);
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(fixtures("jp2/u16.jp2")).unwrap();
    let path = dir.path().join("cut.jp2");
    for cut in [0, 40, 200, whole.len() / 2, whole.len() - 20] {
        fs::write(&path, &whole[..cut]).unwrap();
        let read = source::open(&path, Layout::Hwc).and_then(|mut source| source.next_rows(&[0], &mut Vec::new()));
        let message = read.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("not a readable JPEG 2000 file"), "cut at {cut}: {message:?}");
    }
    let at = whole.windows(2).position(|two| two == [0xff, 0x51]).unwrap();
    let mut huge = whole;
    huge[at + 6..at + 14].fill(0x7f);
    fs::write(&path, &huge).unwrap();
    let message = source::open(&path, Layout::Hwc).err().unwrap().to_string();
    assert!(message.contains("claims"), "{message}");
}

#[test]
fn products_give_reflectance_by_their_own_offset() {
    for (path, offset, words) in
        [("S2B_MSIL2A_20240101.SAFE", -1000.0, "baseline 05.10"), ("S2A_MSIL1C_20180101.zip", 0.0, "Sentinel-2 L1C")]
    {
        let path = fixtures("sentinel2").join(path);
        for (part, metres, numbers) in [("", 10, &[1, 2, 3, 7][..]), ("20m", 20, &[4, 5, 6, 8, 11, 12][..])] {
            let mut source = opened(&path.join(part).components().collect::<PathBuf>());
            let (height, width) = (40 * 10 / metres, 60 * 10 / metres);
            assert_eq!((source.info().height, source.info().width), (height, width));
            assert_eq!((source.info().nodata, source.info().bands), (Some(0.0), numbers.len()));
            assert!(source.info().notes[0].contains(words), "{:?}", source.info().notes);
            let bands: Vec<usize> = (0..numbers.len()).collect();
            let got = values(source.as_mut(), &bands, 0);
            for (at, value) in got.iter().enumerate() {
                let (y, x, number) =
                    (at / numbers.len() / width, at / numbers.len() % width, numbers[at % numbers.len()]);
                let want = match in_file(number, y, x) {
                    special @ (0.0 | 65535.0) => special,
                    value => (value + offset).max(1.0),
                };
                assert_eq!(*value, want, "{} {metres} m, row {y}, column {x}, band {number}", path.display());
            }
            let info = source.info();
            let tag = |code| info.tags.iter().find(|tag| tag.code == code).unwrap();
            assert_eq!(tag(tags::MODEL_PIXEL_SCALE).to_doubles(), [metres as f64, metres as f64, 0.0]);
            assert_eq!(tag(tags::MODEL_TIEPOINT).to_doubles()[3..5], [300000.0, 4900020.0]);
            assert!(tag(tags::GDAL_METADATA).to_text().contains(if metres == 10 { "B08" } else { "B8A" }));
        }
    }
}

#[test]
fn bands_by_name_choose_the_resolution() {
    let chosen = |path: &str, bands: &str| source::with_bands(Path::new(path), Some(bands)).display().to_string();
    assert_eq!(chosen("a/X.SAFE", "B04,b03"), "a/X.SAFE");
    assert_eq!(chosen("a/X.SAFE", "B05, b8a"), "a/X.SAFE/20m");
    assert_eq!(chosen("X.zip", "B09"), "X.zip/60m");
    assert_eq!(chosen("X.SAFE/10m", "B05"), "X.SAFE/10m");
    assert_eq!(chosen("X.SAFE", "B04,B05"), "X.SAFE");
    assert_eq!(chosen("20m/x.tif", "B05"), "20m/x.tif");
    let stem = |path: &str| source::stem(Path::new(path));
    assert_eq!([stem("a/X.SAFE"), stem("a/X.SAFE/20m"), stem("a/x.tif")], ["X", "X_20m", "x"]);
}

#[test]
fn incomplete_products_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let product = dir.path().join("X.SAFE");
    let refusal = |path: &Path| source::open(path, Layout::Hwc).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refusal(&product).contains("there is no such file"), "{}", refusal(&product));
    fs::create_dir(&product).unwrap();
    assert!(refusal(&product).contains("MTD_MSIL2A.xml"), "{}", refusal(&product));
    let from = fixtures("sentinel2/S2B_MSIL2A_20240101.SAFE");
    copy(&from, &product);
    assert!(refusal(&product.join("15m")).contains("10m, 20m or 60m"));
    assert!(refusal(&product.join("60m")).contains("B01"));
    let xml = product.join("MTD_MSIL2A.xml");
    let text = fs::read_to_string(&xml).unwrap();
    for (from, to, words) in [
        ("<BOA_QUANTIFICATION_VALUE unit=\"none\">10000", "<BOA_QUANTIFICATION_VALUE>0", "BOA_QUANTIFICATION_VALUE"),
        ("band_id=\"3\"", "band_id=\"33\"", "BOA_ADD_OFFSET"),
        ("</n1:P>", "", "XML"),
    ] {
        fs::write(&xml, text.replace(from, to)).unwrap();
        assert!(refusal(&product).contains(words), "{}", refusal(&product));
    }
    fs::write(&xml, text).unwrap();
    let band = product.join("GRANULE/L0_T31TCJ/IMG_DATA/R10m/T31TCJ_20240101T105441_B03_10m.jp2");
    fs::remove_file(band).unwrap();
    assert!(refusal(&product).contains("lacks the image of band B03"), "{}", refusal(&product));
    let other = dir.path().join("other.zip");
    fs::write(&other, b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    assert!(refusal(&other).contains(".SAFE"), "{}", refusal(&other));
}

/// A product is unpacked like any scene, and its store notices a band that was exchanged.
#[test]
fn products_are_scenes() {
    let dir = tempfile::tempdir().unwrap();
    let product = dir.path().join("X.SAFE");
    copy(&fixtures("sentinel2/S2B_MSIL2A_20240101.SAFE"), &product);
    let (dtype, values) = stored_values(&request(&product, dir.path(), &[2, 0]));
    assert_eq!((dtype, values.len()), (PixelType::U16, 40 * 60 * 2));
    assert_eq!(values[2 * 61..2 * 61 + 2], [in_file(3, 1, 1) - 1000.0, in_file(1, 1, 1) - 1000.0]);
    let images = product.join("GRANULE/L0_T31TCJ/IMG_DATA/R10m");
    let band = |name: &str| images.join(format!("T31TCJ_20240101T105441_{name}_10m.jp2"));
    fs::copy(band("B08"), band("B04")).unwrap();
    let (_, values) = stored_values(&request(&product, dir.path(), &[2, 0]));
    assert_eq!(values[2 * 61], in_file(7, 1, 1) - 1000.0);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}
