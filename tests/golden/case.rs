//! A case's file: its config, tensors and tolerances, and the comparison with what the runner computed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use srgan::checkpoint::TensorFile;
use srgan::config::Config;
use srgan::types::Shape;
use srgan::{Error, Result};

use crate::setting::Setting;

/// One case, and where it runs.
pub struct Case<'s> {
    pub name: String,
    pub path: PathBuf,
    pub setting: &'s Setting,
    pub kind: String,
    pub cfg: Config,
    pub tol: BTreeMap<String, f64>,
    pub extra: serde_json::Value,
    pub file: TensorFile,
    pub shapes: HashMap<String, Vec<usize>>,
}

/// Distances found so far, as (tensor, distance, tolerance).
#[derive(Default)]
pub struct Findings(pub Vec<(String, f64, f64)>);

impl<'s> Case<'s> {
    pub fn open(path: &Path, setting: &'s Setting) -> Result<Case<'s>> {
        let file = TensorFile::open(path)?;
        let text = file.metadata().get("case").ok_or_else(|| Error::data(path, "no metadata key \"case\""))?;
        let case: serde_json::Value = serde_json::from_str(text).map_err(|e| Error::data(path, e.to_string()))?;
        let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
        let (mut cfg, _) = Config::from_yaml(&text("config"), Some(path), &[])?;
        cfg.training.precision = setting.config_precision();
        let tol = case["l2_tol"].as_object().into_iter().flatten();
        let tol = tol.map(|(k, v)| (k.clone(), v.as_f64().unwrap_or(0.0))).collect();
        let tol = setting.tolerances(&text("name"), tol)?;
        let shapes = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        Ok(Case {
            name: text("name"),
            path: path.to_owned(),
            setting,
            kind: text("kind"),
            cfg,
            tol,
            extra: case,
            file,
            shapes,
        })
    }

    /// An image tensor (N,C,H,W in the file) in NHWC, with its extent.
    pub fn image(&mut self, name: &str) -> Result<(Shape, Vec<f32>)> {
        let dims = self.shapes.get(name).cloned().unwrap_or_default();
        let [n, c, h, w] = dims[..] else {
            return Err(Error::Internal(format!("{}: {name} is not an image", self.name)));
        };
        let nchw = self.file.read(name)?;
        Ok((Shape([n, h, w, c]), to_nhwc(&nchw, [n, h, w, c])))
    }

    /// A tensor of the file, or one that the file only names and whose values follow from a formula (`make_ranks.py`).
    pub fn initial(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let is_formula = self.extra["formula"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
        if is_formula { Ok(formula(name, shape)) } else { self.file.read(&format!("init.{name}")) }
    }

    /// Compares a tensor in the file's order.
    pub fn compare(&mut self, findings: &mut Findings, name: &str, got: &[f32]) -> Result<()> {
        let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
        self.compare_f64(findings, name, &got)
    }

    pub fn compare_f64(&mut self, findings: &mut Findings, name: &str, got: &[f64]) -> Result<()> {
        let Some(tol) = self.tol.remove(name) else { return Ok(()) };
        let want = self.file.read(name)?;
        let distance = if want.len() == got.len() {
            want.iter().zip(got).map(|(w, g)| (f64::from(*w) - g).powi(2)).sum::<f64>().sqrt()
        } else {
            f64::NAN
        };
        findings.0.push((name.to_owned(), distance, tol));
        Ok(())
    }

    /// Compares an image given in NHWC.
    pub fn compare_image(&mut self, findings: &mut Findings, name: &str, got: &[f32], shape: Shape) -> Result<()> {
        let is_matrix = self.shapes.get(name).is_some_and(|s| s.len() == 2);
        if is_matrix { self.compare(findings, name, got) } else { self.compare(findings, name, &to_nchw(got, shape)) }
    }
}

/// Element i is b(2u − 1), u = hash(i + hash(name)) / 2³², b = √(6 / fan-in).
fn formula(name: &str, shape: &[usize]) -> Vec<f32> {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325, hash) as u32;
    let bound = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
    let value = |i: u32| {
        let mix = |x: u32, (shift, factor): (u32, u32)| (x ^ (x >> shift)).wrapping_mul(factor);
        let x = [(16, 0x7FEB_352D), (15, 0x846C_A68B), (16, 1)].into_iter().fold(i.wrapping_add(seed), mix);
        (bound * (2.0 * (f64::from(x) / 4_294_967_296.0) - 1.0)) as f32
    };
    (0..shape.iter().product::<usize>() as u32).map(value).collect()
}

pub fn to_nhwc(nchw: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    let mut out = Vec::with_capacity(nchw.len());
    for i in 0..n {
        for p in 0..h * w {
            out.extend((0..c).map(|k| nchw[(i * c + k) * h * w + p]));
        }
    }
    out
}

fn to_nchw(nhwc: &[f32], shape: Shape) -> Vec<f32> {
    let [n, h, w, c] = shape.0;
    let mut out = Vec::with_capacity(nhwc.len());
    for i in 0..n {
        for k in 0..c {
            out.extend((0..h * w).map(|p| nhwc[(i * h * w + p) * c + k]));
        }
    }
    out
}
