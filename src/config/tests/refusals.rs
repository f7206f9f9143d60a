//! Wrong files and overrides: what is said, where it points, what it suggests.

use super::{read_with, refusal};
use crate::Error;
use crate::config::{Config, Discriminator, DiscriminatorType};

const LEAST: &str = "Model: {in_bands: 4}";

/// File (if any), line and key of a configuration error.
fn place(error: &Error) -> (Option<String>, Option<usize>, String) {
    match error {
        Error::Config { file, line, key, .. } => (file.as_ref().map(|f| f.display().to_string()), *line, key.clone()),
        other => panic!("not a configuration error: {other}"),
    }
}

/// An override, and what its refusal says, separated by `|`.
const WRONG_VALUES: &[(&str, &str)] = &[
    ("Training.Losses.ssim_win=8", "must be odd, found 8"),
    ("Training.Losses.ssim_win=1", "between 3 and 255"),
    ("Training.Losses.l1_weight=-1", "must be 0 or more, found -1"),
    ("Training.Losses.l1_weight=.nan", "a finite number"),
    ("Training.Losses.sam_weight=.inf", "a finite number"),
    ("Training.Losses.tv_weight=1e999", "a finite number"),
    ("Training.Losses.perceptual_weight=-0.1", "found -0.1"),
    ("Training.Losses.fixed_idx=[0,1]", "a list of 3 values|a list of 2 values"),
    ("Training.Losses.fixed_idx=[0,1,4]", "there is no band 4|Model.in_bands is 4|from 0 to 3"),
    ("Training.Losses.adv_loss_type=bcs", "`bcs` is not one of bce, wasserstein|did you mean `bce`?"),
    ("Training.Losses.adv_loss_schedule=step", "not one of linear, cosine"),
    ("Training.Losses.max_val=0", "must be above 0"),
    ("Training.EMA.decay=1.5", "between 0 and 1"),
    ("Training.EMA.enabled=1", "expected true or false, found the number 1"),
    ("Training.EMA.enabled='True'", "found the text `True`"),
    ("Training.EMA.device=tpu", "cpu or cuda:<number>"),
    ("Training.EMA=3", "expected a section"),
    ("Training.device=tpu", "not one of auto, cpu, cuda"),
    ("Training.isa=sse", "not one of auto, avx512, avx2, neon, portable"),
    ("Training.gpus=-1", "found -1"),
    ("Training.gpus=[0,0]", "listed twice"),
    ("Training.gpus=99999999999999", "at most 1024"),
    ("Training.max_epochs=-2", "must be -1 or more, found -2"),
    ("Training.g_pretrain_steps=-2", "must be -1 or more"),
    ("Training.g_pretrain_steps=1.5", "a whole number, found the number 1.5"),
    ("Training.adv_loss_ramp_steps=-1", "found -1"),
    ("Training.val_check_interval=0", "a share of an epoch"),
    ("Training.val_check_interval=2.0", "a share of an epoch"),
    ("Training.limit_val_batches=1.5", "a share of the batches"),
    ("Training.num_threads=0", "between 1 and 1024, found 0"),
    ("Training.num_threads=None", "found the text `None`|`null`"),
    ("Training.checkpoint_minutes=0", "above 0"),
    ("Training.accumulate_grad_batches=0", "between 1 and"),
    ("Training.resume=[a]", "false, auto or a checkpoint's path"),
    ("Training.precision=f16", "not one of auto, f32, tf32, bf16"),
    ("Optimizers.betas=[0.9,1.0]", "at least 0 and below 1, found 1"),
    ("Optimizers.betas=0.9", "a list of 2 values"),
    ("Optimizers.optim_g_lr=-1e-4", "must be 0 or more"),
    ("Optimizers.optim_g_lr=1e-60", "0 or at least 1.2e-38"),
    ("Optimizers.eps=1e-300", "must be at least 1.2e-38, found"),
    ("Optimizers.betas=[0.9,0.9999999999]", "at most 0.9999999"),
    ("Optimizers.gradient_clip_val=1e-300", "0 or at least 1.2e-38"),
    ("Training.Losses.max_val=1e-9", "between 1e-6 and 1e12"),
    ("Generator.res_scale=1e300", "at most 3.4e38"),
    ("Generator.n_blocks=", "no value behind the `=`|`null`"),
    ("Training.max_steps=99999999999999999", "at most 2^53 (about 9e15)"),
    ("Training.seed=-1", "must be 0 or more, found -1"),
    ("Optimizers.optim_g_lr=1e39", "must be at most 3.4e38"),
    ("Training.Losses.r1_gamma=1e39", "must be at most 3.4e38"),
    ("Optimizers.optim_g_lr=fast", "expected a number, found the text `fast`"),
    ("Optimizers.eps=010", "found the text `010`"),
    ("Schedulers.factor_g=1", "above 0 and below 1"),
    ("Schedulers.metric_g=val_metrics/l2", "`val_metrics/l2` is not one of|did you mean `val_metrics/l1`?"),
    ("Schedulers.metric_d=val_metrics/perceptual", "is not computed"),
    ("Generator.large_kernel_size=8", "must be odd, found 8"),
    ("Generator.small_kernel_size=2", "must be odd, found 2"),
    ("Generator.scaling_factor=3", "a power of two, found 3"),
    ("Generator.scaling_factor=16", "between 1 and 8, found 16"),
    ("Generator.scaling_factor=1", "2, 4 or 8 for SRResNet"),
    ("Generator.n_blocks=0", "between 1 and 1024"),
    ("Generator.n_blocks=[4]", "a whole number, found a list of 1 values"),
    ("Generator.n_blocks=999999999999999999999999999999999999999999999999", "a whole number|999"),
    ("Generator.out_channels=3", "must equal Model.in_bands (4), found 3"),
    ("Generator.model_type=srresnt", "not one of SRResNet, esrgan, stochastic_gan|did you mean `SRResNet`?"),
    ("Generator.block_type=rcap", "did you mean `rcab`?"),
    ("Discriminator.model_type=vgg", "not one of standard, patchgan, esrgan"),
    ("Discriminator.n_blocks=0", "between 1 and 16"),
    ("Data.val_fraction=1.0", "above 0 and below 1"),
    ("Data.train_batch_size=0", "between 1 and"),
    ("Data.batch_size=0", "between 1 and"),
    ("Data.rgb_bands=[3,2,4]", "there is no band 4"),
    ("Data.bands=[0,1]", "names 2 bands, but Model.in_bands is 4"),
    ("Data.bands=[0,-1,1,2]", "found -1"),
    ("Data.scale=0", "another number than 0"),
    ("Data.offset=1e300", "at most 3.4e38"),
    ("Data.mask=all", "not one of auto, ignore"),
    ("Data.scenes=[[]]", "a scene without files"),
    ("Data.store_days=0", "between 1 and 36500"),
    ("Data.hr_size=66", "multiple of Generator.scaling_factor (4), found 66|64 and 68 are"),
    ("Data.hr_size=4", "too small for an ssim_win of 11"),
    ("Data.dataset_type=SEN2NAIP", "SEN2NAIP|LRHRFolderDataset|Data.scenes"),
    ("Data.dataset_type=S2_6b", "the S2_6b data set cannot|LRHRFolderDataset|Data.scenes"),
    ("Data.dataset_type=mine", "not one of ExampleDataset, LRHRFolderDataset, Scenes"),
    ("Data.normalization={name: custom, normalize: 'm:f'}", "Python callables"),
    ("Data.normalization={normalize: 'm:f'}", "Python callables"),
    ("Data.normalization=normalise_20k", "did you mean `normalise_10k`?"),
    ("Data.root_dir=True", "expected a path, found `True` (true or false)"),
    ("Data.root_dir=${oc.env:SRGAN_IS_NOT_SET}", "`SRGAN_IS_NOT_SET` is not set"),
    ("Data.root_dir=???", "the value is missing"),
    ("Logging.wandb.project=../x", "name of a folder"),
    ("Logging.wandb.project=..", "name of a folder"),
    ("Logging.num_val_images=-1", "found -1"),
    ("TruncatedVGG.i=6", "between 1 and 5"),
];

#[test]
fn wrong_values_are_refused() {
    for (text, parts) in WRONG_VALUES {
        let error = refusal(LEAST, &[text]);
        let key = text.split_once('=').unwrap().0;
        assert_eq!(place(&error), (None, None, key.into()), "{error}");
        let said = error.to_string();
        assert!(said.contains(&format!("(in the override `{text}`)")), "{said}");
        for part in parts.split('|') {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
}

#[test]
fn combinations_are_refused() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["Generator.block_type=rcab", "Generator.n_channels=15"], "Generator.n_channels", "at least 16"),
        (&["Generator.model_type=rcab", "Generator.n_channels=15"], "Generator.n_channels", "at least 16"),
        (&["Model.load_checkpoint=a", "Model.continue_training=b"], "Model.continue_training", "together"),
        (&["Training.resume=auto", "Model.continue_training=b"], "Training.resume", "together"),
        (&["Data.dataset_type=Scenes"], "Data.scenes", "at least one scene"),
        (&["Data.dataset_type=LRHRFolderDataset"], "Data.root_dir", "needs its folder"),
        (
            &["Training.Losses={l1_weight: 0, sam_weight: 0, adv_loss_beta: 0}"],
            "Training.Losses.l1_weight",
            "with adv_loss_beta 0 the generator has nothing to learn from",
        ),
        (
            &["Training.Losses={l1_weight: 0, sam_weight: 0}", "Training={pretrain_g_only: true, g_pretrain_steps: 5}"],
            "Training.Losses.l1_weight",
            "in pretraining the generator has nothing to learn from",
        ),
        (&["TruncatedVGG={i: 2, j: 3}"], "TruncatedVGG.j", "has 2 convolutions"),
        (
            &["Training.Losses.perceptual_weight=0.1", "Data.hr_size=12"],
            "Data.hr_size",
            "patches of 12 pixels are too small for the perceptual loss, whose network needs 16",
        ),
        (
            &["Training.perceptual_loss_weight=0.1", "Training.Losses.perceptual_metric=lpips", "Data.hr_size=28"],
            "Data.hr_size",
            "whose network needs 31",
        ),
        (&["Discriminator.model_type=patchgan", "Data.hr_size=20"], "Data.hr_size", "n_blocks 3, which needs 24"),
        (
            &["Discriminator.model_type=patchgan", "Discriminator.n_blocks=16", "Data.hr_size=64"],
            "Data.hr_size",
            "196608",
        ),
        (&["Generator.model_type=stochastic", "Generator.scaling_factor=1"], "Generator.scaling_factor", "2, 4 or 8"),
    ];
    for (overrides, key, part) in cases {
        let error = refusal(LEAST, overrides);
        assert_eq!(place(&error).2, *key, "{error}");
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
    read_with(LEAST, &["Generator.model_type=esrgan", "Generator.scaling_factor=1"]);
    // The adversarial loss alone, and pretraining by the mean absolute error whatever its weight, do train.
    read_with(LEAST, &["Training.Losses={l1_weight: 0, sam_weight: 0}"]);
    let l1 = "Training={pretrain_g_only: true, g_pretrain_steps: -1, pretrain_loss: l1}";
    read_with(LEAST, &["Training.Losses={l1_weight: 0, sam_weight: 0, adv_loss_beta: 0}", l1]);
    read_with(LEAST, &["Discriminator.model_type=patchgan", "Data.hr_size=24"]);
    let error = refusal("Training: {seed: 1}", &[]);
    assert_eq!(place(&error), (Some("run.yaml".into()), None, "Model.in_bands".into()));
}

#[test]
fn what_is_quoted_is_short() {
    let long = "x".repeat(100_000);
    for text in [
        format!("Training.device={long}"),
        format!("Training.seed={long}"),
        format!("Schedulers.metric_g={long}"),
        format!("Logging.wandb.project={long}/"),
        format!("Data.root_dir='${{{long}'"),
        format!("Training.{long}=1"),
        long.clone(),
    ] {
        let said = refusal(LEAST, &[&text]).to_string();
        assert!(said.len() < 3000, "{} characters", said.len());
    }
    let said = refusal(&format!("Training: {{device: {long}}}"), &[]).to_string();
    assert!(said.len() < 1500 && said.contains("xxx…"), "{said}");
}

#[test]
fn smallest_inputs_of_the_discriminators() {
    let smallest = |model_type, n_blocks, batch| {
        Discriminator { model_type, n_blocks, ..Discriminator::default() }.smallest_input(batch)
    };
    use DiscriminatorType::{Esrgan, PatchGan, Standard};
    // patchgan, n = 1: 6 -> 3 (no norm) -> 2 (norm over 4 values) -> 1; from 5: 2 -> 1 (norm over one value).
    assert_eq!([smallest(PatchGan, 1, 8), smallest(PatchGan, 3, 8)], [6, 24]);
    // standard, n = 4 halves twice, rounding up: 5 -> 3 -> 2, but 4 -> 2 -> 1, too few for a batch of one.
    assert_eq!([smallest(Standard, 4, 8), smallest(Standard, 4, 1), smallest(Standard, 1, 1)], [1, 5, 1]);
    assert_eq!([smallest(Esrgan, 8, 8), smallest(Esrgan, 8, 1)], [1, 2]);
}

#[test]
fn files_are_refused_at_their_line() {
    let at = |text: &str| {
        let error = refusal(text, &[]);
        let (file, line, key) = place(&error);
        assert_eq!(file.as_deref(), Some("run.yaml"), "{error}");
        (line.unwrap(), key, error.to_string())
    };
    let (line, key, said) = at("Model:\n  in_bands: 4\nTraining:\n  Losses:\n    # weights\n    l1_wieght: 1\n");
    assert_eq!((line, key.as_str()), (6, "Training.Losses.l1_wieght"));
    assert!(said.starts_with("run.yaml:6: Training.Losses.l1_wieght: unknown key"), "{said}");
    assert!(said.contains("did you mean `Training.Losses.l1_weight`?"), "{said}");

    let (line, key, said) = at("Model: {in_bands: 4}\n\n\nGenerator:\n  n_blocks: many\n");
    assert_eq!((line, key.as_str()), (5, "Generator.n_blocks"));
    assert!(said.contains("expected a whole number, found the text `many`"), "{said}");

    let (line, key, said) =
        at("Model:\n  in_bands: 4\nData:\n  hr_size: 64\nGenerator:\n  n_blocks: 1\n  n_blocks: 2\n");
    assert_eq!((line, key.as_str()), (7, "Generator.n_blocks"));
    assert!(said.contains("appears twice (first on line 6)"), "{said}");

    let (line, key, _) = at("Model:\n  in_bands: 4\nData:\n  batch_size: 0\n");
    assert_eq!((line, key.as_str()), (4, "Data.batch_size"), "an alias is named as written");

    let (line, key, said) = at("Model:\n  in_bands: 4\n  load_checkpoint: [a\nData: 1\n");
    assert!(said.contains("not valid YAML") && line >= 3, "{line} {key} {said}");
    assert!(at("Model: {in_bands: 4}\nData: {root_dir: \"a\n").2.contains("not valid YAML"));
    assert!(at("- 1\n- 2\n").2.contains("expected the sections"));
    assert!(at("just text").2.contains("found the text `just text`"));
    assert!(at("Model: {in_bands: 4}\n---\nModel: {in_bands: 4}\n").2.contains("second YAML document"));
    assert!(at("Model: {in_bands: 4}\n? [a, b]\n: 1\n").2.contains("a key must be a name"));
    assert_eq!(at("Model: {in_bands: 4}\nGenerator: 7\n").0, 2);
    assert!(at("Model: &m {in_bands: 4, x: *m}\n").2.contains("run.yaml:1"));
    assert!(at("Model: {in_bands: *nothing}\n").2.contains("not valid YAML"));
}

#[test]
fn unknown_keys_suggest_the_one_that_was_meant() {
    let cases = [
        ("Trainng.seed=1", "Trainng", "`Training`"),
        ("training.seed=1", "training", "`Training`"),
        ("Training.l1_weight=1", "Training.l1_weight", "`Training.Losses.l1_weight`"),
        ("l1_weight=1", "l1_weight", "`Training.Losses.l1_weight`"),
        ("Training.EMA.decai=1", "Training.EMA.decai", "`Training.EMA.decay`"),
        ("Data.batchsize=1", "Data.batchsize", "_batch_size`"),
        ("Optimizers.zzz=1", "Optimizers.zzz", "valid here: optim_g_lr, optim_d_lr"),
        ("Training.Losses.loss.x=1", "Training.Losses.loss", "hint"),
    ];
    for (text, key, hint) in cases {
        let error = refusal(LEAST, &[text]);
        assert_eq!(place(&error).2, key);
        let said = error.to_string();
        assert!(said.contains("unknown key (in the override") && said.contains(hint), "{said}");
    }
}

#[test]
fn overrides_must_have_their_form() {
    for text in ["Generator.n_blocks", "=3", ".x=3", "Generator.=3"] {
        let said = refusal(LEAST, &[text]).to_string();
        assert!(said.contains(&format!("`{text}`")) && said.contains("Section.key=value"), "{said}");
    }
    let said = refusal(LEAST, &["Model.in_bands.x=3"]).to_string();
    assert!(said.contains("`Model.in_bands` is not a section"), "{said}");
    assert!(refusal(LEAST, &["Data.bands=[1,"]).to_string().contains("not valid YAML"));
}

#[test]
fn hostile_files_end_in_an_error() {
    let deep = format!("Model: {}", "[".repeat(50_000));
    refusal(&deep, &[]);
    refusal(&format!("{}1", "a: {".repeat(10_000)), &[]);
    let mut laughs = String::from("a0: &a0 [x]\n");
    for i in 1..40 {
        laughs += &format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}]\n", i - 1);
    }
    assert!(refusal(&laughs, &[]).to_string().contains("too large"));
    for text in [
        "",
        "\u{feff}",
        "\0",
        "%YAML 9",
        "!!binary x",
        "Model: !x {in_bands: 4",
        "\t- a",
        "a: b: c",
        "'",
        "&a",
        "*a",
        "? ",
    ] {
        refusal(text, &[]);
    }
}

#[test]
fn unreadable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cfg.yaml");
    let error = Config::load(&path, &[]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("cfg.yaml") && error.to_string().contains("cannot be read"), "{error}");
    std::fs::write(&path, b"Model:\n  in_bands: 4\n# \xff\n").unwrap();
    let error = Config::load(&path, &[]).unwrap_err();
    assert_eq!(place(&error).1, Some(3));
    std::fs::write(&path, "\u{feff}Model: {in_bands: 4}\r\nTraining: {seed: 5}\r\n").unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap().0.training.seed, 5);
}

/// A long value under one anchor, named many times: refused before it is copied so often.
#[test]
fn anchors_cannot_multiply_a_long_value() {
    let text = format!("Data:\n  scenes: [&a {}, {}]\n", "x".repeat(1 << 20), vec!["*a"; 5000].join(", "));
    let error = Config::from_yaml(&text, None, &[]).unwrap_err().to_string();
    assert!(error.contains("too large for a configuration"), "{}", &error[..error.len().min(300)]);
    assert!(error.len() < 400, "{} bytes", error.len());
}
