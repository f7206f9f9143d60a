//! Rules between keys: what cannot work is refused, what has no effect is reported.

use std::path::Path;

use super::choice::{
    AdvLoss, BlockType, DatasetType, DiscriminatorType, GeneratorType, PerceptualMetric, PretrainLoss, Warmup,
};
use super::field::Field;
use super::schema::{Config, Discriminator, Losses};
use super::tree::{Node, Wrong};
use super::values::Resume;
use crate::metrics::Metric;
use crate::{Error, Result};

/// A configuration with the tree that it was read from, which knows the lines.
pub(crate) struct Checker<'a> {
    pub config: &'a Config,
    pub root: &'a Node,
    pub file: Option<&'a Path>,
}

impl Checker<'_> {
    /// Errors: the first rule that is broken, at the line of the key to change.
    pub fn check(&self) -> Result<()> {
        self.model()?;
        self.generator()?;
        self.training()?;
        self.bands()?;
        self.data()?;
        self.patch_size()
    }

    fn model(&self) -> Result<()> {
        let model = &self.config.model;
        if self.root.get("Model.in_bands").is_none() {
            let wrong = Wrong::new("this key is required").hint("Model.in_bands is the number of bands of your images");
            return Err(self.error("Model.in_bands", wrong));
        }
        if model.continue_training.is_some() && model.load_checkpoint.is_some() {
            let wrong = Wrong::new("cannot be used together with Model.load_checkpoint").hint(
                "continue_training restores a whole run; load_checkpoint only takes the initial weights. Set one to False",
            );
            return Err(self.error("Model.continue_training", wrong));
        }
        if model.continue_training.is_some() && self.config.training.resume != Resume::Never {
            let wrong = Wrong::new("cannot be used together with Model.continue_training")
                .hint("both name a run to continue; set Model.continue_training=False");
            return Err(self.error("Training.resume", wrong));
        }
        Ok(())
    }

    fn generator(&self) -> Result<()> {
        let (generator, in_bands) = (&self.config.generator, self.config.model.in_bands);
        let family = generator.model_type;
        if family != GeneratorType::Esrgan && generator.scaling_factor == 1 {
            let wrong = Wrong::new(format!("must be 2, 4 or 8 for {family}, found 1"));
            return Err(self.error("Generator.scaling_factor", wrong));
        }
        let is_rcab = family == GeneratorType::SrResNet && generator.block_type == BlockType::Rcab;
        if is_rcab && generator.n_channels < 16 {
            let found = generator.n_channels;
            let wrong = Wrong::new(format!("must be at least 16 for block_type rcab, found {found}"))
                .hint("rcab's channel attention squeezes the channels by 16");
            return Err(self.error("Generator.n_channels", wrong));
        }
        if generator.out_channels != in_bands {
            let found = generator.out_channels;
            let wrong = Wrong::new(format!("must equal Model.in_bands ({in_bands}), found {found}"));
            return Err(self.error("Generator.out_channels", wrong));
        }
        Ok(())
    }

    fn training(&self) -> Result<()> {
        let schedulers = &self.config.schedulers;
        let perceptual = self.config.training.losses.has_perceptual();
        for (key, metric) in [("metric_g", schedulers.metric_g), ("metric_d", schedulers.metric_d)] {
            if matches!(metric, Metric::TrainPerceptual | Metric::ValPerceptual) && !perceptual {
                let wrong = Wrong::new(format!("`{}` is not computed, since perceptual_weight is 0", metric.name()));
                let hint = format!("watch {} instead", Metric::ValL1.name());
                return Err(self.error(&format!("Schedulers.{key}"), wrong.hint(hint)));
            }
        }
        self.loss_weights()?;
        let vgg = &self.config.truncated_vgg;
        if vgg.i <= 2 && vgg.j > 2 {
            let wrong = Wrong::new(format!("block {} of VGG-19 has 2 convolutions, found {}", vgg.i, vgg.j));
            return Err(self.error("TruncatedVGG.j", wrong));
        }
        Ok(())
    }

    /// Refuses weights with which a phase would have no loss for the generator.
    fn loss_weights(&self) -> Result<()> {
        let (training, losses) = (&self.config.training, &self.config.training.losses);
        let content = [losses.l1_weight, losses.sam_weight, losses.perceptual_weight, losses.tv_weight];
        let pretrains = training.pretrain_g_only && training.g_pretrain_steps != 0;
        let adversarial = !training.pretrain_g_only || training.g_pretrain_steps >= 0;
        let pretrains_on_nothing = pretrains && training.pretrain_loss == PretrainLoss::Content;
        let trains_on_nothing = adversarial && losses.adv_loss_beta == 0.0;
        if content.iter().any(|weight| *weight > 0.0) || !(pretrains_on_nothing || trains_on_nothing) {
            return Ok(());
        }
        let when = if pretrains_on_nothing { "in pretraining" } else { "with adv_loss_beta 0" };
        let message = format!("all weights of the content loss are 0: {when} the generator has nothing to learn from");
        let hint = "set one of l1_weight, sam_weight, perceptual_weight and tv_weight; to keep the generator as it is, \
                    Optimizers.optim_g_lr=0";
        Err(self.error("Training.Losses.l1_weight", Wrong::new(message).hint(hint)))
    }

    fn bands(&self) -> Result<()> {
        let (data, in_bands) = (&self.config.data, self.config.model.in_bands);
        let outside = |indices: &[usize]| indices.iter().copied().find(|index| *index >= in_bands);
        // Of up to three bands all are taken.
        let chosen = self.config.training.losses.fixed_idx.filter(|_| in_bands > 3);
        let lists = [("Training.Losses.fixed_idx", chosen.unwrap_or_default()), ("Data.rgb_bands", data.rgb_bands)];
        for (key, indices) in lists {
            if let Some(index) = outside(&indices) {
                let wrong = Wrong::new(format!("there is no band {index}: Model.in_bands is {in_bands}"));
                return Err(self.error(key, wrong.hint(format!("bands are counted from 0 to {}", in_bands - 1))));
            }
        }
        match &data.bands {
            Some(bands) if bands.len() != in_bands => {
                let found = bands.len();
                let wrong = Wrong::new(format!("names {found} bands, but Model.in_bands is {in_bands}"));
                Err(self.error("Data.bands", wrong.hint("list one band of the files, counted from 0, per input band")))
            }
            _ => Ok(()),
        }
    }

    fn data(&self) -> Result<()> {
        let data = &self.config.data;
        match data.dataset_type {
            DatasetType::Scenes if data.scenes.is_empty() => {
                let wrong = Wrong::new("the data set Scenes needs at least one scene");
                Err(self.error(
                    "Data.scenes",
                    wrong.hint("list files, folders or patterns: Data.scenes=[a.tif, \"more/*.tif\"]"),
                ))
            }
            DatasetType::LrHrFolder if data.root_dir.is_none() => {
                let wrong = Wrong::new("the data set LRHRFolderDataset needs its folder");
                Err(self.error("Data.root_dir", wrong.hint("the folder holds train/LR, train/HR, val/LR and val/HR")))
            }
            _ => Ok(()),
        }
    }

    /// Rules about the patch, where its size is known.
    fn patch_size(&self) -> Result<()> {
        let config = self.config;
        let Some(size) = config.data.hr_size else { return Ok(()) };
        let scale = config.generator.scaling_factor;
        if size % scale != 0 {
            let wrong = Wrong::new(format!("must be a multiple of Generator.scaling_factor ({scale}), found {size}"));
            let near = (size / scale).max(1) * scale;
            return Err(self.error("Data.hr_size", wrong.hint(format!("{near} and {} are", near + scale))));
        }
        let margin = config.training.losses.ssim_win / 2;
        if size <= margin {
            let wrong =
                Wrong::new(format!("patches of {size} pixels are too small for an ssim_win of {}", 2 * margin + 1));
            return Err(self.error("Data.hr_size", wrong));
        }
        let smallest = config.discriminator.smallest_input(config.data.train_batch_size);
        if size < smallest {
            let family = config.discriminator.model_type;
            let blocks = config.discriminator.n_blocks;
            let wrong = Wrong::new(format!(
                "patches of {size} pixels are too small for a {family} discriminator with n_blocks {blocks}, which needs {smallest}"
            ));
            return Err(self.error("Data.hr_size", wrong.hint("raise Data.hr_size or lower Discriminator.n_blocks")));
        }
        let smallest = config.smallest_perceptual_input();
        if size < smallest {
            let wrong = Wrong::new(format!(
                "patches of {size} pixels are too small for the perceptual loss, whose network needs {smallest}"
            ));
            return Err(self.error("Data.hr_size", wrong.hint("raise it, or set Training.Losses.perceptual_weight=0")));
        }
        Ok(())
    }

    /// What the user may expect to have an effect and has none.
    pub fn warnings(&self) -> Vec<String> {
        let config = self.config;
        let (training, data) = (&config.training, &config.data);
        let (family, scenes) = (config.generator.model_type, data.dataset_type == DatasetType::Scenes);
        let no_effect = [
            ("Generator.block_type", family != GeneratorType::SrResNet, "only SRResNet has block types"),
            ("Generator.noise_dim", family != GeneratorType::StochasticGan, "only stochastic_gan has a noise vector"),
            ("Generator.use_icnr", family != GeneratorType::Esrgan, "only esrgan uses it"),
            ("Training.g_pretrain_steps", !training.pretrain_g_only, "Training.pretrain_g_only is false"),
            (
                "Training.Losses.relativistic_average_d",
                training.losses.adv_loss_type == AdvLoss::Wasserstein,
                "adv_loss_type is wasserstein",
            ),
            (
                "Training.Losses.fixed_idx",
                config.model.in_bands <= 3,
                "all of up to three bands are given to the perceptual term",
            ),
            ("Training.Losses.perceptual_file", !training.losses.has_perceptual(), "perceptual_weight is 0"),
            ("Training.EMA.device", true, "the average is kept beside the weights"),
            ("Schedulers.g_warmup_steps", config.schedulers.g_warmup_type == Warmup::None, "g_warmup_type is none"),
            ("Data.root_dir", scenes, "the data set Scenes reads Data.scenes"),
            ("Data.scenes", !scenes, "Data.dataset_type is not Scenes"),
            ("Data.val_fraction", !scenes, "Data.dataset_type is not Scenes"),
        ];
        let mut warnings = Vec::new();
        let changed = self.changed_keys();
        for (key, ignored, why) in no_effect {
            if ignored && changed.iter().any(|name| name == key) {
                warnings.push(format!("{key} has no effect: {why}"));
            }
        }
        let (schedulers, optimizers) = (&config.schedulers, &config.optimizers);
        if schedulers.g_warmup_steps > 0 && self.root.get("Schedulers.g_warmup_type").is_none() {
            warnings.push(
                "Schedulers.g_warmup_steps without g_warmup_type warms up along a cosine; opensr-srgan then has no warm-up \
                 (g_warmup_type: none)"
                    .into(),
            );
        }
        if (optimizers.optim_g_lr, optimizers.optim_d_lr) == (0.0, 0.0) {
            warnings.push("Optimizers: both learning rates are 0, so nothing is trained".into());
        }
        for (key, rate) in [("optim_g_lr", optimizers.optim_g_lr), ("optim_d_lr", optimizers.optim_d_lr)] {
            let other = optimizers.optim_g_lr + optimizers.optim_d_lr - rate;
            if rate == 0.0 && other != 0.0 {
                let network = if key == "optim_g_lr" { "generator" } else { "discriminator" };
                warnings.push(format!("Optimizers.{key} is 0: the {network} is not trained"));
            }
            if rate > 0.0 && schedulers.min_lr > rate {
                let min = schedulers.min_lr;
                warnings.push(format!(
                    "Schedulers.min_lr ({min:e}) is above Optimizers.{key} ({rate:e}), which it never lowers"
                ));
            }
        }
        if training.gpus.ids().len() > 1 {
            let count = training.gpus.ids().len();
            warnings.push(format!("Training.gpus names {count} devices; one is used"));
        }
        warnings
    }

    /// Keys that are set and differ from the default. (A run's own file sets every key; there only the
    /// difference shows what was meant.)
    fn changed_keys(&self) -> Vec<String> {
        let (mut mine, mut default) = (Vec::new(), Vec::new());
        self.config.flatten("", &mut mine);
        Config::default().flatten("", &mut default);
        let changed = mine.into_iter().zip(default).filter(|(mine, default)| mine != default);
        changed.map(|((key, _), _)| key).filter(|key| self.root.get(key).is_some()).collect()
    }

    /// An error at the place of `key`, or about the file if the key is not set in it.
    fn error(&self, key: &str, wrong: Wrong) -> Error {
        match self.root.get(key) {
            Some(node) => node.error(wrong),
            None => wrong.without_line(key, self.file),
        }
    }
}

impl Losses {
    /// Whether there is a perceptual term.
    pub fn has_perceptual(&self) -> bool {
        self.perceptual_weight > 0.0
    }
}

impl Config {
    /// The smallest square image side that the network of the perceptual term reduces to at least one pixel.
    pub fn smallest_perceptual_input(&self) -> usize {
        match self.training.losses.perceptual_metric {
            _ if !self.training.losses.has_perceptual() => 1,
            // A pooling that halves, rounding down, before each block but the first.
            PerceptualMetric::Vgg => 1 << (self.truncated_vgg.i - 1),
            // 31 -> 7 (11×11, stride 4, padding 2) -> 3 -> 1 (poolings of 3×3, stride 2).
            PerceptualMetric::Lpips => 31,
        }
    }
}

impl Discriminator {
    /// The smallest square image side that this network can judge while it trains on batches of `batch`:
    /// each convolution gives at least one pixel, and each norm has more than one value to work on.
    pub fn smallest_input(&self, batch: usize) -> usize {
        match self.model_type {
            // n halvings, then two convolutions that each take one pixel off; instance norm before the last.
            DiscriminatorType::PatchGan => 3 << self.n_blocks,
            // Every second convolution halves, rounding up; batch norm after each but the first.
            DiscriminatorType::Standard if batch == 1 && self.n_blocks > 1 => (1 << (self.n_blocks / 2)) + 1,
            DiscriminatorType::Esrgan if batch == 1 => 2,
            DiscriminatorType::Standard | DiscriminatorType::Esrgan => 1,
        }
    }
}
