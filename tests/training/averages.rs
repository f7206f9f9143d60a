//! Validation uses the averaged weights once there are any, before that the live ones.

use crate::common::{Scratch, renamed};

const VALIDATED: [&str; 3] = ["val_metrics/l1", "val_metrics/ssim", "val_metrics/sam"];

#[test]
fn live_weights_serve_validation_until_the_first_update() {
    let scratch = Scratch::new();
    scratch.trained("none", &["Training.EMA.enabled=false"]);
    // The average is the live weights.
    scratch.trained("zero", &["Training.EMA.decay=0", "Training.EMA.use_num_updates=false"]);
    scratch.trained("late", &["Training.EMA.update_after_step=5"]);
    scratch.trained("never", &["Training.EMA.update_after_step=99"]);
    for name in VALIDATED {
        let [none, zero, late, never] = ["none", "zero", "late", "never"].map(|run| scratch.column(run, name));
        assert_eq!(none.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 5, 8, 11]);
        assert_eq!(none, zero);
        assert_eq!(none, never);
        // The first update is that of step 5, whose validation already uses it.
        assert_eq!(none[0], late[0]);
        assert!(none[1..].iter().zip(&late[1..]).all(|(a, b)| a != b), "{none:?} {late:?}");
    }
    // Training itself never sees the average.
    let content = |run| scratch.column(run, "generator/content_loss");
    assert_eq!(content("none"), content("late"));
}

#[test]
fn averaged_weights_serve_validation_afterwards() {
    let scratch = Scratch::new();
    // Without batch norm, so that a step with a learning rate of nothing changes nothing.
    let block = "Generator.block_type=res";
    scratch.trained("run", &[block]);
    let averaged = |name: &str| name.strip_prefix("ema.").map(|rest| format!("generator.{rest}"));
    renamed(&scratch.last("run"), &scratch.path("averaged.safetensors"), averaged);
    let live = |name: &str| name.starts_with("generator.").then(|| name.to_owned());
    renamed(&scratch.last("run"), &scratch.path("live.safetensors"), live);
    for weights in ["averaged", "live"] {
        let load = format!("Model.load_checkpoint={weights}.safetensors");
        let rest = ["Training.max_steps=1", "Training.val_check_interval=1", "Training.EMA.enabled=false"];
        scratch.trained(weights, &[&[block, &load, "Optimizers.optim_g_lr=1e-30"], &rest[..]].concat());
    }
    for name in VALIDATED {
        let [run, averaged, live] = ["run", "averaged", "live"].map(|r| scratch.numbers(r, name).pop().unwrap());
        assert_eq!(run, averaged);
        assert_ne!(run, live);
    }
}
