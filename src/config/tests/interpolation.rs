//! OmegaConf's interpolation.

use super::super::Config;
use crate::Error;

const LEAST: &str = "Model: {in_bands: 4}\n";

fn env(name: &str) -> Option<String> {
    match name {
        "LR" => Some("2e-4".into()),
        "PROJECT" => Some("from ${the} outside".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Error> {
    Config::read_text(&format!("{LEAST}{text}"), Some("run.yaml".as_ref()), &[], &env).map(|(cfg, _)| cfg)
}

#[test]
fn keys_siblings_and_parts_of_texts_are_taken_over() {
    let cfg = read(
        "Data:\n  train_batch_size: 6\n  val_batch_size: ${.train_batch_size}\n  rgb_bands: ${Training.Losses.fixed_idx}\n\
         Training:\n  seed: ${Data.rgb_bands[1]}\n  Losses: {fixed_idx: [2, 1, 0], l1_weight: '${..checkpoint_minutes}'}\n  \
         checkpoint_minutes: 3\n\
         Generator: {out_channels: '${Model.in_bands}'}\n\
         Logging: {dir: 'runs/${Model.in_bands}-${Logging.wandb.project}', wandb: {project: 'p${Data.train_batch_size}'}}\n",
    )
    .unwrap();
    assert_eq!((cfg.data.val_batch_size, cfg.data.rgb_bands, cfg.training.seed), (6, [2, 1, 0], 1));
    assert_eq!((cfg.training.losses.l1_weight, cfg.generator.out_channels), (3.0, 4));
    assert_eq!(cfg.logging.dir.to_str(), Some("runs/4-p6"));
}

#[test]
fn a_section_is_taken_over_whole_and_its_keys_checked() {
    let cfg = read("Training: {EMA: '${Training.Losses}', Losses: {}}\n").unwrap();
    assert!(!cfg.training.ema.enabled);
    let error = read("Training: {EMA: '${Training.Losses}', Losses: {l1_weight: 1}}\n").unwrap_err().to_string();
    assert!(error.contains("Training.EMA.l1_weight: unknown key"), "{error}");
}

#[test]
fn variables_of_the_environment_have_defaults() {
    let cfg = read(
        "Optimizers: {optim_g_lr: '${oc.env:LR}', optim_d_lr: '${oc.env:NOT_SET,3e-5}'}\n\
         Training: {num_threads: '${oc.env:NOT_SET,null}', seed: '${oc.env:NOT_SET,${oc.env:NOR_THIS,17}}'}\n\
         Data: {patches_per_epoch: '${oc.select:Data.nothing,8}'}\n\
         Logging: {wandb: {project: '${oc.env:PROJECT}', entity: \"${oc.env:NOT_SET,'a, b'}\"}}\n",
    )
    .unwrap();
    assert_eq!((cfg.optimizers.optim_g_lr, cfg.optimizers.optim_d_lr), (2e-4, 3e-5));
    assert_eq!((cfg.training.num_threads, cfg.training.seed, cfg.data.patches_per_epoch), (None, 17, Some(8)));
    assert_eq!(
        (cfg.logging.wandb.project.as_str(), cfg.logging.wandb.entity.as_deref()),
        ("from ${the} outside", Some("a, b"))
    );
    // What came from outside is no interpolation when the run's own file is read again.
    let (again, _) = Config::from_yaml(&cfg.to_yaml(), None, &[]).unwrap();
    assert_eq!(again, cfg);
}

#[test]
fn a_backslash_keeps_a_text_as_it_is() {
    let cfg = read("Logging: {wandb: {project: 'cost \\${5} of ${Model.in_bands}'}}\n").unwrap();
    assert_eq!(cfg.logging.wandb.project, "cost ${5} of 4");
}

#[test]
fn what_cannot_be_resolved_is_refused_at_its_line() {
    for (text, words) in [
        ("Training:\n  seed: ${Model.in_band}\n", &["run.yaml:3", "Training.seed", "`${Model.in_bands}`"][..]),
        ("Training: {seed: '${Training.max_steps}'}\n", &["names no key that is set"]),
        ("Training: {seed: '${Training.seed}'}\n", &["leads back to itself"]),
        (
            "Training: {seed: '${Data.num_workers}'}\nData: {num_workers: '${Training.seed}'}\n",
            &["leads back to itself"],
        ),
        ("Data: {store_dir: '${Data}'}\n", &["leads back to itself"]),
        ("Training: {seed: '${oc.env:NOT_SET}'}\n", &["`NOT_SET` is not set", "${oc.env:NOT_SET,default}"]),
        ("Training: {seed: '${oc.env:EMPTY'}\n", &["no closing brace"]),
        ("Training: {seed: 'a ${Model}'}\n", &["not a single value"]),
        ("Logging: {dir: 'logs/${now:%Y-%m-%d}'}\n", &["`${now:…}` cannot be resolved here", "Hydra's own"]),
        ("Training: {seed: '${my.resolver:1}'}\n", &["my.resolver", "oc.env"]),
        ("Training: {seed: '${oc.env:LR}'}\n", &["Training.seed", "whole number"]),
        ("defaults: [_self_, {data: example}]\n", &["run.yaml:2", "put together by Hydra", "--cfg job --resolve"]),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.exit_code(), 2);
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{text}: {error}"));
    }
}

#[test]
fn interpolation_cannot_exhaust_memory() {
    let mut text = String::from("Data:\n  a0: [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let item = format!("'${{Data.a{}}}'", level - 1);
        text.push_str(&format!("  a{level}: [{}]\n", vec![item; 10].join(", ")));
    }
    let error = read(&text).unwrap_err().to_string();
    assert!(error.contains("too large"), "{error}");
    let mut chain = String::from("Data:\n  a0: 1\n");
    (1..3000).for_each(|i| chain.push_str(&format!("  a{i}: ${{.a{}}}\n", i - 1)));
    let error = read(&chain).unwrap_err().to_string();
    assert!(error.contains("nested too deeply"), "{error}");
    let nested = format!("Training: {{seed: '{}1{}'}}\n", "${oc.env:NOT_SET,".repeat(5000), "}".repeat(5000));
    let error = read(&nested).unwrap_err().to_string();
    assert!(error.contains("nested"), "{error}");
}

#[test]
fn every_form_is_understood_and_written_back_resolved() {
    let (cfg, _) = Config::from_yaml(include_str!("interpolated.yaml"), None, &[]).unwrap();
    assert_eq!((cfg.data.val_batch_size, cfg.data.num_workers, cfg.training.seed), (6, 2, 1));
    assert_eq!((cfg.training.max_steps, cfg.training.losses.l1_weight), (Some(20), 3.0));
    assert_eq!(cfg.data.root_dir.as_ref().unwrap().to_str(), Some("data/4/a, b"));
    assert_eq!(cfg.logging.dir.to_str(), Some("runs/${not}/p6"));
    let text = cfg.to_yaml();
    assert!(!text.replace("\\\\${", "").contains("${"), "{text}");
    assert_eq!(Config::from_yaml(&text, None, &[]).unwrap().0, cfg);
}
