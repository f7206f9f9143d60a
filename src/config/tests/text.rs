//! The configuration as text, and what differs between two.

use super::{read, read_with};
use crate::config::*;

#[test]
fn yaml_round_trip() {
    let awkward = "Model: {in_bands: 4, load_checkpoint: \"a: 'b' #c\\n\\\"\\u00e9\"}
Data: {scenes: ['yes', '1e3', 'null', 'a, b', '- x', '{}'], dataset_type: Scenes, nodata: 1e-300, bands: [3, 2, 1, 0]}
Training: {resume: run/last.safetensors, max_steps: 9007199254740992, val_check_interval: 7, limit_val_batches: 1.0}
Optimizers: {eps: 1e-20, optim_g_lr: 1e20}
Logging: {wandb: {entity: 'true', project: '*x'}}";
    for text in [awkward, include_str!("full.yaml"), "Model: {in_bands: 1}"] {
        let config = read(text);
        let yaml = config.to_yaml();
        assert_eq!(read(&yaml), config, "{yaml}");
        assert_eq!(read(&yaml).to_yaml(), yaml);
    }
}

#[test]
fn yaml_is_complete_and_plain() {
    let yaml = read("Model: {in_bands: 4}").to_yaml();
    for part in [
        "Data:\n  train_batch_size: 8\n",
        "  EMA:\n    enabled: false\n",
        "    adv_loss_beta: 0.001\n",
        "  eps: 1.0e-7\n",
        "  continue_training: null\n",
        "  betas: [0.0, 0.99]\n",
        "  metric_g: val_metrics/l1\n",
        "  wandb:\n    enabled: false\n    entity: null\n    project: srgan\n",
        "TruncatedVGG:\n  i: 5\n  j: 4\n",
    ] {
        assert!(yaml.contains(part), "{part} is not in\n{yaml}");
    }
    assert!(!yaml.contains("batch_size: null"), "aliases are folded into their keys");
}

#[test]
fn diff_names_keys_and_knows_architecture() {
    let old = read("Model: {in_bands: 4}");
    assert_eq!(old.diff(&old), []);
    let new =
        read_with(&old.to_yaml(), &["Training.EMA.decay=0.5", "Generator.n_blocks=3", "Generator.growth_channels=8"]).0;
    let change = |key: &str, old: &str, new: &str, architecture| Change {
        key: key.into(),
        old: old.into(),
        new: new.into(),
        architecture,
    };
    assert_eq!(
        old.diff(&new),
        [
            change("Training.EMA.decay", "0.999", "0.5", false),
            change("Generator.n_blocks", "16", "3", true),
            change("Generator.growth_channels", "32", "8", false), // rcab and its kin have no growth channels
        ]
    );
    let esrgan = read_with("Model: {in_bands: 4}", &["Generator.model_type=esrgan"]).0;
    let wider = read_with("Model: {in_bands: 4}", &["Generator.model_type=esrgan", "Generator.growth_channels=8"]).0;
    assert_eq!(esrgan.diff(&wider), [change("Generator.growth_channels", "32", "8", true)]);
    let patch = read_with("Model: {in_bands: 4}", &["Discriminator.model_type=patchgan"]).0;
    let keys: Vec<_> = old.diff(&patch).into_iter().map(|change| (change.key, change.architecture)).collect();
    assert_eq!(keys, [("Discriminator.model_type".into(), true), ("Discriminator.n_blocks".into(), true)]);
}

#[test]
fn architecture_keys_exist() {
    let yaml = read("Model: {in_bands: 4}");
    for generator in GeneratorType::ALL {
        for discriminator in DiscriminatorType::ALL {
            let mut config = yaml.clone();
            config.generator.model_type = *generator;
            config.discriminator.model_type = *discriminator;
            for key in config.architecture_keys() {
                let (section, name) = key.split_once('.').unwrap();
                let text = config.to_yaml();
                let inside = text.split_once(&format!("{section}:\n")).unwrap().1;
                assert!(
                    inside.contains(&format!("\n  {name}: ")) || inside.starts_with(&format!("  {name}: ")),
                    "{key}"
                );
            }
        }
    }
}
