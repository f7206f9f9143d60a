//! The page of a run, and of several.

use std::fs;
use std::path::{Path, PathBuf};

use super::curves::{Curves, Line, draw};
use super::html::{Drawing, Page};
use super::{EVALUATION, EVALUATION_TEXT, HELD_OUT, REPORT, RunFacts};
use crate::files::check_folder_of;
use crate::{Error, Result};

/// Validation pictures on a page at most, and the bytes of their files.
const PICTURES: usize = 16;
const PICTURE_BYTES: u64 = 12 << 20;
/// Titles of the drawings, and the metrics that each shows.
const FIGURES: [(&str, &[(&str, &str)]); 10] = [
    ("PSNR in validation [dB]", &[("val_metrics/psnr", "")]),
    ("SSIM in validation", &[("val_metrics/ssim", "")]),
    ("Spectral angle in validation [rad]", &[("val_metrics/sam", "")]),
    ("ERGAS in validation", &[("val_metrics/ergas", "")]),
    ("Mean absolute error in validation", &[("val_metrics/l1", "")]),
    ("Perceptual distance in validation", &[("val_metrics/perceptual", "")]),
    ("Content loss", &[("generator/content_loss", "")]),
    ("Adversarial losses", &[("generator/adversarial_loss", "G"), ("discriminator/adversarial_loss", "D")]),
    (
        "Verdicts of the discriminator",
        &[("discriminator/D(y)_prob", "D(y)"), ("discriminator/D(G(x))_prob", "D(G(x))")],
    ),
    ("Learning rates", &[("lr_generator", "G"), ("lr_discriminator", "D")]),
];
/// Metrics of the table of several runs.
const COMPARED: [(&str, &str); 5] = [
    ("PSNR [dB]", "val_metrics/psnr"),
    ("SSIM", "val_metrics/ssim"),
    ("SAM [rad]", "val_metrics/sam"),
    ("ERGAS", "val_metrics/ergas"),
    ("L1", "val_metrics/l1"),
];

/// Writes the page of the run in `folder`, [`REPORT`], from the run's files. What is not there yet is left out.
///
/// # Errors
/// If a file cannot be read or the page not be written.
pub fn write_run(folder: &Path) -> Result<()> {
    run_page(folder)?.write(&folder.join(REPORT))
}

/// Writes a page of several runs beside each other, or of one, to `out`.
///
/// # Errors
/// [`Error::Data`] for a folder that holds no run; if a file cannot be read or the page not be written.
pub fn write_comparison(runs: &[PathBuf], out: &Path) -> Result<()> {
    check_folder_of(out)?;
    for run in runs {
        if !run.join("metrics.csv").is_file() {
            return Err(Error::data(run, "this folder holds no run: there is no metrics.csv in it")
                .with_hint("name folders of runs, as logs/demo/2026-11-30_12-00-00"));
        }
    }
    match runs {
        [run] => run_page(run)?.write(out),
        _ => comparison_page(runs)?.write(out),
    }
}

fn run_page(folder: &Path) -> Result<Page> {
    let facts = RunFacts::load(folder)?;
    let curves = Curves::read(&folder.join("metrics.csv"))?;
    let mut page = Page::new(&format!("Run {}", name(folder)));
    if !facts.comparison.is_empty() {
        page.heading("Result");
        page.preformatted(&facts.comparison);
    }
    if let Some(png) = optional(&folder.join(HELD_OUT))? {
        page.picture(&png, "the most detailed part of the held-out imagery");
    }
    page.heading("Curves");
    let phase = curves.pretraining();
    if phase.is_some() {
        page.paragraph("On the shaded ground the generator trains alone.");
    }
    let drawings = FIGURES.iter().map(|(title, metrics)| {
        let line = |(metric, name): &(&str, &str)| Line { name: (*name).to_owned(), points: curves.get(metric) };
        let lines: Vec<Line> = metrics.iter().map(line).filter(|line| is_measured(line)).collect();
        draw(title, &lines, phase.as_ref())
    });
    page.drawings(&drawings.collect::<Result<Vec<Option<Drawing>>>>()?.into_iter().flatten().collect::<Vec<_>>());
    let pictures = validation_pictures(folder)?;
    if !pictures.is_empty() {
        page.heading("Validation pictures");
        page.slider(&pictures);
    }
    add_evaluation(&mut page, &folder.join(EVALUATION))?;
    page.heading("Run");
    page.table(&[], &facts.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect::<Vec<_>>());
    if let Some(yaml) = optional(&folder.join("config.yaml"))? {
        page.details("config.yaml", &String::from_utf8_lossy(&yaml));
    }
    Ok(page)
}

fn comparison_page(runs: &[PathBuf]) -> Result<Page> {
    let mut page = Page::new(&format!("{} runs", runs.len()));
    let curves = runs.iter().map(|run| Curves::read(&run.join("metrics.csv"))).collect::<Result<Vec<_>>>()?;
    let names = names(runs);
    page.heading("Last validation");
    let header: Vec<String> = ["run"].into_iter().chain(COMPARED.map(|(title, _)| title)).map(str::to_owned).collect();
    let rows = names.iter().zip(&curves).map(|(name, curves)| {
        let last =
            |(_, metric): (&str, &str)| curves.get(metric).last().map_or("–".into(), |(_, v)| format!("{v:.4}"));
        [name.clone()].into_iter().chain(COMPARED.map(last)).collect()
    });
    page.table(&header, &rows.collect::<Vec<Vec<String>>>());
    page.heading("Curves");
    let mut drawings = Vec::new();
    for (title, metric, kind) in
        FIGURES.iter().flat_map(|(title, all)| all.iter().map(move |(m, kind)| (title, m, kind)))
    {
        let lines = names.iter().zip(&curves).map(|(name, c)| Line { name: name.clone(), points: c.get(metric) });
        let lines: Vec<Line> = lines.collect();
        let title = if kind.is_empty() { (*title).to_owned() } else { format!("{title}: {kind}") };
        if lines.iter().any(is_measured) {
            drawings.extend(draw(&title, &lines, None)?);
        }
    }
    page.drawings(&drawings);
    for (run, name) in runs.iter().zip(&names) {
        page.heading(name);
        let facts = RunFacts::load(run)?;
        if !facts.comparison.is_empty() {
            page.preformatted(&facts.comparison);
        }
        if let Some(png) = optional(&run.join(HELD_OUT))? {
            page.picture(&png, "the most detailed part of the held-out imagery");
        }
        let pictures = validation_pictures(run)?;
        if !pictures.is_empty() {
            page.slider(&pictures);
        }
        page.table(
            &[],
            &facts.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect::<Vec<_>>(),
        );
        if let Some(yaml) = optional(&run.join("config.yaml"))? {
            page.details("config.yaml", &String::from_utf8_lossy(&yaml));
        }
    }
    Ok(page)
}

/// Whether a metric was measured: what is not is logged as 0.
fn is_measured(line: &Line) -> bool {
    line.points.iter().any(|(_, value)| *value != 0.0)
}

/// Table and pictures of an evaluation, if there was one.
fn add_evaluation(page: &mut Page, folder: &Path) -> Result<()> {
    let Some(text) = optional(&folder.join(EVALUATION_TEXT))? else { return Ok(()) };
    page.heading("Evaluation");
    page.preformatted(&String::from_utf8_lossy(&text));
    for (kind, words) in [("best", "most"), ("worst", "least")] {
        for number in 1.. {
            let Some(png) = optional(&folder.join(format!("{kind}-{number}.png")))? else { break };
            page.picture(&png, &format!("{kind}-{number}: a patch on which SR gains {words} over bicubic"));
        }
    }
    Ok(())
}

/// The pictures of validations, evenly over the run, with their captions.
fn validation_pictures(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = folder.join("val");
    let Ok(entries) = fs::read_dir(&folder) else { return Ok(Vec::new()) };
    let step = |name: &str| name.strip_prefix("step_")?.strip_suffix(".png")?.parse::<u64>().ok();
    let mut steps: Vec<u64> = entries.filter_map(|entry| step(entry.ok()?.file_name().to_str()?)).collect();
    steps.sort_unstable();
    let path = |step: u64| folder.join(format!("step_{step}.png"));
    let largest = steps.iter().filter_map(|s| Some(fs::metadata(path(*s)).ok()?.len())).max().unwrap_or(1).max(1);
    let count = PICTURES.min((PICTURE_BYTES / largest) as usize).max(1);
    let shown = spread(steps.len(), count).into_iter().map(|at| steps[at]);
    let read = |step: u64| Ok(optional(&path(step))?.map(|png| (format!("after step {step}"), png)));
    Ok(shown.map(read).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// At most `count` of `len` places, evenly, the last one among them.
pub(super) fn spread(len: usize, count: usize) -> Vec<usize> {
    match (len, count) {
        _ if len <= count => (0..len).collect(),
        (_, 1) => vec![len - 1],
        _ => (0..count).map(|i| i * (len - 1) / (count - 1)).collect(),
    }
}

/// A file that may be missing.
fn optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// The last part of a folder's path.
fn name(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// A name for each run: the folder's, or its path where several have the same.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let short: Vec<String> = runs.iter().map(|run| name(run)).collect();
    let is_alone = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let of = |(run, name): (&PathBuf, &String)| if is_alone(name) { name.clone() } else { run.display().to_string() };
    runs.iter().zip(&short).map(of).collect()
}
