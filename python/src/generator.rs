//! A trained generator.

use std::path::PathBuf;

use engine::embed::{self, OpenOptions, Pixels};
use engine::predict::{Blend, Compression, Matching, PredictOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::caller::{Listener, messages};
use crate::raised;

/// A generator on a device.
#[pyclass(frozen, module = "srgan._srgan")]
pub(crate) struct Generator(embed::Generator);

/// How a scene is mapped.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MapOptions {
    bands: Option<String>,
    window: Option<usize>,
    overlap: Option<usize>,
    blend: String,
    batch: Option<usize>,
    part: Option<String>,
    r#match: String,
    compress: String,
    preview: bool,
    resume: bool,
    overwrite: bool,
    force: bool,
}

/// The choice that a name stands for.
fn named<T: Copy>(name: &str, option: &str, choices: &[(&str, T)]) -> PyResult<T> {
    let known = choices.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice);
    known.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        PyValueError::new_err(format!("{option} is {name:?}, and must be one of {}", names.join(", ")))
    })
}

impl MapOptions {
    fn options(self) -> PyResult<PredictOptions> {
        let part = self.part.map(|part| part.parse().map_err(PyValueError::new_err)).transpose()?;
        if self.window == Some(0) || self.batch == Some(0) {
            return Err(PyValueError::new_err("window and batch must be at least 1"));
        }
        if self.overwrite && self.resume {
            return Err(PyValueError::new_err("overwrite and resume exclude each other"));
        }
        let blends = [("cosine", Blend::Cosine), ("linear", Blend::Linear), ("none", Blend::None)];
        let matchings = [("none", Matching::None), ("histogram", Matching::Histogram), ("moments", Matching::Moments)];
        let compressions =
            [("deflate", Compression::Deflate), ("zstd", Compression::Zstd), ("none", Compression::None)];
        Ok(PredictOptions {
            bands: self.bands,
            window: self.window,
            overlap: self.overlap,
            blend: named(&self.blend, "blend", &blends)?,
            batch: self.batch,
            part,
            matching: named(&self.r#match, "match", &matchings)?,
            compression: named(&self.compress, "compress", &compressions)?,
            preview: self.preview,
            resume: self.resume,
            overwrite: self.overwrite,
            force: self.force,
            ..PredictOptions::default()
        })
    }
}

#[pymethods]
impl Generator {
    #[staticmethod]
    fn open(
        py: Python<'_>,
        checkpoint: PathBuf,
        config: Option<PathBuf>,
        overrides: Vec<String>,
        live: bool,
        program: Option<PathBuf>,
    ) -> PyResult<Generator> {
        let options = OpenOptions { config, overrides, live, program, messages: None };
        let opened = py.detach(|| embed::Generator::open(&checkpoint, &options));
        opened.map(Generator).map_err(|e| raised(py, &e))
    }

    #[getter]
    fn bands(&self) -> usize {
        self.0.bands()
    }

    #[getter]
    fn band_names(&self) -> Vec<String> {
        self.0.band_names().to_vec()
    }

    #[getter]
    fn scale(&self) -> usize {
        self.0.scale()
    }

    #[getter]
    fn step(&self) -> u64 {
        self.0.step()
    }

    #[getter]
    fn normalisation(&self) -> &'static str {
        self.0.normalisation()
    }

    #[getter]
    fn description(&self) -> &str {
        self.0.description()
    }

    fn config_json(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.0.config().to_json().map_err(|e| raised(py, &e))?.to_string())
    }

    /// SR of `lr`, whose shape is images and (rows, columns).
    fn run<'py>(
        &self,
        py: Python<'py>,
        lr: &[u8],
        shape: (usize, (usize, usize)),
        raw: bool,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        let pixels = if raw { Pixels::Raw } else { Pixels::Normalised };
        let listener = Listener::default();
        let result = py.detach(|| {
            let lr: Vec<f32> = bytemuck::pod_collect_to_vec(lr);
            let mut sr = vec![0f32; lr.len() * self.0.scale().pow(2)];
            let mut wants_stop = || listener.is_interrupted();
            self.0.run((&lr, &mut sr), shape, pixels, &mut wants_stop).map(|()| sr)
        });
        listener.raise()?;
        let sr = result.map_err(|e| raised(py, &e))?;
        Ok(PyByteArray::new(py, bytemuck::cast_slice(&sr)))
    }

    /// Maps a scene; the map's path.
    fn predict(
        &self,
        py: Python<'_>,
        scene: PathBuf,
        out: PathBuf,
        options: MapOptions,
        stderr: Option<Py<PyAny>>,
    ) -> PyResult<PathBuf> {
        let (options, messages) = (options.options()?, messages(stderr));
        let listener = Listener::default();
        let result = py.detach(|| {
            let mut wants_stop = || listener.is_interrupted();
            self.0.predict((&scene, &out), &options, Some(messages), &mut wants_stop)
        });
        listener.raise()?;
        result.map_err(|e| raised(py, &e))
    }
}
