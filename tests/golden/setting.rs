//! Where and in which arithmetic cases run, and what tolerances go with that.

use std::collections::BTreeMap;
use std::path::Path;

use srgan::device::collective::Ranks;
use srgan::device::cpu::Isa;
use srgan::device::cuda::host::{HostDriver, HostOptions};
use srgan::device::cuda::{GpuDriver, GpuOptions};
use srgan::runtime::{Cpu, Cuda, Device};
use srgan::types::Precision;
use srgan::{Error, Result, config};

/// Beside the cases: how far PyTorch's own runs in other precisions are from them.
const DISTANCES: &str = "precision_distances.json";
/// Distances of PyTorch's run that are added to `l2_tol`.
const SHARE: f64 = 3.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CPU device.
    Cpu,
    /// The CUDA device, its kernels run on the host.
    Host,
    /// The same with the kernels that only Hopper has, wherever there is one.
    Hopper,
    /// The CUDA device on a GPU.
    Cuda,
}

/// A device and the arithmetic of networks on it.
#[derive(Clone, Debug)]
pub struct Setting {
    pub place: Place,
    pub precision: Precision,
    /// Instruction set of the CPU device.
    pub isa: Isa,
    /// [`DISTANCES`]; null in f32, where nothing is added.
    distances: serde_json::Value,
}

impl Setting {
    /// The values of `SRGAN_GOLDEN_DEVICE` and `SRGAN_GOLDEN_PRECISION`, for the cases in `dir`.
    ///
    /// # Errors
    /// Values that there are not, a precision that the device does not compute in, distances that cannot be read.
    pub fn new(dir: &Path, device: &str, precision: &str) -> Result<Setting> {
        let place = match device {
            "cpu" => Place::Cpu,
            "host" => Place::Host,
            "hopper" => Place::Hopper,
            "cuda" => Place::Cuda,
            other => return Err(Error::usage(format!("SRGAN_GOLDEN_DEVICE={other}: it is cpu, cuda, host or hopper"))),
        };
        let precision = match precision {
            "f32" => Precision::F32,
            "tf32" => Precision::Tf32,
            "bf16" => Precision::Bf16,
            other => return Err(Error::usage(format!("SRGAN_GOLDEN_PRECISION={other}: it is f32, tf32 or bf16"))),
        };
        if place == Place::Cpu && precision != Precision::F32 {
            let message = format!("SRGAN_GOLDEN_PRECISION={precision}: the cpu device computes in f32 only");
            return Err(Error::usage(message).with_hint("set SRGAN_GOLDEN_DEVICE=host, or cuda on a GPU"));
        }
        let distances = if precision == Precision::F32 { serde_json::Value::Null } else { read_distances(dir)? };
        Ok(Setting { place, precision, isa: Isa::detect(), distances })
    }

    /// The same on another instruction set.
    pub fn with_isa(&self, isa: Isa) -> Setting {
        Setting { isa, ..self.clone() }
    }

    /// The CPU device as one of several ranks.
    pub fn device_among(&self, ranks: Ranks) -> Result<Box<dyn Device>> {
        Ok(Box::new(Cpu::new(1)?.with_isa(self.isa).among(ranks)))
    }

    pub fn device(&self) -> Result<Box<dyn Device>> {
        match self.place {
            Place::Cpu => Ok(Box::new(Cpu::new(2)?.with_isa(self.isa))),
            Place::Host | Place::Hopper => {
                let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_kernels");
                let warpgroups = self.place == Place::Hopper;
                let driver = HostDriver::new(&cache, HostOptions { warpgroups, ..HostOptions::default() })?;
                Ok(Box::new(Cuda::new(Box::new(driver))))
            }
            Place::Cuda => Ok(Box::new(Cuda::new(Box::new(gpu()?)))),
        }
    }

    /// The precision as a configuration asks for it.
    pub fn config_precision(&self) -> config::Precision {
        match self.precision {
            Precision::F32 => config::Precision::F32,
            Precision::Tf32 => config::Precision::Tf32,
            Precision::Bf16 => config::Precision::Bf16,
        }
    }

    /// The tolerances of a case whose file says `l2_tol`: in f32 these, else more by [`SHARE`] times the distance of
    /// PyTorch's own run in this precision.
    ///
    /// # Errors
    /// If that distance is not known of a tensor, or is not a distance.
    pub fn tolerances(&self, case: &str, l2_tol: BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>> {
        if self.precision == Precision::F32 {
            return Ok(l2_tol);
        }
        let precision = self.precision;
        let distances = &self.distances[case][precision.to_string()];
        let widened = l2_tol.into_iter().map(|(tensor, tol)| {
            let distance = distances[&tensor].as_f64().filter(|d| d.is_finite() && *d >= 0.0);
            let distance = distance.ok_or_else(|| {
                let message = format!("{DISTANCES} has no distance of {case}, {precision}, {tensor}");
                Error::usage(message).with_hint("run precision_distances.py on the folder of the cases")
            })?;
            Ok((tensor, tol + SHARE * distance))
        });
        widened.collect()
    }
}

/// `avx2`, `cuda`, `host, bf16`.
impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self.place {
            Place::Cpu => self.isa.kind().name(),
            Place::Host => "host",
            Place::Hopper => "hopper",
            Place::Cuda => "cuda",
        })?;
        if self.precision == Precision::F32 { Ok(()) } else { write!(f, ", {}", self.precision) }
    }
}

/// The first GPU.
pub fn gpu() -> Result<GpuDriver> {
    GpuDriver::new(GpuOptions::new(&|name| std::env::var_os(name)))
}

fn read_distances(dir: &Path) -> Result<serde_json::Value> {
    let path = dir.join(DISTANCES);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string()))
}

/// Shows that a setting that asks for nonsense, and a distance that is not known, are errors, never a tolerance.
pub fn check() {
    let dir = tempfile::tempdir().unwrap();
    let set = |device, precision| Setting::new(dir.path(), device, precision);
    let refused = |device, precision| set(device, precision).unwrap_err().to_string();
    assert!(refused("gpu", "f32").contains("it is cpu, cuda, host or hopper"));
    assert!(refused("host", "fp16").contains("it is f32, tf32 or bf16"));
    assert!(refused("cpu", "bf16").contains("the cpu device computes in f32 only"));
    assert!(refused("host", "bf16").contains(DISTANCES), "without a file of distances");

    let text = r#"{"known": {"bf16": {"a": 2.0, "null": null, "below": -1.0, "text": "0"}}}"#;
    std::fs::write(dir.path().join(DISTANCES), text).unwrap();
    let widen = |precision, case: &str, tensor: &str| {
        set("host", precision).unwrap().tolerances(case, BTreeMap::from([(tensor.to_owned(), 0.5)]))
    };
    assert_eq!(widen("f32", "unknown", "a").unwrap()["a"], 0.5);
    assert_eq!(widen("bf16", "known", "a").unwrap()["a"], 6.5);
    let cases = [
        ("bf16", "unknown", "a"),
        ("tf32", "known", "a"),
        ("bf16", "known", "b"),
        ("bf16", "known", "null"),
        ("bf16", "known", "below"),
        ("bf16", "known", "text"),
    ];
    for (precision, case, tensor) in cases {
        let error = widen(precision, case, tensor).unwrap_err().to_string();
        assert!(error.contains(&format!("no distance of {case}, {precision}, {tensor}")), "{error}");
    }
}
