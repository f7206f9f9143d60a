//! The learning rate that is logged is the one that acts: runs with a schedule have the weights of runs that are
//! stopped and continued with the scheduled rates as constants.

use crate::common::{Scratch, assert_same_tensors, meta, tensors};

const NO_PLATEAU: [&str; 2] = ["Schedulers.patience_g=1000", "Schedulers.patience_d=1000"];

/// Trains one step with each pair of constant rates (generator, discriminator).
fn step_by_step(scratch: &Scratch, run: &str, rates: &[(f64, f64)], args: &[&str]) {
    for (i, (g, d)) in rates.iter().enumerate() {
        let set = [
            format!("Optimizers.optim_g_lr={g}"),
            format!("Optimizers.optim_d_lr={d}"),
            format!("Training.max_steps={}", i + 1),
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let constant = ["Schedulers.g_warmup_steps=0", "--resume", "auto"];
        scratch.trained(run, &[args, &set, &constant, &NO_PLATEAU].concat());
    }
}

#[track_caller]
fn assert_same_run(scratch: &Scratch, rates: &[(f64, f64)]) {
    for (column, rates) in [
        ("lr_generator", rates.iter().map(|r| r.0 as f32).collect::<Vec<_>>()),
        ("lr_discriminator", rates.iter().map(|r| r.1 as f32).collect()),
    ] {
        let logged = |run| scratch.numbers(run, column).into_iter().map(|v| v as f32).collect::<Vec<_>>();
        assert_eq!(logged("scheduled"), rates, "{column}");
        assert_eq!(logged("constant"), rates, "{column}");
    }
    assert_same_tensors(&tensors(&scratch.last("scheduled")), &tensors(&scratch.last("constant")));
}

#[test]
fn warm_up() {
    let scratch = Scratch::new();
    let warm = [
        "Schedulers.g_warmup_steps=4",
        "Schedulers.g_warmup_type=linear",
        "Optimizers.optim_g_lr=4e-3",
        "Training.max_steps=5",
    ];
    scratch.trained("scheduled", &[&warm[..], &NO_PLATEAU].concat());
    let rates = [1e-3, 2e-3, 3e-3, 4e-3, 4e-3].map(|g| (g, 1e-4));
    step_by_step(&scratch, "constant", &rates, &[]);
    assert_same_run(&scratch, &rates);
}

#[test]
fn plateau_of_both_networks() {
    let scratch = Scratch::new();
    let args = ["Training.pretrain_g_only=false", "Training.val_check_interval=1"];
    let falling = [
        "Schedulers.g_warmup_steps=0",
        "Schedulers.threshold=0.99",
        "Schedulers.factor_d=0.25",
        "Training.max_steps=4",
    ];
    scratch.trained("scheduled", &[&args[..], &falling].concat());
    // The first validation sets the best, the others are bad.
    let rates = [(1e-3, 1e-4), (1e-3, 1e-4), (5e-4, 2.5e-5), (2.5e-4, 6.25e-6)];
    step_by_step(&scratch, "constant", &rates, &args);
    assert_same_run(&scratch, &rates);
}

#[test]
fn the_discriminators_plateau_waits_for_the_adversarial_phase() {
    let scratch = Scratch::new();
    let args = ["Training.val_check_interval=1", "Schedulers.threshold=0.99", "Training.max_steps=9"];
    scratch.trained("run", &args);
    let rates = scratch.numbers("run", "lr_discriminator");
    assert_eq!(rates.len(), 9);
    // Steps 0 … 5 are pretraining; the validation after step 6 is the first that counts.
    assert!(rates[..8].iter().all(|lr| *lr as f32 == 1e-4) && rates[8] as f32 == 5e-5, "{rates:?}");
    assert!(scratch.numbers("run", "lr_generator")[8] < 1e-5, "the generator's has fallen all the while");
    scratch.trained("short", &[&args[..2], &["Training.max_steps=6"]].concat());
    assert_eq!(meta(&scratch.last("short")).plateau_d, Default::default());
}
