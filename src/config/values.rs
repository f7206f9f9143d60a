//! Value types of the schema that are more than a name.

use std::path::PathBuf;

use super::choice::closest;
use super::field::Scalar;
use super::kind::Kind;
use super::tree::{Content, Node, Plain, Wrong, shortened};
use crate::metrics::Metric;

/// Whether to continue an earlier run (`Training.resume`): `false`, `auto` or a checkpoint's path.
#[derive(Clone, Debug, PartialEq)]
pub enum Resume {
    /// Start a new run.
    Never,
    /// Continue the newest run of the project; with none yet, start one.
    Auto,
    /// Continue from this checkpoint.
    From(PathBuf),
}

/// The files of a scene (`Data.scenes`): one, or several whose bands follow each other.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneFiles(Vec<PathBuf>);

impl SceneFiles {
    /// The files, at least one.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl<const N: usize> From<[&str; N]> for SceneFiles {
    fn from(files: [&str; N]) -> Self {
        SceneFiles(files.map(PathBuf::from).to_vec())
    }
}

/// How often to validate (`Training.val_check_interval`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValInterval {
    /// After this share of an epoch, in (0, 1]; written as a number with a point.
    Fraction(f64),
    /// After this many steps; written as a whole number.
    Steps(u64),
}

/// How much validation data to use (`Training.limit_val_batches`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BatchLimit {
    /// This share of the batches, in [0, 1], at least one unless it is 0; written as a number with a point.
    Fraction(f64),
    /// At most this many batches; written as a whole number.
    Batches(u64),
}

/// CUDA devices by number (`Training.gpus`); never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpus(Vec<usize>);

impl Gpus {
    /// The devices' numbers, at least one.
    pub fn ids(&self) -> &[usize] {
        &self.0
    }
}

impl Default for Gpus {
    fn default() -> Self {
        Gpus(vec![0])
    }
}

/// Where the moving average of the weights is kept (`Training.EMA.device`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmaDevice {
    /// Host memory.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

/// A metric that a schedule can watch, by its name.
impl Scalar for Metric {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let name = String::parse(node)?;
        if let Some(metric) = Metric::watchable().find(|metric| metric.name() == name) {
            return Ok(metric);
        }
        let names: Vec<&str> = Metric::watchable().map(Metric::name).collect();
        let meant = closest(&name, names.iter().copied()).map(|meant| format!("; did you mean `{meant}`?"));
        let (name, meant) = (shortened(&name), meant.unwrap_or_default());
        Err(Wrong::new(format!("`{name}` is not one of {}{meant}", names.join(", "))))
    }

    fn kind() -> Kind {
        Kind::names(Metric::watchable().map(Metric::name))
    }

    fn emit(&self) -> String {
        self.name().to_owned().emit()
    }
}

impl Scalar for SceneFiles {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let files: Vec<PathBuf> = Vec::parse(node)?;
        if files.is_empty() {
            return Err(Wrong::new("a scene without files"));
        }
        Ok(SceneFiles(files))
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::Path, Kind::List(Box::new(Kind::Path), None)])
    }

    fn emit(&self) -> String {
        match self.0.as_slice() {
            [file] => file.emit(),
            _ => self.0.emit(),
        }
    }
}

impl Scalar for Resume {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match node.text() {
            Some(text) if text.trim().eq_ignore_ascii_case("auto") => Ok(Resume::Auto),
            _ if node.plain() == Some(Plain::Bool(true)) => Ok(Resume::Auto),
            _ if PathBuf::says_none(node) => Ok(Resume::Never),
            Some(text) => Ok(Resume::From(text.into())),
            None => Err(Wrong::type_of(node, "false, auto or a checkpoint's path")),
        }
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::Switch, Kind::names(["auto"]), Kind::Path])
    }

    fn emit(&self) -> String {
        match self {
            Resume::Never => "false".into(),
            Resume::Auto => "auto".into(),
            Resume::From(path) => path.emit(),
        }
    }
}

/// A number with a point is a share, a whole number is a count.
enum ShareOrCount {
    Share(f64),
    Count(u64),
}

impl ShareOrCount {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match node.plain() {
            Some(Plain::Int(_)) => u64::parse(node).map(Self::Count),
            _ => f64::parse(node).map(Self::Share),
        }
    }
}

impl Scalar for ValInterval {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match ShareOrCount::parse(node)? {
            ShareOrCount::Share(share) if share > 0.0 && share <= 1.0 => Ok(ValInterval::Fraction(share)),
            ShareOrCount::Count(steps) if steps > 0 => Ok(ValInterval::Steps(steps)),
            _ => Err(Wrong::type_of(node, "a share of an epoch above 0 and up to 1.0, or a whole number of steps")),
        }
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::Number, Kind::Whole])
    }

    fn emit(&self) -> String {
        match self {
            ValInterval::Fraction(share) => share.emit(),
            ValInterval::Steps(steps) => steps.emit(),
        }
    }
}

impl Scalar for BatchLimit {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match ShareOrCount::parse(node)? {
            ShareOrCount::Share(share) if (0.0..=1.0).contains(&share) => Ok(BatchLimit::Fraction(share)),
            ShareOrCount::Count(batches) => Ok(BatchLimit::Batches(batches)),
            ShareOrCount::Share(_) => {
                Err(Wrong::type_of(node, "a share of the batches from 0.0 to 1.0, or a whole number of batches"))
            }
        }
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::Number, Kind::Whole])
    }

    fn emit(&self) -> String {
        match self {
            BatchLimit::Fraction(share) => share.emit(),
            BatchLimit::Batches(batches) => batches.emit(),
        }
    }
}

impl Scalar for Gpus {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        const MAX: usize = 1024;
        let ids: Vec<usize> = match &node.content {
            Content::Scalar { .. } => (0..usize::parse(node)?.min(MAX + 1)).collect(),
            _ => Vec::parse(node)?,
        };
        match ids.iter().enumerate().find(|(at, id)| ids[..*at].contains(id)) {
            Some((_, twice)) => Err(Wrong::new(format!("device {twice} is listed twice"))),
            None if ids.len() > MAX => Err(Wrong::new(format!("at most {MAX} devices can be named"))),
            None if ids.is_empty() => Ok(Gpus::default()),
            None => Ok(Gpus(ids)),
        }
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::Whole, Kind::List(Box::new(Kind::Whole), None)])
    }

    fn emit(&self) -> String {
        self.0.emit()
    }
}

impl Scalar for EmaDevice {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        match node.text().map(|text| text.trim().to_lowercase()).as_deref() {
            Some("cpu") => Ok(EmaDevice::Cpu),
            Some("cuda" | "gpu") => Ok(EmaDevice::Cuda(0)),
            Some(text) if text.starts_with("cuda:") => text["cuda:".len()..]
                .parse()
                .map(EmaDevice::Cuda)
                .map_err(|_| Wrong::type_of(node, "cpu or cuda:<number>")),
            _ => Err(Wrong::type_of(node, "cpu or cuda:<number>")),
        }
    }

    fn kind() -> Kind {
        Kind::Text
    }

    fn emit(&self) -> String {
        match self {
            EmaDevice::Cpu => "cpu".into(),
            EmaDevice::Cuda(id) => format!("\"cuda:{id}\""),
        }
    }
}
