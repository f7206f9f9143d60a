//! What a run leaves: the best checkpoints, and a configuration that repeats it.

use std::fs;

use crate::common::{Scratch, assert_same_tensors, meta, tensors};

/// Steps of the `best-step=…` files of a run.
fn best_steps(scratch: &Scratch, run: &str) -> Vec<u64> {
    let names = fs::read_dir(scratch.path(run)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let step = |name: String| name.strip_prefix("best-step=")?.strip_suffix(".safetensors")?.parse().ok();
    let mut steps: Vec<u64> = names.filter_map(step).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn the_two_best_checkpoints_are_kept() {
    let scratch = Scratch::new();
    for (run, metric, sign) in [("low", "val_metrics/l1", 1.0), ("high", "val_metrics/psnr", -1.0)] {
        // A rate at which the metric goes up and down.
        let metric_g = format!("Schedulers.metric_g={metric}");
        let args = ["Training.val_check_interval=1", "Optimizers.optim_g_lr=2e-2", "Training.EMA.enabled=false"];
        scratch.trained(run, &[&args[..], &[&metric_g]].concat());
        let values = scratch.numbers(run, metric);
        let mut order: Vec<u64> = (0..12).collect();
        order.sort_by(|a, b| (sign * values[*a as usize]).total_cmp(&(sign * values[*b as usize])));
        assert_ne!(order[0], 11, "the best is not just the last: {values:?}");
        let mut best = order[..2].to_vec();
        let listed: Vec<u64> = meta(&scratch.last(run)).best.iter().map(|e| e.step).collect();
        assert_eq!(listed, best);
        best.sort_unstable();
        assert_eq!(best_steps(&scratch, run), best);
        for step in best {
            let path = scratch.path(run).join(format!("best-step={step}.safetensors"));
            assert_eq!(meta(&path).step, step + 1, "steps done");
            assert!(!tensors(&path).is_empty());
        }
    }
}

#[test]
fn the_saved_configuration_repeats_the_run() {
    let scratch = Scratch::new();
    scratch.trained("first", &["Training.seed=11", "Generator.n_blocks=2", "Data.augment=false"]);
    fs::copy(scratch.path("first/config.yaml"), scratch.path("cfg.yaml")).unwrap();
    scratch.trained("second", &[]);
    assert_same_tensors(&tensors(&scratch.last("first")), &tensors(&scratch.last("second")));
    assert_eq!(scratch.metrics_text("first"), scratch.metrics_text("second"));
    let yaml = |run: &str| fs::read_to_string(scratch.path(run).join("config.yaml")).unwrap();
    assert_eq!(yaml("first"), yaml("second"));
}

#[test]
fn a_limit_of_no_batches_is_no_validation_and_a_small_share_is_one() {
    let scratch = Scratch::new();
    for limit in ["0", "0.0"] {
        let run = format!("none{limit}");
        scratch.trained(&run, &[&format!("Training.limit_val_batches={limit}")]);
        assert!(scratch.column(&run, "val_metrics/l1").is_empty() && best_steps(&scratch, &run).is_empty());
    }
    scratch.trained("small", &["Training.limit_val_batches=0.001"]);
    scratch.trained("one", &["Training.limit_val_batches=1"]);
    let validated = |run| scratch.column(run, "val_metrics/l1");
    assert_eq!(validated("one").len(), 4);
    assert_eq!(validated("small"), validated("one"));
}

#[test]
fn a_run_leaves_a_page_and_a_picture_and_goes_on_where_there_is_no_page() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Logging.num_val_images=2"]);
    let page = fs::read_to_string(scratch.path("run/report.html")).unwrap();
    for part in ["ERGAS in validation", "Learning rates", "after step 11", "held-out imagery", "finished: 12 steps"] {
        assert!(page.contains(part), "{part}");
    }
    // Four validations and the picture at the end.
    assert_eq!(page.matches("data:image/png;base64,").count(), 4 + 1);
    assert!(scratch.path("run/held_out.png").is_file() && scratch.path("run/run.json").is_file());
    fs::create_dir_all(scratch.path("blocked/report.html")).unwrap();
    scratch.trained("blocked", &[]);
    let log = fs::read_to_string(scratch.path("blocked/train.log")).unwrap();
    // Once during the run and once at its end.
    assert_eq!(log.matches("the run's page is not brought up to date: cannot write").count(), 2, "{log}");
    assert_same_tensors(&tensors(&scratch.last("run")), &tensors(&scratch.last("blocked")));
}
