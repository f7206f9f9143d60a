//! Values that are one of a few names, with the aliases that opensr-srgan accepts.

use super::field::Scalar;
use super::kind::{Kind, Name, text_of};
use super::tree::{Node, Wrong, shortened};

/// An enum with names in YAML; implemented by `choice!`.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Each value with its names; the first is the one written.
    const NAMES: &'static [(Self, &'static [&'static str])];

    /// The lines of each value's doc comment.
    const DOCS: &'static [&'static [&'static str]];

    /// The value with this name or alias.
    fn from_name(name: &str) -> Option<Self> {
        let name = normalise(name);
        Self::NAMES.iter().find(|(_, names)| names.iter().any(|n| normalise(n) == name)).map(|(value, _)| *value)
    }
}

/// Case, surrounding space, and the difference between space, hyphen and underscore do not count.
fn normalise(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

impl<T: Choice> Scalar for T {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let text = node.text().ok_or_else(|| Wrong::type_of(node, "a name"))?;
        T::from_name(text).ok_or_else(|| {
            let valid: Vec<_> = T::NAMES.iter().map(|(_, names)| names[0]).collect();
            let aliases = T::NAMES.iter().flat_map(|(_, names)| names.iter().copied());
            let wrong = Wrong::new(format!("`{}` is not one of {}", shortened(text), valid.join(", ")));
            match closest(text, aliases) {
                Some(name) => wrong.hint(format!("did you mean `{name}`?")),
                None => wrong,
            }
        })
    }

    fn emit(&self) -> String {
        let names = T::NAMES.iter().find(|(value, _)| value == self).map_or(&[][..], |(_, names)| names);
        names.first().copied().unwrap_or_default().to_owned()
    }

    fn kind() -> Kind {
        let name = |((_, names), doc): (&(T, &'static [&'static str]), &&[&str])| Name {
            name: names.first().copied().unwrap_or_default(),
            aliases: names.iter().skip(1).copied().filter(|alias| !alias.is_empty()).collect(),
            meaning: text_of(doc).0,
        };
        Kind::Names(T::NAMES.iter().zip(T::DOCS).map(name).collect())
    }
}

/// The candidate that is most like `text`, if one is like it at all.
pub(crate) fn closest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = normalise(text);
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&text, &normalise(candidate)), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

choice! {
    /// Where samples come from (`Data.dataset_type`).
    pub enum DatasetType {
        /// A folder of `hr_*.npz`; LR is made by bicubic interpolation.
        Example = "ExampleDataset" | "example";
        /// `{train,val,test}/{LR,HR}` folders of files paired by name.
        LrHrFolder = "LRHRFolderDataset" | "lr_hr_folder";
        /// Whole scenes, cut into random patches.
        Scenes = "Scenes";
    }
}

choice! {
    /// How stored pixel values become network input (`Data.normalization`).
    pub enum Normalization {
        /// × 10/3.
        Sen2Stretch = "sen2_stretch";
        /// 0 … 10000 to 0 … 1.
        Normalise10k = "normalise_10k" | "normalize_10k" | "reflectance" | "reflectance_0_1" | "sentinel2" | "s2";
        /// 0 … 10000 to −1 … 1.
        Normalise10kSigned = "normalise_10k_signed" | "normalize_10k_signed" | "reflectance_signed" | "sentinel2_signed"
            | "s2_signed";
        /// Sentinel-2 stretch to −1 … 1.
        NormaliseS2 = "normalise_s2" | "normalize_s2";
        /// Clamped to 0 … 1.
        ZeroOne = "zero_one" | "zero_to_one" | "zero_one_range";
        /// 0 … 1 to −1 … 1.
        ZeroOneSigned = "zero_one_signed" | "signed_zero_one" | "minusone_one";
        /// Unchanged.
        Identity = "identity" | "none";
    }
}

choice! {
    /// Order of the axes in array files (`Data.layout`).
    pub enum Layout {
        /// Height, width, band.
        Hwc = "HWC";
        /// Band, height, width.
        Chw = "CHW";
    }
}

choice! {
    /// What masks of files do (`Data.mask`).
    pub enum MaskUse {
        /// Masked pixels have no value: no patch touches them.
        Auto = "auto";
        /// They are pixels like others.
        Ignore = "ignore";
    }
}

choice! {
    /// How LR is made from HR (`Data.degradation`).
    pub enum Degradation {
        /// Bicubic (a = −0.75), as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
        Bicubic = "bicubic";
        /// Bicubic with a kernel widened by the scale, which averages what it drops.
        BicubicAntialias = "bicubic_antialias";
    }
}

choice! {
    /// How the patch store is read (`Data.store`).
    pub enum StoreMode {
        /// Memory-mapped: memory use does not grow with the data.
        Mmap = "mmap";
        /// Positioned reads, for file systems on which a lost page would kill the process.
        Read = "read";
    }
}

choice! {
    /// Where training runs (`Training.device`).
    pub enum DeviceChoice {
        /// A CUDA GPU that has passed its check, else the CPU.
        Auto = "auto" | "";
        /// The CPU.
        Cpu = "cpu";
        /// A CUDA GPU; its absence is an error.
        Cuda = "cuda" | "gpu";
    }
}

choice! {
    /// Instruction set of the CPU device (`Training.isa`).
    pub enum IsaChoice {
        /// The widest that the processor has.
        Auto = "auto" | "";
        /// 16 lanes.
        Avx512 = "avx512";
        /// 8 lanes.
        Avx2 = "avx2";
        /// 4 lanes, AArch64.
        Neon = "neon";
        /// Plain code.
        Portable = "portable";
    }
}

choice! {
    /// Whether NVIDIA's libraries are used on a GPU (`Training.libraries`).
    pub enum LibraryUse {
        /// Where they are faster than this program's own kernels.
        Auto = "auto" | "";
        /// Not at all.
        Off = "off" | "none";
    }
}

choice! {
    /// Arithmetic of the networks (`Training.precision`).
    pub enum Precision {
        /// bf16 on a GPU, f32 on the CPU.
        Auto = "auto" | "";
        /// 32-bit floats.
        F32 = "f32" | "fp32" | "float32" | "32";
        /// 32-bit floats, multiplied on matrix units with a 10-bit mantissa.
        Tf32 = "tf32";
        /// bfloat16 activations with f32 master weights and sums.
        Bf16 = "bf16" | "bfloat16";
    }
}

choice! {
    /// The generator's loss while it trains alone (`Training.pretrain_loss`).
    pub enum PretrainLoss {
        /// The whole content loss.
        Content = "content";
        /// Mean absolute error only, as opensr-srgan 0.4.3 does.
        L1 = "l1";
    }
}

choice! {
    /// Adversarial objective (`Training.Losses.adv_loss_type`).
    pub enum AdvLoss {
        /// Binary cross-entropy on logits.
        Bce = "bce";
        /// Difference of means.
        Wasserstein = "wasserstein";
    }
}

choice! {
    /// Shape of the adversarial weight's ramp (`Training.Losses.adv_loss_schedule`).
    pub enum Ramp {
        /// p.
        Linear = "linear";
        /// ½ (1 − cos πp).
        Cosine = "cosine";
    }
}

choice! {
    /// Shape of the generator's learning-rate warm-up (`Schedulers.g_warmup_type`).
    pub enum Warmup {
        /// No warm-up, whatever `g_warmup_steps` is.
        None = "none";
        /// t.
        Linear = "linear";
        /// ½ (1 − cos πt).
        Cosine = "cosine";
    }
}

choice! {
    /// Network behind the perceptual term (`Training.Losses.perceptual_metric`).
    pub enum PerceptualMetric {
        /// VGG-19, truncated.
        Vgg = "vgg";
        /// LPIPS.
        Lpips = "lpips";
    }
}

choice! {
    /// Generator family (`Generator.model_type`).
    pub enum GeneratorType {
        /// Residual network with the block of [`BlockType`].
        SrResNet = "SRResNet" | "sr_resnet";
        /// Residual-in-residual dense blocks.
        Esrgan = "esrgan" | "rrdbnet" | "rrdb_net";
        /// Residual blocks modulated by a noise vector.
        StochasticGan = "stochastic_gan" | "stochastic" | "stochasticgan" | "cgan" | "conditional_cgan"
            | "conditional_gan";
    }
}

choice! {
    /// Residual block of an SRResNet (`Generator.block_type`).
    pub enum BlockType {
        /// Convolutions with batch norm and PReLU.
        Standard = "standard" | "srresnet" | "vanilla" | "classic" | "default" | "basic";
        /// Without batch norm, scaled residual.
        Res = "res" | "residual" | "resblocks";
        /// Residual channel attention.
        Rcab = "rcab" | "attention" | "channel_attention";
        /// Residual-in-residual dense blocks.
        Rrdb = "rrdb" | "dense" | "residual_in_residual";
        /// Large-kernel attention.
        Lka = "lka" | "large_kernel";
    }
}

choice! {
    /// Discriminator family (`Discriminator.model_type`).
    pub enum DiscriminatorType {
        /// SRGAN's convolutions and dense head: one logit an image.
        Standard = "standard" | "srgan" | "cnn";
        /// A map of logits, one a patch.
        PatchGan = "patchgan" | "patch_gan";
        /// ESRGAN's VGG-style network.
        Esrgan = "esrgan";
    }
}
