//! The sections of a configuration: every key with its type, default and range.
//!
//! Keys and defaults are those of opensr-srgan 0.5, plus a few of our own, marked "(ours)". Aliases and
//! values that depend on others are in `resolve.rs`, rules between keys in `check.rs`.

use std::path::PathBuf;

use super::choice::*;
use super::range::*;
use super::values::*;
use crate::metrics::Metric;

section! {
    /// A whole configuration.
    pub struct Config {
        /// Samples and how they are loaded.
        data as "Data": Data = Data::default();
        /// Bands and initial weights.
        model as "Model": Model = Model::default();
        /// Phases, losses, duration.
        training as "Training": Training = Training::default();
        /// The network that makes SR from LR.
        generator as "Generator": Generator = Generator::default();
        /// The network that tells HR from SR.
        discriminator as "Discriminator": Discriminator = Discriminator::default();
        /// Adam's numbers for both networks.
        optimizers as "Optimizers": Optimizers = Optimizers::default();
        /// Warm-up and plateau schedules of the learning rates.
        schedulers as "Schedulers": Schedulers = Schedulers::default();
        /// What a run writes.
        logging as "Logging": Logging = Logging::default();
        /// Where VGG-19 is cut for the perceptual term.
        truncated_vgg as "TruncatedVGG": TruncatedVgg = TruncatedVgg::default();
    }
}

section! {
    /// Samples and how they are loaded (`Data`).
    pub struct Data {
        /// Samples in a training batch.
        train_batch_size: usize = 8, in_range(1, 65_536);
        /// Samples in a validation batch.
        val_batch_size: usize = 8, in_range(1, 65_536);
        /// Loader threads; 0 loads on the training thread.
        num_workers: usize = 4, in_range(0, 1024);
        /// Batches that each loader thread keeps ready.
        prefetch_factor: usize = 2, in_range(1, 1024);
        /// Where samples come from.
        dataset_type: DatasetType = DatasetType::Example;
        /// Folder of an `ExampleDataset` or `LRHRFolderDataset`.
        root_dir: Option<PathBuf> = None;
        /// How stored pixel values become network input. To be stated for `Scenes` and `LRHRFolderDataset`;
        /// `ExampleDataset` has a rule of its own.
        normalization: Option<Normalization> = None;
        /// (ours) Every value is multiplied by this before normalisation.
        scale: f64 = 1.0, not_zero();
        /// (ours) Added to every value after `scale`.
        offset: f64 = 0.0, fits_f32();
        /// (ours) Apply the scale and offset that files state (GDAL's tags) before `scale` and `offset`.
        apply_scale: bool = false;
        /// (ours) Refuse data of which the normalisation clips more than half.
        check_range: bool = true;
        /// (ours) Scenes of a `Scenes` data set: files, folders, patterns with `*`; a list of files is one scene,
        /// their bands one after the other.
        scenes: Vec<SceneFiles> = Vec::new();
        /// (ours) Order of the axes in array files (`.npy`, `.npz`); `None` is HWC. GeoTIFFs say it themselves.
        layout: Option<Layout> = None;
        /// (ours) Bands to take from the files, counted from 0, in this order; `None` takes all.
        bands: Option<Vec<usize>> = None;
        /// (ours) Pixel value that means "no data", beside NaN and infinity; `None` takes what the file itself states.
        nodata: Option<f64> = None;
        /// (ours) Whether masks and alpha bands of the files hide pixels as "no data" does.
        mask: MaskUse = MaskUse::Auto;
        /// (ours) Side of a square HR training patch in pixels; `None` trains on whole files, which `Scenes`
        /// does not allow (its default is 128).
        hr_size: Option<usize> = None, each(in_range(1, 16_384));
        /// (ours) Patches drawn in an epoch; `None` takes one of each file, of `Scenes` as many as fit side by side.
        patches_per_epoch: Option<u64> = None, each(at_least(1));
        /// (ours) Share of each scene's area that is held out for validation.
        val_fraction: f64 = 0.1, open_unit();
        /// (ours) How LR is made from HR.
        degradation: Degradation = Degradation::Bicubic;
        /// (ours) Random flips and quarter turns of training patches; the default is true for `Scenes` alone.
        augment: bool = false;
        /// (ours) Folder of the patch store.
        store_dir: PathBuf = PathBuf::from("stores");
        /// (ours) How the patch store is read.
        store: StoreMode = StoreMode::Mmap;
        /// (ours) Days after which `srgan doctor` names a patch store that no run has used.
        store_days: u64 = 90, in_range(1, 36_500);
        /// (ours) Bands shown as red, green and blue, counted from 0 among the network's bands.
        rgb_bands: [usize; 3] = [0, 1, 2];
    }
}

section! {
    /// Bands and initial weights (`Model`).
    pub struct Model {
        /// Bands of LR, SR and HR.
        in_bands: usize = 4, in_range(1, 1024);
        /// Checkpoint whose run is continued: weights, optimisers, schedules and data position.
        continue_training: Option<PathBuf> = None;
        /// Checkpoint that only the initial weights are taken from.
        load_checkpoint: Option<PathBuf> = None;
        /// (ours) Refuse weights of `load_checkpoint` that do not all fit; false takes those that do.
        load_strict: bool = true;
    }
}

section! {
    /// Phases, losses, duration (`Training`).
    pub struct Training {
        /// Where training runs; `auto` is a GPU that has passed its check, else the CPU.
        device: DeviceChoice = DeviceChoice::Auto;
        /// CUDA devices by number; a plain number n means the first n.
        gpus: Gpus = Gpus::default();
        /// Accepted for compatibility; has no effect on one device.
        find_unused_parameters: bool = true;
        /// Epochs to train; −1 trains until something else ends the run.
        max_epochs: i64 = 9999, at_least(-1);
        /// (ours) Steps to train; `None` leaves the end to `max_epochs`.
        max_steps: Option<u64> = None, each(at_least(1));
        /// How often to validate: a number with a point is a share of an epoch, a whole number counts steps.
        val_check_interval: ValInterval = ValInterval::Fraction(1.0);
        /// How much of the validation data to use: a number with a point is a share, a whole number counts batches.
        limit_val_batches: BatchLimit = BatchLimit::Batches(250);
        /// Train the generator alone first.
        pretrain_g_only: bool = false;
        /// Steps of that phase; −1 never leaves it.
        g_pretrain_steps: i64 = 0, at_least(-1);
        /// Steps over which the adversarial weight rises.
        adv_loss_ramp_steps: u64 = 20_000, at_least(0);
        /// The discriminator's target for real images is 0.9 instead of 1.
        label_smoothing: bool = false;
        /// (ours) The generator's loss while it trains alone.
        pretrain_loss: PretrainLoss = PretrainLoss::Content;
        /// (ours) Micro-batches summed into one step.
        accumulate_grad_batches: usize = 1, in_range(1, 65_536);
        /// Seed of every random number of a run.
        seed: u64 = 0;
        /// (ours) Arithmetic of the networks on a GPU; the CPU computes in f32.
        precision: Precision = Precision::Auto;
        /// (ours) Threads of the CPU device; `None` takes all cores. Results do not depend on it.
        num_threads: Option<usize> = None, each(in_range(1, 1024));
        /// (ours) Instruction set of the CPU device. Another one rounds differently.
        isa: IsaChoice = IsaChoice::Auto;
        /// (ours) cuDNN and cuBLASLt on a GPU: used where they are faster than this program's own kernels.
        libraries: LibraryUse = LibraryUse::Auto;
        /// (ours) Seconds in which a GPU's algorithms may be compared at a run's start; later runs find what was timed.
        tune_seconds: f64 = 120.0, not_negative();
        /// (ours) Continue the newest run of the project, or a given checkpoint.
        resume: Resume = Resume::Never;
        /// (ours) A checkpoint is written at least this often, in minutes.
        checkpoint_minutes: f64 = 15.0, positive_f64();
        /// (ours) Seconds that a rank waits for the others before it gives up.
        dist_timeout: f64 = 600.0, positive_f64();
        /// (ours) Validations without improvement after which training ends.
        early_stopping_patience: u64 = 250, at_least(1);
        /// Moving average of the generator's weights.
        ema as "EMA": Ema = Ema::default();
        /// Loss terms and metrics.
        losses as "Losses": Losses = Losses::default();
    }
}

section! {
    /// Exponential moving average of the generator's weights (`Training.EMA`).
    pub struct Ema {
        /// Keep an average, validate and infer with it.
        enabled: bool = false;
        /// Share of the average that an update keeps.
        decay: f64 = 0.999, closed_unit();
        /// First step (counted from 0) that updates the average.
        update_after_step: u64 = 0, at_least(0);
        /// Smaller decay during the first updates.
        use_num_updates: bool = true;
        /// Where the average is kept; `None` is beside the weights.
        device: Option<EmaDevice> = None;
    }
}

section! {
    /// Loss terms and metrics (`Training.Losses`).
    pub struct Losses {
        /// Adversarial objective.
        adv_loss_type: AdvLoss = AdvLoss::Bce;
        /// Compare real and fake logits with each other's mean (bce only).
        relativistic_average_d: bool = false;
        /// Adversarial weight after the ramp.
        adv_loss_beta: f64 = 1e-3, not_negative();
        /// Shape of the ramp.
        adv_loss_schedule: Ramp = Ramp::Cosine;
        /// R1 gradient penalty on real images; 0 switches it off.
        r1_gamma: f64 = 0.0, not_negative();
        /// Weight of the mean absolute error.
        l1_weight: f64 = 1.0, not_negative();
        /// Weight of the spectral angle.
        sam_weight: f64 = 0.05, not_negative();
        /// Weight of the perceptual term.
        perceptual_weight: f64 = 0.0, not_negative();
        /// Network behind the perceptual term.
        perceptual_metric: PerceptualMetric = PerceptualMetric::Vgg;
        /// (ours) File with torchvision's weights of that network, `.pth` or `.safetensors`; `None` looks where
        /// torchvision keeps its downloads.
        perceptual_file: Option<PathBuf> = None;
        /// Bands given to the perceptual term, counted from 0; `None` draws three for each batch. Of up to three bands
        /// all are given.
        fixed_idx: Option<[usize; 3]> = None;
        /// Weight of the total variation.
        tv_weight: f64 = 0.0, not_negative();
        /// Peak value of PSNR and SSIM.
        max_val: f64 = 1.0, peak();
        /// Taps of SSIM's window.
        ssim_win: usize = 11, in_range(3, 255), odd();
    }
}

section! {
    /// The network that makes SR from LR (`Generator`). Each family uses some of the keys.
    pub struct Generator {
        /// Family of the generator.
        model_type: GeneratorType = GeneratorType::SrResNet;
        /// Residual block (SRResNet only).
        block_type: BlockType = BlockType::Standard;
        /// Side of the first and last kernels (not esrgan).
        large_kernel_size: usize = 9, in_range(1, 63), odd();
        /// Side of the kernels in between (not esrgan).
        small_kernel_size: usize = 3, in_range(1, 63), odd();
        /// Channels of the trunk.
        n_channels: usize = 64, in_range(1, 4096);
        /// Residual blocks; the default is 23 for esrgan.
        n_blocks: usize = 16, in_range(1, 1024);
        /// SR pixels per LR pixel and axis.
        scaling_factor: usize = 4, in_range(1, 8), power_of_two();
        /// Channels that each convolution of a dense block adds (esrgan only).
        growth_channels: usize = 32, in_range(1, 4096);
        /// Factor on residuals (esrgan and stochastic_gan).
        res_scale: f64 = 0.2, fits_f32();
        /// Bands of SR; equals `Model.in_bands`.
        out_channels: usize = 4, in_range(1, 1024);
        /// Initialise upsampling convolutions without checkerboard (esrgan only).
        use_icnr: bool = true;
        /// Length of the noise vector (stochastic_gan only).
        noise_dim: usize = 128, in_range(1, 65_536);
    }
}

section! {
    /// The network that tells HR from SR (`Discriminator`). Each family uses some of the keys.
    pub struct Discriminator {
        /// Family of the discriminator.
        model_type: DiscriminatorType = DiscriminatorType::Standard;
        /// Convolutions (standard) or strided layers (patchgan, default 3).
        n_blocks: usize = 8, in_range(1, 16);
        /// Spectral normalisation of all layers (standard only).
        use_spectral_norm: bool = true;
        /// Channels of the first convolution (esrgan only).
        base_channels: usize = 64, in_range(1, 1024);
        /// Units of the dense head (esrgan only).
        linear_size: usize = 1024, in_range(1, 65_536);
    }
}

section! {
    /// Adam's numbers for both networks (`Optimizers`).
    pub struct Optimizers {
        /// The generator's base learning rate; 0 freezes it.
        optim_g_lr: f64 = 1e-4, not_negative();
        /// The discriminator's base learning rate; 0 freezes it, the default is max(½ `optim_g_lr`, 1e-6).
        optim_d_lr: f64 = 5e-5, not_negative();
        /// Largest norm of a network's gradient; 0 switches clipping off.
        gradient_clip_val: f64 = 0.0, not_negative();
        /// Decay of the first and second moments.
        betas: [f64; 2] = [0.0, 0.99], all(half_open_unit_f32());
        /// Added to the root of the second moment.
        eps: f64 = 1e-7, positive();
        /// Weight decay of the generator's weights.
        weight_decay_g: f64 = 0.0, not_negative();
        /// Weight decay of the discriminator's weights.
        weight_decay_d: f64 = 0.0, not_negative();
    }
}

section! {
    /// Warm-up and plateau schedules of the learning rates (`Schedulers`).
    pub struct Schedulers {
        /// Steps over which the generator's learning rate rises.
        g_warmup_steps: u64 = 0, at_least(0);
        /// Shape of that rise.
        g_warmup_type: Warmup = Warmup::Cosine;
        /// Metric that the generator's plateau, the best checkpoints and early stopping watch.
        metric_g: Metric = Metric::ValL1;
        /// Metric that the discriminator's plateau watches.
        metric_d: Metric = Metric::DiscriminatorLoss;
        /// Validations without improvement before the generator's rate falls.
        patience_g: u64 = 5, at_least(0);
        /// Validations without improvement before the discriminator's rate falls; the default is `patience_g`.
        patience_d: u64 = 5, at_least(0);
        /// Factor on the generator's rate.
        factor_g: f64 = 0.5, open_unit();
        /// Factor on the discriminator's rate; the default is `factor_g`.
        factor_d: f64 = 0.5, open_unit();
        /// Relative change that counts as an improvement.
        threshold: f64 = 1e-3, half_open_unit();
        /// Validations after a fall in which none is counted as bad.
        cooldown: u64 = 0, at_least(0);
        /// Rates do not fall below this.
        min_lr: f64 = 1e-7, not_negative();
    }
}

section! {
    /// What a run writes (`Logging`).
    pub struct Logging {
        /// Validation images drawn as panels at each validation.
        num_val_images: usize = 5, in_range(0, 10_000);
        /// (ours) Steps between two rows of metrics.
        log_every_n_steps: u64 = 1, at_least(1);
        /// (ours) Folder of all runs.
        dir: PathBuf = PathBuf::from("logs");
        /// Folder of this run, in place of a new one in `dir`; `--run-dir` comes first.
        output_dir: Option<PathBuf> = None;
        /// Project and Weights & Biases.
        wandb: Wandb = Wandb::default();
    }
}

section! {
    /// Weights & Biases (`Logging.wandb`); its client's variables, such as WANDB_NAME, come first.
    pub struct Wandb {
        /// Writes the run for Weights & Biases, too; `wandb sync` uploads it, and WANDB_MODE=online does so while it goes on.
        enabled: bool = false;
        /// Account or team.
        entity: Option<String> = None;
        /// Project; names the folder of its runs.
        project: String = "srgan".into(), folder_name();
        /// (ours) Name of the run, in place of its folder's.
        name: Option<String> = None;
        /// (ours) Labels of the run.
        tags: Vec<String> = Vec::new();
    }
}

section! {
    /// Where VGG-19 is cut for the perceptual term (`TruncatedVGG`).
    pub struct TruncatedVgg {
        /// Block, counted from 1.
        i: usize = 5, in_range(1, 5);
        /// Convolution in the block, counted from 1.
        j: usize = 4, in_range(1, 4);
    }
}

impl Data {
    /// The method by which values become network input.
    pub fn method(&self) -> Normalization {
        match self.dataset_type {
            DatasetType::Example => Normalization::Identity,
            _ => self.normalization.unwrap_or(Normalization::Sen2Stretch),
        }
    }
}
