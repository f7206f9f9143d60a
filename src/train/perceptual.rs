//! What the perceptual term takes from outside: the bands that it sees, and the weights of its network, which users
//! download once, as torchvision does.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::session::Session;
use crate::checkpoint::{TensorFile, compare_architecture};
use crate::config::{Config, PerceptualMetric};
use crate::device::cuda::libraries::search::Env;
use crate::nn::PERCEPTUAL_BANDS;
use crate::rng::{Rng, Stream};
use crate::runtime::PlanId;
use crate::{Error, Result, nn};

/// Input slot of bands that are drawn, (3,1,1,B): a row for each of the network's bands, with a 1 for the image's.
pub const BANDS_SLOT: &str = "perceptual_bands";

/// Which bands of an image the network sees, which takes three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bands {
    /// The image's three.
    All,
    /// These.
    Fixed([usize; PERCEPTUAL_BANDS]),
    /// Three that are drawn anew for each batch.
    Drawn,
}

impl Bands {
    /// As opensr-srgan does: `fixed_idx` counts for images of more than three bands.
    pub fn of(cfg: &Config) -> Bands {
        match (cfg.model.in_bands, cfg.training.losses.fixed_idx) {
            (1, _) => Bands::Fixed([0; PERCEPTUAL_BANDS]),
            (2, _) => Bands::Fixed([0, 1, 0]),
            (PERCEPTUAL_BANDS, _) => Bands::All,
            (_, Some(bands)) => Bands::Fixed(bands),
            (_, None) => Bands::Drawn,
        }
    }

    /// The matrix that picks `bands` of `count`, (3,1,1,count).
    pub fn matrix(bands: [usize; PERCEPTUAL_BANDS], count: usize) -> Vec<f32> {
        let mut matrix = vec![0.0; PERCEPTUAL_BANDS * count];
        bands.iter().enumerate().for_each(|(row, band)| matrix[row * count + band] = 1.0);
        matrix
    }

    /// The matrix of three different bands, drawn for (`stream`, `step`, `sample`).
    fn drawn(cfg: &Config, stream: Stream, step: u64, sample: u32) -> Vec<f32> {
        let count = cfg.model.in_bands;
        let mut rng = Rng::new(cfg.training.seed, stream, step, sample);
        let mut left: Vec<usize> = (0..count).collect();
        let bands = [(); PERCEPTUAL_BANDS].map(|()| left.swap_remove(rng.below(left.len() as u32) as usize));
        Bands::matrix(bands, count)
    }

    /// Gives a plan the bands drawn for (`stream`, `step`, `sample`), if it takes any.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn upload(session: &mut Session, plan: PlanId, (stream, step, sample): (Stream, u64, u32)) -> Result<()> {
        if !session.device().plan(plan).has_input(BANDS_SLOT) {
            return Ok(());
        }
        let bands = Bands::drawn(session.config(), stream, step, sample);
        session.upload(plan, BANDS_SLOT, bytemuck::cast_slice(&bands))
    }
}

/// The folder in which torchvision keeps the files that it downloads: `hub/checkpoints` in `TORCH_HOME`, in
/// `XDG_CACHE_HOME/torch` or in `~/.cache/torch`.
pub fn torch_hub(env: Env) -> Option<PathBuf> {
    let folder = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // As torch does, also where no shell has.
    let expanded = |path: PathBuf| match path.strip_prefix("~") {
        Ok(rest) => folder("HOME").map(|home| home.join(rest)),
        Err(_) => Some(path),
    };
    let home = folder("TORCH_HOME").and_then(expanded).or_else(|| {
        let cache = folder("XDG_CACHE_HOME").and_then(expanded);
        cache.or_else(|| folder("HOME").map(|home| home.join(".cache"))).map(|cache| cache.join("torch"))
    });
    home.map(|home| home.join("hub/checkpoints"))
}

/// LPIPS's weights of AlexNet's channels.
static LPIPS_LINEAR: &[u8] = include_bytes!("../../data/lpips_alex.safetensors");

/// Name of a network in messages, and torchvision's file of its weights.
fn published(metric: PerceptualMetric) -> (&'static str, &'static str) {
    match metric {
        PerceptualMetric::Vgg => ("VGG-19", "vgg19-dcbb9e9d.pth"),
        PerceptualMetric::Lpips => ("AlexNet", "alexnet-owt-7be5be79.pth"),
    }
}

/// The file with the weights of a config's perceptual network, checked against its table.
#[derive(Debug)]
pub struct PerceptualWeights {
    network: String,
    path: PathBuf,
    file: TensorFile,
}

impl PerceptualWeights {
    /// Opens the file that the config names, or the one in `hub`, the folder of torchvision's downloads; `None` for a
    /// config without the term.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none, with how to get it; [`Error::Checkpoint`] if it is cut, of another kind, or
    /// of another network.
    pub fn open(cfg: &Config, hub: Option<&Path>) -> Result<Option<Self>> {
        let losses = &cfg.training.losses;
        if !losses.has_perceptual() {
            return Ok(None);
        }
        let (network, name) = published(losses.perceptual_metric);
        let kept = || hub.map(|hub| hub.join(name)).filter(|path| path.exists());
        let path = losses.perceptual_file.clone().or_else(kept).ok_or_else(|| missing(cfg, hub))?;
        let file = TensorFile::open(&path)?;
        let layout = nn::perceptual_layout(cfg)?;
        let shapes = layout.params.iter().map(|p| (layout.bare_name(p).to_owned(), p.file_shape()));
        let expected: Vec<_> = shapes.filter(|(name, _)| is_of_file(name)).collect();
        let wanted = |name: &str| expected.iter().any(|(n, _)| n == name);
        let entries = file.entries().iter().filter(|e| wanted(&e.name));
        let found: Vec<_> = entries.map(|e| (e.name.clone(), e.shape.clone())).collect();
        if let Some(table) = compare_architecture(&expected, &found) {
            return Err(Error::checkpoint(
                &path,
                format!("its tensors are not those of torchvision's {network}\n{table}"),
            )
            .with_hint(format!("the file is {URL}{name}, or its state dict as .safetensors")));
        }
        expected.iter().try_for_each(|(name, _)| file.check(name))?;
        Ok(Some(PerceptualWeights { network: describe(cfg), path, file }))
    }

    /// The network and what it sees, in words.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the weights to a session of the same config.
    ///
    /// # Errors
    /// Fails if the data cannot be read, or the device fails.
    pub fn load(mut self, session: &mut Session) -> Result<()> {
        session.set_perceptual(|name| {
            if !is_of_file(name) {
                return linear(name);
            }
            let values = self.file.read(name)?;
            if values.iter().all(|v| v.is_finite()) {
                return Ok(values);
            }
            let message = format!("tensor {name} has a number that is not finite");
            Err(Error::checkpoint(&self.path, message).with_hint("the file is damaged: fetch it again"))
        })
    }
}

/// Whether a tensor comes from torchvision's file.
fn is_of_file(name: &str) -> bool {
    name.starts_with("features.")
}

/// One of LPIPS's own tensors, which this program holds.
///
/// # Errors
/// If there is none of this name.
pub fn linear(name: &str) -> Result<Vec<f32>> {
    let fault = |e: &dyn std::fmt::Display| Error::Internal(format!("LPIPS's tensor {name}: {e}"));
    let all = SafeTensors::deserialize(LPIPS_LINEAR).map_err(|e| fault(&e))?;
    let tensor = all.tensor(name).map_err(|e| fault(&e))?;
    Ok(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// `VGG-19 to relu5_4 on bands 0, 1, 2`.
fn describe(cfg: &Config) -> String {
    let cut = &cfg.truncated_vgg;
    let network = match cfg.training.losses.perceptual_metric {
        PerceptualMetric::Vgg => format!("VGG-19 to relu{}_{}", cut.i, cut.j),
        PerceptualMetric::Lpips => "LPIPS on AlexNet".to_owned(),
    };
    match Bands::of(cfg) {
        Bands::All => network,
        Bands::Fixed(bands) => format!("{network} on bands {}", bands.map(|b| b.to_string()).join(", ")),
        Bands::Drawn => format!("{network} on three bands drawn for each batch"),
    }
}

/// Where torchvision downloads weights from.
const URL: &str = "https://download.pytorch.org/models/";

fn missing(cfg: &Config, hub: Option<&Path>) -> Error {
    let (network, name) = published(cfg.training.losses.perceptual_metric);
    let rest =
        "name its file by Training.Losses.perceptual_file, or train without: Training.Losses.perceptual_weight=0";
    let (found, hint) = match hub.map(|hub| hub.join(name)) {
        Some(path) => {
            let path = path.display();
            let fetch = format!("fetch it once:\n    curl --create-dirs -o \"{path}\" {URL}{name}");
            (format!("there is no {path}"), format!("{fetch}\n  or {rest}"))
        }
        None => ("no folder of torchvision's is known".to_owned(), format!("fetch {URL}{name} and {rest}")),
    };
    let message = format!("needs the weights of {network}, and {found}");
    Error::config("Training.Losses.perceptual_weight", message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_yaml(text, None, &[]).unwrap().0
    }

    #[test]
    fn bands_are_those_of_opensr_srgan() {
        let of = |bands: usize, idx: &str| Bands::of(&config(&format!("Model: {{in_bands: {bands}}}\n{idx}")));
        assert_eq!([of(1, ""), of(2, ""), of(3, "")], [Bands::Fixed([0; 3]), Bands::Fixed([0, 1, 0]), Bands::All]);
        let fixed = "Training: {Losses: {fixed_idx: [2, 1, 0]}}";
        assert_eq!([of(3, fixed), of(4, fixed), of(4, "")], [Bands::All, Bands::Fixed([2, 1, 0]), Bands::Drawn]);
        assert_eq!(Bands::matrix([3, 0, 3], 4), [0., 0., 0., 1., 1., 0., 0., 0., 0., 0., 0., 1.]);
    }

    #[test]
    fn three_different_bands_are_drawn_and_all_come() {
        let cfg = config("Model: {in_bands: 5}");
        let mut counts = [0; 5];
        for step in 0..500 {
            let drawn = Bands::drawn(&cfg, Stream::PerceptualBands, step, 0);
            assert_eq!(drawn, Bands::drawn(&cfg, Stream::PerceptualBands, step, 0));
            for (band, count) in counts.iter_mut().enumerate() {
                let column: f32 = drawn.iter().skip(band).step_by(5).sum();
                assert!(column == 0.0 || column == 1.0, "{drawn:?}");
                *count += column as i32;
            }
            assert!(drawn.chunks(5).all(|row| row.iter().sum::<f32>() == 1.0), "{drawn:?}");
        }
        // 300 of 500 each, with a standard deviation of 11.
        assert!(counts.iter().all(|c| (250..350).contains(c)), "{counts:?}");
    }

    #[test]
    fn the_networks_are_those_of_torchvision() {
        let layout = |text: &str| {
            let cfg =
                config(&format!("Model: {{in_bands: 3}}\nTraining: {{Losses: {{perceptual_weight: 1, {text}}}}}"));
            nn::perceptual_layout(&cfg).unwrap()
        };
        let convolutions = |layout: &nn::Layout| -> Vec<usize> {
            let weights = layout.params.iter().filter_map(|p| layout.bare_name(p).strip_suffix(".weight"));
            weights.filter_map(|name| name.strip_prefix("features.")?.parse().ok()).collect()
        };
        // The parameters of torchvision's `features`, and of lpips's `lins`.
        let vgg = layout("");
        assert_eq!(convolutions(&vgg), [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]);
        assert_eq!(vgg.param_count(), 20_024_384);
        let lpips = layout("perceptual_metric: lpips");
        assert_eq!((convolutions(&lpips), lpips.param_count()), (vec![0, 3, 6, 8, 10], 2_469_696 + 1152));
        let linear = lpips.params.iter().map(|p| lpips.bare_name(p)).filter(|name| name.starts_with("lin"));
        assert_eq!(linear.map(linear_count).sum::<usize>(), 1152);
    }

    fn linear_count(name: &str) -> usize {
        let values = linear(name).unwrap();
        assert!(values.iter().all(|v| *v >= 0.0) && values.iter().any(|v| *v > 0.1));
        values.len()
    }
}
