//! A case's file: its config, tensors and tolerances, and the comparison with what the runner computed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use srgan::checkpoint::TensorFile;
use srgan::config::Config;
use srgan::types::Shape;
use srgan::{Error, Result};

use crate::setting::Setting;

/// One case, and where it runs.
pub struct Case<'s> {
    pub name: String,
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
        Ok(Case { name: text("name"), setting, kind: text("kind"), cfg, tol, extra: case, file, shapes })
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
