//! `srgan init`: a first configuration for given scenes, and the demo that comes with the program.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::data::source::{self, Source, SourceInfo};
use crate::data::{Layout, PixelType, clipped_share, values_as_f32};
use crate::files::write_atomic;
use crate::ops::prepare::Normalization;
use crate::{Error, Result};

/// Rows of a scene that are looked at, evenly from top to bottom.
const ROWS: usize = 64;
/// Values of a band that are kept of a row.
const COLUMNS: usize = 4096;
/// The usual side of a training patch, and the smallest that is worth training on.
const PATCH: usize = 128;
const SMALLEST_PATCH: usize = 16;
/// SR pixels per LR pixel, as in opensr-srgan's own configurations.
const SCALE: usize = 4;
/// Share of a scene that is held out at least.
const HELD_OUT: f64 = 0.1;
/// Share of values that a normalisation may clip.
const CLIPPED: f64 = 0.01;

/// Sections that do not depend on the scenes.
const TRAINING: &str = "
Training:
  device: auto             # a GPU if there is a good one, else the CPU
  max_epochs: 200
  pretrain_g_only: true    # the generator alone first …
  g_pretrain_steps: 20000
  adv_loss_ramp_steps: 5000  # … then the adversarial weight rises to adv_loss_beta
  EMA:
    enabled: true          # validate and make maps with averaged weights
    decay: 0.999
  Losses:
    l1_weight: 1.0
    sam_weight: 0.05       # spectral angle: keeps the ratios between bands
    adv_loss_beta: 1.0e-3
";
const REST: &str = "
Optimizers:
  optim_g_lr: 1.0e-4
  optim_d_lr: 1.0e-4
  gradient_clip_val: 1.0

Schedulers:
  g_warmup_steps: 1000
  g_warmup_type: cosine
  metric_g: val_metrics/l1

Logging:
  wandb:
    project: srgan         # runs are written to logs/srgan/<time>/
";

/// The demo's files: name below the folder, and content.
const DEMO: [(&str, &[u8]); 3] = [
    ("configs/demo.yaml", include_bytes!("../configs/demo.yaml")),
    ("data/sentinel2_10m_b2_b3_b4_b8.npy", include_bytes!("../data/sentinel2_10m_b2_b3_b4_b8.npy")),
    ("data/NOTICE.md", include_bytes!("../data/NOTICE.md")),
];

/// Writes the demo's configuration and chip into `folder`; the command that trains on it, from there.
///
/// # Errors
/// [`Error::Data`] if one of the files is there already; [`Error::Io`].
pub fn demo(folder: &Path) -> Result<&'static str> {
    if let Some(path) = DEMO.iter().map(|(name, _)| folder.join(name)).find(|path| path.exists()) {
        return Err(Error::data(path, "this file is there already").with_hint("name a new folder"));
    }
    for (name, content) in DEMO {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        write_atomic(&path, |out| out.write_all(content))?;
    }
    Ok("srgan train -c configs/demo.yaml")
}

/// A scene as far as a configuration depends on it.
struct Look {
    path: PathBuf,
    info: SourceInfo,
    /// Sorted finite values of each band, without those that mean "no data".
    values: Vec<Vec<f32>>,
}

/// How values become network input.
struct Choice {
    method: Normalization,
    scale: f64,
    why: String,
}

/// A commented configuration for `scenes` with which a training starts.
///
/// # Errors
/// If a scene cannot be read, or they differ in bands or are too small for a patch; [`Error::Usage`] without scenes.
pub fn config_for(scenes: &[PathBuf]) -> Result<String> {
    let looks = scenes.iter().map(|path| look(path)).collect::<Result<Vec<Look>>>()?;
    let Some(first) = looks.first() else {
        return Err(
            Error::usage("no scene is named").with_hint("srgan init SCENE… > cfg.yaml, or srgan init --demo DIR")
        );
    };
    if let Some(other) = looks.iter().find(|look| look.info.bands != first.info.bands) {
        let message =
            format!("it has {} bands, but {} has {}", other.info.bands, first.path.display(), first.info.bands);
        return Err(Error::data(&other.path, message).with_hint("name scenes with the same bands"));
    }
    let text = yaml(&looks, first)?;
    Config::from_yaml(&text, None, &[])?;
    Ok(text)
}

fn look(path: &Path) -> Result<Look> {
    let mut source = source::open(path, Layout::Hwc)?;
    let info = source.info().clone();
    let mut values = vec![Vec::new(); info.bands];
    let bands: Vec<usize> = (0..info.bands).collect();
    let rows = ROWS.min(info.height);
    for row in (0..rows).map(|r| r * info.height / rows) {
        sample_row(source.as_mut(), row, &bands, &mut values)?;
    }
    values.iter_mut().for_each(|values| values.sort_by(f32::total_cmp));
    if values.iter().all(Vec::is_empty) {
        return Err(Error::data(path, "none of the pixels that were looked at has a value")
            .with_hint("check its no-data value and its mask"));
    }
    Ok(Look { path: path.into(), info, values })
}

/// Adds the values of a row that are there.
fn sample_row(source: &mut dyn Source, row: usize, bands: &[usize], values: &mut [Vec<f32>]) -> Result<()> {
    let (mut bytes, mut valid) = (Vec::new(), Vec::new());
    source.seek(row);
    source.next_rows(bands, &mut bytes)?;
    source.read_mask(row, 1, &mut valid)?;
    let info = source.info();
    let (width, count) = (info.width, bands.len());
    let step = width.div_ceil(COLUMNS);
    for (i, value) in values_as_f32(&bytes, info.dtype).take(width * count).enumerate() {
        let (x, band) = (i / count, i % count);
        let absent = info.nodata_of(band).is_some_and(|nodata| nodata as f32 == value);
        if x % step == 0 && valid.get(x).is_none_or(|v| *v != 0) && value.is_finite() && !absent {
            values[band].push(value);
        }
    }
    Ok(())
}

/// The method that fits the values.
fn choose(looks: &[Look]) -> Choice {
    let mut all: Vec<f32> = looks.iter().flat_map(|look| look.values.iter().flatten().copied()).collect();
    all.sort_by(f32::total_cmp);
    let high = quantile(&all, 0.999);
    let bytes = looks.iter().all(|look| look.info.dtype == PixelType::U8);
    let fits = |method| clipped_share(method, &all) <= CLIPPED;
    if bytes {
        let why = "bytes: 0 to 255 become 0 to 1".to_owned();
        return Choice { method: Normalization::ZeroOne, scale: 1.0 / 255.0, why };
    }
    if high <= 1.5 && fits(Normalization::ZeroOne) {
        return Choice { method: Normalization::ZeroOne, scale: 1.0, why: "values of 0 to 1, as they are".to_owned() };
    }
    if high >= 500.0 && fits(Normalization::Normalise10k) {
        let why = "reflectance × 10000: 0 to 10000 become 0 to 1".to_owned();
        return Choice { method: Normalization::Normalise10k, scale: 1.0, why };
    }
    let peak = f64::from(high.max(f32::MIN_POSITIVE));
    let why = format!("999 of 1000 values are at most {high}, which becomes 1; check what the values mean");
    Choice { method: Normalization::ZeroOne, scale: 1.0 / peak, why }
}

fn quantile(sorted: &[f32], share: f64) -> f32 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// How scenes are cut.
struct Patches {
    /// Side of a training patch.
    size: usize,
    /// Share of each scene that is held out.
    held_out: f64,
    /// Training patches that fit side by side.
    count: usize,
}

/// Patches that leave room for training and validation in every scene.
fn patches(looks: &[Look]) -> Result<Patches> {
    let fits = |size: usize| {
        let fraction = |height: usize| (100.0 * size as f64 / height as f64).ceil() / 100.0;
        let share = looks.iter().map(|look| fraction(look.info.height)).fold(HELD_OUT, f64::max);
        let mut count = 0;
        for SourceInfo { height, width, .. } in looks.iter().map(|look| &look.info) {
            let held_out = (*height as f64 * share).round() as usize;
            let (rows, columns) = (height.saturating_sub(held_out) / size, width / size);
            if held_out < size || rows * columns == 0 {
                return None;
            }
            count += rows * columns;
        }
        Some(Patches { size, held_out: share, count })
    };
    let sizes = std::iter::successors(Some(PATCH), |size| Some(size / 2)).take_while(|size| *size >= SMALLEST_PATCH);
    sizes.into_iter().find_map(fits).ok_or_else(|| {
        let smallest = looks.iter().min_by_key(|look| look.info.height.min(look.info.width));
        let path = smallest.map(|look| look.path.clone()).unwrap_or_default();
        let message =
            format!("it is too small for patches of {SMALLEST_PATCH} pixels to train on and to validate with");
        Error::data(path, message).with_hint("name larger scenes")
    })
}

fn yaml(looks: &[Look], first: &Look) -> Result<String> {
    let Patches { size, held_out: fraction, count } = patches(looks)?;
    let batch = count.min(8);
    let choice = choose(looks);
    let bands = first.info.bands;
    let mut text = String::from("# Written by `srgan init` from a look at the scenes:\n");
    looks.iter().for_each(|look| describe(look, &mut text));
    let scenes: Vec<String> = looks.iter().map(|look| quoted(&look.path)).collect();
    let rgb = match bands {
        0..=2 => "[0, 0, 0]",
        3 => "[0, 1, 2]",
        _ => "[2, 1, 0]",
    };
    let scale = if choice.scale == 1.0 {
        String::new()
    } else {
        format!("\n  scale: {:?}  # every value is multiplied by this first", choice.scale)
    };
    let blocks = if size >= 32 { 3 } else { 1 };
    let _ = write!(
        text,
        "\nData:
  dataset_type: Scenes
  scenes: [{}]
  normalization: {}  # {}{scale}
  hr_size: {size}        # side of a training patch; the network sees {size} / {SCALE} pixels
  val_fraction: {fraction}  # share of each scene that is never trained on
  rgb_bands: {rgb}  # bands shown as red, green and blue, counted from 0
  train_batch_size: {batch}
  val_batch_size: {batch}

Model:
  in_bands: {bands}
{TRAINING}
Generator:
  model_type: SRResNet
  block_type: rcab         # standard, res, rcab, rrdb, lka
  n_channels: 64
  n_blocks: 16
  scaling_factor: {SCALE}

Discriminator:
  model_type: patchgan
  n_blocks: {blocks}
{REST}",
        scenes.join(", "),
        choice.method.name(),
        choice.why,
    );
    Ok(text)
}

/// What was seen of a scene, as comments.
fn describe(look: &Look, text: &mut String) {
    let SourceInfo { height, width, bands, value_type, nodata, mask, .. } = &look.info;
    let nodata = nodata.map(|value| format!(", no data is {value}")).unwrap_or_default();
    let mask = mask.map(|kind| format!(", {} hides pixels", kind.name())).unwrap_or_default();
    let name = look.path.display().to_string().replace(['\n', '\r'], " ");
    let _ = writeln!(text, "#   {name}: {height} rows, {width} columns, {bands} bands of {value_type}{nodata}{mask}");
    for (band, values) in look.values.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
        let [low, median, high] = [0.02, 0.5, 0.98].map(|share| quantile(values, share));
        let _ = writeln!(text, "#     band {band}: 2 % below {low}, median {median}, 2 % above {high}");
    }
}

/// A path as YAML.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().replace("${", "\\${")).to_string()
}
