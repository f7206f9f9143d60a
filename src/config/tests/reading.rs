//! Right files: every key, aliases, defaults, overrides, warnings.

use super::{read, read_with};
use crate::config::*;
use crate::metrics::Metric;
use std::path::PathBuf;

const FULL: &str = include_str!("full.yaml");
const LEAST: &str = "Model: {in_bands: 4}";

fn full_training(gpus: Gpus) -> Training {
    Training {
        device: DeviceChoice::Cuda,
        gpus,
        seed: 99,
        find_unused_parameters: false,
        max_epochs: 12,
        val_check_interval: ValInterval::Fraction(1.0),
        limit_val_batches: BatchLimit::Fraction(0.5),
        pretrain_g_only: true,
        g_pretrain_steps: -1,
        adv_loss_ramp_steps: 500,
        label_smoothing: true,
        ema: Ema {
            enabled: true,
            decay: 0.9,
            update_after_step: 4,
            use_num_updates: false,
            device: Some(EmaDevice::Cuda(1)),
        },
        losses: full_losses(),
        ..Training::default()
    }
}

fn full_losses() -> Losses {
    Losses {
        adv_loss_type: AdvLoss::Bce,
        relativistic_average_d: true,
        adv_loss_beta: 1e-4,
        adv_loss_schedule: Ramp::Linear,
        r1_gamma: 2.0,
        l1_weight: 0.5,
        sam_weight: 0.25,
        perceptual_weight: 0.125,
        perceptual_metric: PerceptualMetric::Lpips,
        fixed_idx: Some([3, 2, 1]),
        tv_weight: 1e-3,
        max_val: 2.0,
        ssim_win: 7,
        ..Losses::default()
    }
}

fn full_generator() -> Generator {
    Generator {
        model_type: GeneratorType::StochasticGan,
        block_type: BlockType::Standard,
        large_kernel_size: 7,
        small_kernel_size: 5,
        n_channels: 24,
        n_blocks: 2,
        scaling_factor: 2,
        growth_channels: 12,
        res_scale: 0.1,
        out_channels: 6,
        use_icnr: true,
        noise_dim: 16,
    }
}

#[test]
fn the_file_of_perceptual_weights_is_read() {
    let (config, _) = read_with(
        LEAST,
        &["Training.Losses.perceptual_weight=1", "Training.Losses.perceptual_file=weights/alexnet.pth"],
    );
    assert_eq!(config.training.losses.perceptual_file, Some("weights/alexnet.pth".into()));
}

#[test]
fn every_key_of_the_reference_is_read() {
    let (config, warnings) = read_with(FULL, &[]);
    let expected = Config {
        data: Data {
            train_batch_size: 3,
            val_batch_size: 5,
            num_workers: 1,
            prefetch_factor: 7,
            dataset_type: DatasetType::LrHrFolder,
            root_dir: Some("tiles/of mine".into()),
            normalization: Some(Normalization::Normalise10k),
            ..Data::default()
        },
        model: Model { in_bands: 6, load_checkpoint: Some("start.safetensors".into()), ..Model::default() },
        training: full_training(config.training.gpus.clone()),
        generator: full_generator(),
        discriminator: Discriminator {
            model_type: DiscriminatorType::PatchGan,
            n_blocks: 2,
            use_spectral_norm: false,
            base_channels: 32,
            linear_size: 100,
        },
        optimizers: Optimizers {
            optim_g_lr: 1e-3,
            optim_d_lr: 2e-6,
            gradient_clip_val: 1.0,
            betas: [0.5, 0.9],
            eps: 1e-8,
            weight_decay_g: 0.01,
            weight_decay_d: 0.02,
        },
        schedulers: Schedulers {
            g_warmup_steps: 10,
            g_warmup_type: Warmup::Linear,
            metric_g: Metric::ValSsim,
            metric_d: Metric::ValDiscriminator,
            patience_g: 11,
            patience_d: 13,
            factor_g: 0.25,
            factor_d: 0.75,
            threshold: 1e-2,
            cooldown: 3,
            min_lr: 1e-8,
        },
        logging: Logging {
            num_val_images: 9,
            output_dir: Some("out/here".into()),
            wandb: Wandb { enabled: true, entity: Some(String::new()), project: "mine".into(), ..Wandb::default() },
            ..Logging::default()
        },
        truncated_vgg: TruncatedVgg { i: 2, j: 1 },
    };
    assert_eq!(config, expected);
    assert_eq!(config.training.gpus.ids(), [2]);
    let about = |key: &str| warnings.iter().any(|warning| warning.starts_with(key));
    assert!(about("Training.EMA.device") && about("Schedulers.verbose"), "{warnings:?}");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn our_own_keys_are_read() {
    let (config, warnings) = read_with(
        "Model: {in_bands: 4}
Data: {dataset_type: scenes, scenes: [a.tif, [B02.tif, B03.tif]], layout: chw, bands: [0, 2, 3, 7], nodata: -1, hr_size: 64,
  patches_per_epoch: 100, val_fraction: 0.25, degradation: bicubic_antialias, augment: off, store_dir: /big/disk,
  store: read, rgb_bands: [2, 1, 0], mask: ignore, scale: 0.5, offset: -1000, apply_scale: yes, check_range: no,
  store_days: 7}
Training: {seed: 18446744073709551615, precision: bf16, num_threads: 3, isa: AVX2, pretrain_loss: l1, accumulate_grad_batches: 2,
  max_steps: 1_000, resume: auto, checkpoint_minutes: 0.5, early_stopping_patience: 9, gpus: 1}
Logging: {log_every_n_steps: 10, dir: out}",
        &[],
    );
    let data = Data {
        dataset_type: DatasetType::Scenes,
        scenes: vec![["a.tif"].into(), ["B02.tif", "B03.tif"].into()],
        layout: Some(Layout::Chw),
        bands: Some(vec![0, 2, 3, 7]),
        nodata: Some(-1.0),
        hr_size: Some(64),
        patches_per_epoch: Some(100),
        val_fraction: 0.25,
        degradation: Degradation::BicubicAntialias,
        augment: false,
        store_dir: "/big/disk".into(),
        store: StoreMode::Read,
        rgb_bands: [2, 1, 0],
        mask: MaskUse::Ignore,
        scale: 0.5,
        offset: -1000.0,
        apply_scale: true,
        check_range: false,
        store_days: 7,
        ..Data::default()
    };
    assert_eq!(config.data, data);
    let training = Training {
        seed: u64::MAX,
        precision: Precision::Bf16,
        num_threads: Some(3),
        isa: IsaChoice::Avx2,
        pretrain_loss: PretrainLoss::L1,
        accumulate_grad_batches: 2,
        max_steps: Some(1000),
        resume: Resume::Auto,
        checkpoint_minutes: 0.5,
        early_stopping_patience: 9,
        ..Training::default()
    };
    assert_eq!(config.training, training);
    assert_eq!(config.logging, Logging { log_every_n_steps: 10, dir: "out".into(), ..Logging::default() });
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn defaults_that_depend_on_other_keys() {
    let config =
        read("Model: {in_bands: 2}\nOptimizers: {optim_g_lr: 1e-2}\nSchedulers: {patience_g: 8, factor_g: 0.1}");
    assert_eq!((config.optimizers.optim_d_lr, config.generator.out_channels), (5e-3, 2));
    assert_eq!((config.schedulers.patience_d, config.schedulers.factor_d), (8, 0.1));
    assert_eq!((config.data.rgb_bands, config.data.hr_size), ([0, 0, 0], None));
    assert_eq!(config.data.root_dir, Some(PathBuf::from("example_dataset")));
    assert_eq!((config.generator.n_blocks, config.discriminator.n_blocks), (16, 8));
    assert_eq!(read_with(LEAST, &["Optimizers.optim_g_lr=1e-6"]).0.optimizers.optim_d_lr, 1e-6);
    let (config, _) = read_with(
        LEAST,
        &[
            "Generator.model_type=esrgan",
            "Discriminator.model_type=patchgan",
            "Data.dataset_type=Scenes",
            "Data.scenes=a.tif",
        ],
    );
    assert_eq!((config.generator.n_blocks, config.discriminator.n_blocks, config.data.hr_size), (23, 3, Some(128)));
    assert_eq!(config.training.losses.perceptual_weight, 0.0, "an absent weight is 0");
}

#[test]
fn aliases_stand_for_their_keys_unless_these_are_set() {
    let text = "Model: {in_bands: 4}
Data: {batch_size: 3, val_batch_size: 4, dataset_root: tiles, dataset_type: LRHRFolderDataset}
Schedulers: {metric: val_metrics/sam, gradient_clip_val: 0.5}
Training: {perceptual_loss_weight: 0}";
    let (config, warnings) = read_with(text, &[]);
    assert_eq!((config.data.train_batch_size, config.data.val_batch_size), (3, 4));
    assert_eq!(config.data.root_dir, Some("tiles".into()));
    assert_eq!([config.schedulers.metric_g, config.schedulers.metric_d], [Metric::ValSam; 2]);
    assert_eq!((config.optimizers.gradient_clip_val, warnings.len()), (0.5, 0));
    let (config, warnings) = read_with(text, &["Optimizers.gradient_clip_val=2"]);
    assert_eq!(config.optimizers.gradient_clip_val, 2.0);
    assert_eq!(warnings, ["Schedulers.gradient_clip_val has no effect, because Optimizers.gradient_clip_val is set"]);
}

#[test]
fn names_of_networks_and_methods() {
    let generator = |name: &str| {
        let generator = read_with(LEAST, &[&format!("Generator.model_type={name}")]).0.generator;
        (generator.model_type, generator.block_type)
    };
    use BlockType::{Lka, Rcab, Res, Rrdb, Standard};
    use GeneratorType::{Esrgan, SrResNet, StochasticGan};
    for name in ["SRResNet", "sr_resnet", "SR-ResNet", "sr resnet", "vanilla", "standard"] {
        assert_eq!(generator(name), (SrResNet, Standard), "{name}");
    }
    for (name, block) in
        [("rcab", Rcab), ("Channel-Attention", Rcab), ("residual", Res), ("dense", Rrdb), ("large-kernel", Lka)]
    {
        assert_eq!(generator(name), (SrResNet, block), "{name}");
    }
    for name in ["stochastic", "stochastic-gan", "cgan", "conditional_cgan", "conditional-gan"] {
        assert_eq!(generator(name).0, StochasticGan, "{name}");
    }
    for name in ["ESRGAN", "rrdbnet", "RRDB_Net"] {
        assert_eq!(generator(name).0, Esrgan, "{name}");
    }
    let (config, _) = read_with(LEAST, &["Generator.model_type=rcab", "Generator.block_type=lka"]);
    assert_eq!((config.generator.model_type, config.generator.block_type), (SrResNet, Lka), "block_type comes first");

    let method = |text: &str| read_with(LEAST, &[&format!("Data.normalization={text}")]).0.data.normalization.unwrap();
    assert_eq!(method("{name: Normalize_10k_signed}"), Normalization::Normalise10kSigned);
    assert_eq!(method("{method: none}"), Normalization::Identity);
    assert_eq!(method("s2_signed"), Normalization::Normalise10kSigned);
    assert_eq!(method("normalize_s2"), Normalization::NormaliseS2);
}

#[test]
fn scalars_are_read_as_omegaconf_reads_them() {
    let lr = |text: &str| read_with(LEAST, &[&format!("Optimizers.optim_g_lr={text}")]).0.optimizers.optim_g_lr;
    for (text, value) in
        [("1e-4", 1e-4), ("1.0e-7", 1e-7), ("2", 2.0), (".5", 0.5), ("1_0.0", 10.0), ("1E-3", 1e-3), ("1.", 1.0)]
    {
        assert_eq!(lr(text), value, "{text}");
    }
    let smooth =
        |text: &str| read_with(LEAST, &[&format!("Training.label_smoothing={text}")]).0.training.label_smoothing;
    assert!(["True", "true", "yes", "On"].into_iter().all(smooth));
    assert!(!["False", "FALSE", "no", "off"].into_iter().any(smooth));
    let (config, _) = read_with(
        LEAST,
        &["Training.label_smoothing=null", "Generator.n_blocks=null", "Training.EMA=~", "Generator.n_channels=32.0"],
    );
    assert_eq!((config.training.label_smoothing, config.generator.n_blocks), (false, 16), "null means the default");
    assert_eq!((config.training.ema, config.generator.n_channels), (Ema::default(), 32));
    let path = |text: &str| read_with(LEAST, &[&format!("Model.load_checkpoint={text}")]).0.model.load_checkpoint;
    assert_eq!(
        [path("False"), path("''"), path("null"), path("a b.ckpt")],
        [None, None, None, Some("a b.ckpt".into())]
    );
    let interval =
        |text: &str| read_with(LEAST, &[&format!("Training.val_check_interval={text}")]).0.training.val_check_interval;
    assert_eq!([interval("1"), interval("1.0")], [ValInterval::Steps(1), ValInterval::Fraction(1.0)]);
    let gpus = |text: &str| read_with(LEAST, &[&format!("Training.gpus={text}")]).0.training.gpus.ids().to_vec();
    assert_eq!([gpus("3"), gpus("[1, 0]"), gpus("[]"), gpus("0")], [vec![0, 1, 2], vec![1, 0], vec![0], vec![0]]);
    let resume = |text: &str| read_with(LEAST, &[&format!("Training.resume={text}")]).0.training.resume;
    assert_eq!(
        [resume("False"), resume("auto"), resume("x/last.safetensors")],
        [Resume::Never, Resume::Auto, Resume::From("x/last.safetensors".into())]
    );
}

#[test]
fn overrides_replace_and_merge() {
    let (config, _) = read_with(
        FULL,
        &[
            "Data.rgb_bands=[2,1,0]",
            "Training.Losses.r1_gamma=7",
            "Training.EMA={decay: 0.5}",
            "Logging.wandb.project=a=b",
            "Generator.n_blocks=3",
            "Generator.n_blocks=4",
            "Training.max_steps=5",
        ],
    );
    assert_eq!(config.data.rgb_bands, [2, 1, 0]);
    assert_eq!((config.training.losses.r1_gamma, config.training.losses.sam_weight), (7.0, 0.25));
    assert_eq!((config.training.ema.decay, config.training.ema.enabled), (0.5, true), "mappings are merged");
    assert_eq!(config.logging.wandb.project, "a=b");
    assert_eq!((config.generator.n_blocks, config.training.max_steps), (4, Some(5)), "the last one counts");
}

#[test]
fn anchors_and_merge_keys() {
    let config = read(
        "Model: &m\n  in_bands: &bands 5\nGenerator: {out_channels: *bands}\nTraining:\n  EMA: &ema {decay: 0.5, enabled: true}
Schedulers:\n  <<: {patience_g: 3, cooldown: 4}\n  cooldown: 1\n",
    );
    assert_eq!((config.generator.out_channels, config.schedulers.patience_g, config.schedulers.cooldown), (5, 3, 1));
}

#[test]
fn keys_without_effect_are_reported() {
    let warnings = |overrides: &[&str]| read_with(LEAST, overrides).1;
    assert_eq!(
        warnings(&["Generator.model_type=esrgan", "Generator.block_type=rrdb"]),
        ["Generator.block_type has no effect: only SRResNet has block types"]
    );
    assert_eq!(warnings(&["Training.gpus=[0,1]"]), ["Training.gpus names 2 devices; one is used"]);
    assert!(warnings(&["Schedulers.g_warmup_steps=9"])[0].contains("warms up along a cosine"));
    assert!(warnings(&["Schedulers.g_warmup_steps=9", "Schedulers.g_warmup_type=cosine"]).is_empty());
    let frozen = warnings(&["Optimizers.optim_g_lr=0", "Optimizers.optim_d_lr=0"]);
    assert_eq!(frozen, ["Optimizers: both learning rates are 0, so nothing is trained"]);
    assert_eq!(
        warnings(&["Training.g_pretrain_steps=9"]),
        ["Training.g_pretrain_steps has no effect: Training.pretrain_g_only is false"]
    );
    assert_eq!(
        warnings(&["Model.in_bands=2", "Data.rgb_bands=[0,1,0]", "Training.Losses.fixed_idx=[2,1,0]"]),
        ["Training.Losses.fixed_idx has no effect: all of up to three bands are given to the perceptual term"]
    );
    assert_eq!(
        warnings(&["Training.Losses.perceptual_file=a.pth"]),
        ["Training.Losses.perceptual_file has no effect: perceptual_weight is 0"]
    );
    let config = read_with(LEAST, &["Generator.model_type=esrgan"]).0;
    assert_eq!(read_with(&config.to_yaml(), &[]).1, Vec::<String>::new(), "a run's own file does not warn");
}

#[test]
fn every_example_file_is_right() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let (_, warnings) = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(warnings, Vec::<String>::new(), "{}", path.display());
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    let known = ["10m", "20m", "demo", "esrgan", "lka", "perceptual", "rcab", "res", "rrdb", "srresnet", "stochastic"];
    assert_eq!(names, known);
}

#[test]
fn every_file_of_the_comparisons_is_right() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/compare");
    for (folder, count) in [(folder.join("gpu"), 3), (folder, 6)] {
        let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let configs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
        assert_eq!(configs.len(), count, "{configs:?}");
        for path in configs {
            let (_, warnings) = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(warnings, Vec::<String>::new(), "{}", path.display());
        }
    }
}

#[test]
fn the_demo_is_the_known_recipe() {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/demo.yaml");
    let (config, _) = Config::load(&demo, &[]).unwrap();
    let (generator, training) = (&config.generator, &config.training);
    assert_eq!((generator.block_type, generator.n_channels, generator.n_blocks), (BlockType::Res, 32, 4));
    assert_eq!((generator.scaling_factor, generator.large_kernel_size), (4, 3));
    assert_eq!((training.max_steps, training.g_pretrain_steps, training.ema.decay), (Some(1350), 1200, 0.995));
    assert_eq!((config.optimizers.betas, config.optimizers.optim_g_lr), ([0.9, 0.99], 2e-3));
    assert_eq!((config.discriminator.model_type, config.discriminator.n_blocks), (DiscriminatorType::PatchGan, 1));
}
