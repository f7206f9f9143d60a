//! What a run takes from files, and what it refuses: weights under other names, numbers that are not finite, imagery that
//! was exchanged; and a validation that is continued in its middle.

use std::fs;
use std::sync::Arc;

use srgan::checkpoint::{CheckpointFile, Meta, TensorFile, TensorRef};
use srgan::config::Config;
use srgan::data::{Dataset, PixelType};
use srgan::device::collective::threads::together;
use srgan::runtime::Cpu;
use srgan::train::plans::{ValBatch, validation_batches};
use srgan::train::programs::Phase;
use srgan::train::session::Session;
use srgan::train::validate::{Validating, Validation};
use srgan::train::{data_settings, open_device};

use crate::common::{Scratch, assert_same_tensors, meta, npy, renamed, scene_value, tensors};

/// Rewrites a checkpoint with other values and another document.
fn changed(scratch: &Scratch, folder: &str, values: impl Fn(&str, &mut Vec<f32>), document: impl Fn(&mut Meta)) {
    let (mut file, mut meta) = TensorFile::open_checkpoint(&scratch.last("run")).unwrap();
    let mut all = Vec::new();
    for entry in file.entries().to_vec() {
        let mut data = file.read(&entry.name).unwrap();
        values(&entry.name, &mut data);
        all.push((entry.name, entry.shape, data));
    }
    document(&mut meta);
    fs::create_dir_all(scratch.path(folder)).unwrap();
    let tensors = all.iter().map(|(name, shape, data)| TensorRef { name, shape, data }).collect();
    CheckpointFile { tensors, meta: &meta }.write_atomic(&scratch.last(folder)).unwrap();
}

#[test]
fn numbers_that_are_not_finite_are_refused_when_they_are_loaded() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=8"]);
    let poison = |prefix: &'static str, value: f32| {
        move |name: &str, data: &mut Vec<f32>| {
            if name.starts_with(prefix) {
                data[0] = value;
            }
        }
    };
    for (folder, prefix, value, said) in [
        ("live", "generator.", f32::NAN, "holds NaN"),
        ("average", "ema.", f32::INFINITY, "holds inf"),
        ("moments", "optim_d.exp_avg.", f32::NEG_INFINITY, "holds -inf"),
        ("squares", "optim_g.exp_avg_sq.", -1.0, "a mean of squares is not negative"),
    ] {
        changed(&scratch, folder, poison(prefix, value), |_| {});
        scratch.train(&["--resume", folder]).exits(2).says(&[prefix, said]);
    }
    let load = ["Model.load_checkpoint=live/last.safetensors", "--run-dir", "next"];
    scratch.train(&load).exits(2).says(&["generator.", "holds NaN"]);
    scratch.train(&[&load[..], &["--dry-run"]].concat()).exits(2).says(&["generator.", "holds NaN"]);
    assert!(!scratch.path("next").exists());
    changed(&scratch, "factor", |_, _| {}, |meta| meta.plateau_g.factor = -1.5);
    scratch.train(&["--resume", "factor"]).exits(2).says(&["plateau_g.factor is -1.5"]);
}

#[test]
fn weights_are_found_under_the_names_of_wrappers() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=8"]);
    let bare = |name: &str| name.strip_prefix("generator.").map(str::to_owned);
    let prefixes = ["module.generator.", "generator.module.", "_orig_mod.generator.", "model.generator._orig_mod.", ""];
    for (number, prefix) in prefixes.into_iter().enumerate() {
        renamed(&scratch.last("run"), &scratch.path("w.safetensors"), |name| Some(format!("{prefix}{}", bare(name)?)));
        let run = format!("next{number}");
        let args = ["Model.load_checkpoint=w.safetensors", "Optimizers.optim_g_lr=0", "Training.max_steps=1"];
        let said = ["initial weights of generator from w.safetensors", "the discriminator starts anew"];
        scratch.train(&[&args[..], &["--run-dir", &run]].concat()).exits(0).says(&said);
        let weights = |run: &str| -> Vec<_> {
            let of_generator = |name: &str| name.starts_with("generator.") && !name.contains("running_");
            tensors(&scratch.last(run)).into_iter().filter(|t| of_generator(&t.0)).collect()
        };
        assert_same_tensors(&weights("run"), &weights(&run));
    }
    // Names that no wrapper gives are shown beside those that are wanted.
    renamed(&scratch.last("run"), &scratch.path("w.safetensors"), |name| Some(format!("teacher.{}", bare(name)?)));
    let refused = scratch.train(&["Model.load_checkpoint=w.safetensors", "--run-dir", "other"]).exits(2);
    refused.says(&["no tensor of this configuration's generator; its tensors are teacher.net.", "generator.head."]);
}

#[test]
fn a_generator_is_taken_beside_a_new_discriminator_and_from_a_folder() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=8"]);
    let args = ["Discriminator.model_type=standard", "Discriminator.n_blocks=2", "Model.load_checkpoint=run"];
    let anew = "the discriminator starts anew: the file has none that fits";
    let from = "initial weights of generator from run/last.safetensors";
    scratch.train(&[&args[..], &["--run-dir", "next"]].concat()).exits(0).says(&[from, anew]);
    scratch.train(&[&args[..], &["--dry-run"]].concat()).exits(0).says(&[from, anew]);
    let both = ["Model.load_checkpoint=run", "--dry-run"];
    scratch.train(&both).exits(0).says(&["initial weights of generator and discriminator from run/last.safetensors"]);
}

#[test]
fn a_learning_rate_of_0_freezes_a_network() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=8"]);
    let args = ["Model.load_checkpoint=run", "Training.pretrain_g_only=false", "Optimizers.optim_g_lr=0"];
    scratch.trained("next", &[&args[..], &["Optimizers.optim_d_lr=1e-3"]].concat());
    let of = |run: &str, prefix: &str| -> Vec<_> {
        let trained = |name: &str| name.starts_with(prefix) && !name.contains("running_");
        tensors(&scratch.last(run)).into_iter().filter(|t| trained(&t.0)).collect()
    };
    assert_same_tensors(&of("run", "generator."), &of("next", "generator."));
    assert_ne!(of("run", "discriminator."), of("next", "discriminator."));
}

#[test]
fn imagery_that_was_exchanged_is_noticed() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=4"]);
    let before = fs::read(scratch.last("run")).unwrap();
    // A copy elsewhere is the same imagery.
    fs::create_dir(scratch.path("moved")).unwrap();
    fs::copy(scratch.path("scene.npy"), scratch.path("moved/other.npy")).unwrap();
    let resume = ["--resume", "run", "Training.max_steps=5"];
    scratch.train(&[&resume[..], &["Data.scenes=[moved/other.npy]"]].concat()).exits(0);
    fs::write(scratch.last("run"), before).unwrap();

    scratch.write("scene.npy", &npy(PixelType::U16, &[64, 64, 3], |i| scene_value(i) + 100.0));
    let refused = scratch.train(&resume).exits(2);
    refused.says(&["run/last.safetensors", "1 training images as then, but a file was changed", "--accept-new-data"]);
    let two = [&resume[..], &["Data.scenes=[scene.npy,moved/other.npy]"]].concat();
    scratch.train(&two).exits(2).says(&["2 training images now, 1 then", "--accept-new-data"]);
    let accepted = scratch.train(&[&resume[..], &["--accept-new-data"]].concat()).exits(0);
    accepted.says(&["warning: the imagery is not what the run was trained on", "continuing at step 4"]);
    assert_eq!(meta(&scratch.last("run")).step, 5);
    // Now it is the run's.
    scratch.train(&["--resume", "run", "Training.max_steps=6"]).exits(0);
}

/// A session and data for validations of several batches and two pictures.
fn validation() -> (Scratch, Session, Dataset, Arc<[ValBatch]>) {
    let scratch = Scratch::new();
    let text = fs::read_to_string(scratch.path("cfg.yaml")).unwrap();
    let overrides = [
        format!("Data.scenes=[{}]", scratch.path("scene.npy").display()),
        format!("Data.store_dir={}", scratch.path("store").display()),
        "Training.limit_val_batches=100".into(),
        "Data.val_batch_size=1".into(),
        "Logging.num_val_images=2".into(),
    ];
    let (cfg, _) = Config::from_yaml(&text, None, &overrides).unwrap();
    let dataset = Dataset::open(&data_settings(&cfg)).unwrap();
    let session = Session::new(cfg.clone(), open_device(&cfg).unwrap()).unwrap();
    let batches: Arc<[ValBatch]> = validation_batches(&cfg, &dataset).into();
    assert!(batches.len() >= 4);
    (scratch, session, dataset, batches)
}

/// Two ranks that leave a validation and begin it again come to the same bits, which both hold.
#[test]
fn a_validation_of_several_ranks_goes_on_where_it_was_left() {
    let (_scratch, session, dataset, batches) = validation();
    let cfg = session.config().clone();
    let values = together(2, |ranks| {
        let mut session = Session::new(cfg.clone(), Box::new(Cpu::new(1).unwrap().among(ranks))).unwrap();
        let begin =
            |session: &Session| Validating::new(session, &dataset, batches.clone(), Phase::Adversarial).unwrap();
        let continued_after = |rounds: usize, session: &mut Session| {
            let mut first = begin(session);
            (0..rounds).for_each(|_| assert!(first.step(session).unwrap()));
            let mut second = begin(session);
            second.resume(&first.state(7));
            while second.step(session).unwrap() {}
            second.finish().values.into_iter().map(|(m, v)| (m, v.to_bits())).collect::<Vec<_>>()
        };
        let rounds = 0..=batches.len().div_ceil(2);
        rounds.map(|rounds| continued_after(rounds, &mut session)).collect::<Vec<_>>()
    });
    assert!(values.iter().flatten().all(|of_rank| *of_rank == values[0][0]), "{values:?}");
}

#[test]
fn a_validation_goes_on_where_it_was_left() {
    let (_scratch, mut session, dataset, batches) = validation();
    let begin = |session: &Session| Validating::new(session, &dataset, batches.clone(), Phase::Adversarial).unwrap();
    let finish = |mut validating: Validating, session: &mut Session| -> Validation {
        while validating.step(session).unwrap() {}
        validating.finish()
    };
    let whole = {
        let validating = begin(&session);
        finish(validating, &mut session)
    };
    let bits = |v: &Validation| v.values.iter().map(|(m, v)| (*m, v.to_bits())).collect::<Vec<_>>();
    for done in 0..=batches.len() {
        let mut first = begin(&session);
        (0..done).for_each(|_| assert!(first.step(&mut session).unwrap()));
        // Through the text of a checkpoint.
        let state = serde_json::to_string(&first.state(7)).unwrap();
        let state = serde_json::from_str(&state).unwrap();
        let mut second = begin(&session);
        second.resume(&state);
        assert_eq!(second.state(7), state);
        let continued = finish(second, &mut session);
        assert_eq!(bits(&continued), bits(&whole), "after {done} batches");
        assert_eq!(continued.panels.rows(), whole.panels.rows(), "after {done} batches");
    }
    // What was counted on other batches is not taken over.
    let mut other = begin(&session).state(7);
    (other.batches, other.done, other.images) = (99, 1, 1);
    let mut validating = begin(&session);
    validating.resume(&other);
    assert_eq!(validating.state(7).images, 0);
}
