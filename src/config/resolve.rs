//! What happens between the tree and the typed sections: aliases and legacy forms are rewritten to the keys of
//! the schema, and defaults that depend on other keys are filled in.

use super::choice::{BlockType, Choice, DatasetType, DiscriminatorType, GeneratorType};
use super::schema::Config;
use super::tree::{Content, Node, Plain, Wrong};
use crate::Result;

/// Other keys for the same value: the key as written, and the keys it stands for unless they are set.
const ALIASES: &[(&str, &[&str])] = &[
    ("Data.batch_size", &["Data.train_batch_size", "Data.val_batch_size"]),
    ("Data.dataset_root", &["Data.root_dir"]),
    ("Schedulers.metric", &["Schedulers.metric_g", "Schedulers.metric_d"]),
    ("Schedulers.gradient_clip_val", &["Optimizers.gradient_clip_val"]),
    ("Training.Losses.perceptual_loss_weight", &["Training.Losses.perceptual_weight"]),
    ("Training.perceptual_loss_weight", &["Training.Losses.perceptual_weight"]),
];

/// Keys of opensr-srgan's documents that have no effect there either, and why not to worry.
const IGNORED: &[(&str, &str)] = &[
    ("hydra", "it configures Hydra's own job"),
    ("Data.sen2naip_taco_file", "only the SEN2NAIP data set uses it"),
    ("Data.sen2naip_phase", "only the SEN2NAIP data set uses it"),
    ("Data.sen2naip_val_fraction", "only the SEN2NAIP data set uses it"),
    ("Schedulers.verbose", "changes of a learning rate are always reported"),
    ("Training.Losses.randomize_bands", "bands are drawn for each batch unless fixed_idx names them"),
    ("Training.Losses.content_loss_weight", "set the weights of the single terms"),
];

/// Aliases, each with what to write instead.
pub(crate) fn aliases() -> impl Iterator<Item = (&'static str, String)> {
    ALIASES.iter().map(|(alias, keys)| (*alias, keys.join(" and ")))
}

/// Keys without effect, each with why.
pub(crate) fn ignored() -> impl Iterator<Item = (&'static str, &'static str)> {
    IGNORED.iter().copied()
}

/// Rewrites aliases and legacy forms; returns warnings about keys without effect. Errors: what this program
/// refuses by name (SEN2NAIP, normalisation by Python callables).
pub(crate) fn canonicalise(root: &mut Node) -> Result<Vec<String>> {
    refuse_composition(root)?;
    refuse_other_data_sets(root)?;
    normalization_mapping(root)?;
    legacy_block(root)?;
    let mut warnings = no_values(root);
    for (alias, keys) in ALIASES {
        let Some(node) = root.take(alias).filter(|node| !node.is_null()) else { continue };
        let mut unset = keys.iter().filter(|key| root.get(key).is_none()).peekable();
        if unset.peek().is_none() {
            warnings.push(format!("{alias} has no effect, because {} is set", keys.join(" and ")));
        }
        let unset: Vec<_> = unset.copied().collect();
        for key in unset {
            root.put(key, node.clone())?;
        }
    }
    for (key, why) in IGNORED {
        if root.take(key).is_some_and(|node| !node.is_null()) {
            warnings.push(format!("{key} has no effect: {why}"));
        }
    }
    Ok(warnings)
}

/// Takes out values that say nothing: the empty project of opensr-srgan's files, and NaN or infinity for "no data".
fn no_values(root: &mut Node) -> Vec<String> {
    if root.get("Logging.wandb.project").and_then(Node::text).is_some_and(|name| name.trim().is_empty()) {
        root.take("Logging.wandb.project");
    }
    match root.get("Data.nodata").and_then(Node::plain) {
        Some(Plain::Float(value)) if !value.is_finite() => {
            root.take("Data.nodata");
            vec!["Data.nodata has no effect: NaN and infinite pixels are always left out".into()]
        }
        _ => vec![],
    }
}

/// Hydra's list of files to put together, which only Hydra can follow.
fn refuse_composition(root: &Node) -> Result<()> {
    match root.get("defaults") {
        Some(node) => {
            let wrong = Wrong::new("this file is put together by Hydra from others, which is not done here");
            Err(node.error(wrong.hint(
                "write out the whole with Hydra: python -m opensr_srgan.train_hydra --cfg job --resolve > cfg.yaml",
            )))
        }
        None => Ok(()),
    }
}

/// Names of data sets in opensr-srgan's own files that need its Python readers or are not published.
const OTHER_DATA_SETS: &[&str] = &["SEN2NAIP", "cv", "SPOT6", "S2_6b", "SISR_WW"];

fn refuse_other_data_sets(root: &Node) -> Result<()> {
    let Some(node) = root.get("Data.dataset_type") else { return Ok(()) };
    let named = |name: &&&str| node.text().is_some_and(|text| text.trim().eq_ignore_ascii_case(name));
    match OTHER_DATA_SETS.iter().find(named) {
        Some(name) => {
            let wrong = Wrong::new(format!("the {name} data set cannot be read by this program"));
            Err(node.error(wrong.hint(
                "use your own pairs of files with Data.dataset_type=LRHRFolderDataset and Data.root_dir, \
                 or whole scenes with Data.dataset_type=Scenes and Data.scenes",
            )))
        }
        None => Ok(()),
    }
}

/// `Data.normalization` as a mapping with `name` or `method`.
fn normalization_mapping(root: &mut Node) -> Result<()> {
    let Some(node) = root.get("Data.normalization") else { return Ok(()) };
    if !matches!(node.content, Content::Map(_)) {
        return Ok(());
    }
    let name = node.get("name").or_else(|| node.get("method"));
    let is_custom = name.is_none_or(|name| name.text().is_some_and(|text| text.trim().eq_ignore_ascii_case("custom")));
    if is_custom {
        let wrong = Wrong::new("normalisation by Python callables cannot be run by this program");
        return Err(node.error(wrong.hint("choose a built-in method, as Data.normalization=normalise_10k")));
    }
    let Some(name) = name.cloned() else { return Ok(()) };
    // `put` merges into a mapping, so the mapping goes first.
    root.take("Data.normalization");
    root.put("Data.normalization", Node { key: "Data.normalization".into(), ..name })
}

/// Old files name the block where the family belongs (`model_type: rcab`); `block_type`, if set, comes first.
fn legacy_block(root: &mut Node) -> Result<()> {
    let names_block = |node: &Node| {
        node.text().is_some_and(|name| GeneratorType::from_name(name).is_none() && BlockType::from_name(name).is_some())
    };
    if !root.get("Generator.model_type").is_some_and(names_block) {
        return Ok(());
    }
    match root.take("Generator.model_type") {
        Some(block) if root.get("Generator.block_type").is_none() => root.put("Generator.block_type", block),
        _ => Ok(()),
    }
}

/// Fills in the defaults that depend on other values.
pub(crate) fn dependent_defaults(config: &mut Config, root: &Node) {
    let unset = |key: &str| root.get(key).is_none();
    if unset("Optimizers.optim_d_lr") {
        config.optimizers.optim_d_lr = (0.5 * config.optimizers.optim_g_lr).max(1e-6);
    }
    let schedulers = &mut config.schedulers;
    if unset("Schedulers.patience_d") {
        schedulers.patience_d = schedulers.patience_g;
    }
    if unset("Schedulers.factor_d") {
        schedulers.factor_d = schedulers.factor_g;
    }
    if unset("Generator.n_blocks") && config.generator.model_type == GeneratorType::Esrgan {
        config.generator.n_blocks = 23;
    }
    if unset("Generator.out_channels") {
        config.generator.out_channels = config.model.in_bands;
    }
    if unset("Discriminator.n_blocks") && config.discriminator.model_type == DiscriminatorType::PatchGan {
        config.discriminator.n_blocks = 3;
    }
    let data = &mut config.data;
    if unset("Data.augment") {
        data.augment = data.dataset_type == DatasetType::Scenes;
    }
    if data.dataset_type == DatasetType::Scenes {
        data.hr_size.get_or_insert(128);
    }
    if data.dataset_type == DatasetType::Example {
        data.root_dir.get_or_insert_with(|| "example_dataset".into());
    }
    if unset("Data.rgb_bands") && config.model.in_bands < 3 {
        data.rgb_bands = [0; 3]; // shown in grey
    }
}
