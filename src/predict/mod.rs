//! `srgan predict`: maps of whole scenes. A scene is cut into windows ([`tiling`], [`axis`]), each row of windows goes
//! through the generator ([`stitch`]) to a working file ([`work`]), and the map is made of that at the end ([`finished`],
//! [`cog`]). What decides the map's bytes is a [`job`]: the same job gives the same bytes in one piece, resumed or from
//! shards.

mod axis;
mod cog;
mod contract;
mod fill;
mod finished;
mod geo;
mod job;
mod matching;
mod merge;
mod model;
mod npy;
mod outputs;
mod preview;
mod run;
mod scene;
mod stitch;
mod tiling;
mod values;
mod work;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use merge::{MergeOptions, merge};
pub(crate) use run::Loaded;
pub use run::{predict, predict_on};

/// How windows that share more than the network needs are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blend {
    /// Weights that rise as half a cosine wave.
    #[default]
    Cosine,
    /// Weights that rise linearly.
    Linear,
    /// A cut in the middle.
    None,
}

/// What a map's values are matched with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// Nothing: they are the network's.
    #[default]
    None,
    /// The distribution of each band in the scene.
    Histogram,
    /// Mean and standard deviation of each band in the scene.
    Moments,
}

/// How a GeoTIFF's tiles are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// By deflate, which every reader knows.
    #[default]
    Deflate,
    /// By Zstandard: faster, and smaller.
    Zstd,
    /// Not at all.
    None,
}

/// A share of a map, for a job array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which, from 1.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let parse = |text: &str| text.parse::<usize>().ok();
        let part = text.split_once('/').and_then(|(i, n)| Some(Part { index: parse(i)?, count: parse(n)? }));
        part.filter(|part| (1..=part.count).contains(&part.index))
            .ok_or_else(|| format!("{text:?} is no part: the third of eight is 3/8"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index, self.count)
    }
}

/// What is asked of a map.
#[derive(Clone, Debug, Default)]
pub struct PredictOptions {
    /// Checkpoint, or the folder of a run.
    pub checkpoint: PathBuf,
    /// Configuration of a checkpoint that holds none, as those of opensr-srgan.
    pub config: Option<PathBuf>,
    /// Overrides of the checkpoint's configuration: where to run, and in which precision.
    pub overrides: Vec<String>,
    /// Bands of the scene by number from 0 or by name, separated by commas; `None` is the configuration's.
    pub bands: Option<String>,
    /// Pixels along the side of a window; `None` lets the network decide.
    pub window: Option<usize>,
    /// Pixels that neighbouring windows share; `None` lets the network decide.
    pub overlap: Option<usize>,
    /// How windows are joined.
    pub blend: Blend,
    /// Windows that go through the network at once; `None` lets the device decide.
    pub batch: Option<usize>,
    /// Make this part only.
    pub part: Option<Part>,
    /// What values are matched with.
    pub matching: Matching,
    /// How tiles are compressed.
    pub compression: Compression,
    /// Also draw a picture.
    pub preview: bool,
    /// Go on with an unfinished map; one that is finished is left alone.
    pub resume: bool,
    /// Replace what is there.
    pub overwrite: bool,
    /// Accept values that the network was not trained for.
    pub force: bool,
    /// Use the live weights although there are averaged ones.
    pub live: bool,
}
