//! Writes a small run folder with everything that a run writes, under `target/tmp/sample_run`; the script
//! `tests/peers/check_files.py` reads it with the programs that users have.

use std::fs;
use std::path::Path;

use srgan::checkpoint::{BestK, CheckpointFile, LAST, Meta, TensorRef};
use srgan::log::{Messages, MetricsLog, PanelImages, PanelShape, Panels, Scalar};
use srgan::metrics::Direction;
use srgan::train::RunDir;

const METRICS: [&str; 4] =
    ["train_metrics/l1", "generator/content_loss", "discriminator/D(G(x))_prob", "val_metrics/psnr"];
const SHAPE: PanelShape = PanelShape { lr_height: 6, lr_width: 10, scale: 4, channels: 4 };

/// Runs steps `from..to`; validates and saves after every fifth.
fn run(folder: &Path, from: u64, to: u64, metrics: &[&str], best: &mut BestK) -> srgan::Result<()> {
    let mut log = MetricsLog::open(folder, metrics, from, None, &Messages::stderr())?;
    for step in from..to {
        let loss = 1.0 / (step as f32 + 3.0);
        let mut row: Vec<(&str, Scalar)> = vec![(METRICS[0], loss.into()), (METRICS[1], f64::from(loss).sqrt().into())];
        if step == 3 {
            row.push((METRICS[2], f32::NAN.into()));
        }
        log.row(step, step / 4, &row)?;
        if step % 5 == 4 {
            let psnr = if step == 9 { f64::INFINITY } else { 20.0 + step as f64 };
            log.row(step, step / 4, &[(METRICS[3], psnr.into())])?;
            log.panels(step, panels(step)?)?;
            log.flush()?;
            save(folder, step, psnr, best)?;
        }
    }
    log.finish()
}

/// Two images: waves in the four bands, SR a little off.
fn panels(step: u64) -> srgan::Result<Panels> {
    let image = |height: usize, width: usize, phase: f32| -> Vec<f32> {
        let at =
            |i: usize| (i / 4 % width) as f32 / width as f32 + (i % 4) as f32 + (i / 4 / width) as f32 / height as f32;
        (0..2 * height * width * 4).map(|i| (at(i) * 6.0 + phase).sin()).collect()
    };
    let (lr, hr) = (image(6, 10, 0.0), image(24, 40, 0.0));
    let (bicubic, sr) = (image(24, 40, 0.5), image(24, 40, 1.0 / (step + 1) as f32));
    let mut panels = Panels::new(&[2, 1, 0], 1.0);
    panels.push(&SHAPE, &PanelImages { lr: &lr, bicubic: &bicubic, sr: &sr, hr: &hr })?;
    Ok(panels)
}

fn save(folder: &Path, step: u64, metric: f64, best: &mut BestK) -> srgan::Result<()> {
    let (weight, bias) = ([0.25f32; 24], [step as f32; 4]);
    let tensors = vec![
        TensorRef { name: "generator.head.weight", shape: &[4, 3, 1, 2], data: &weight },
        TensorRef { name: "generator.head.bias", shape: &[4], data: &bias },
    ];
    let plan = best.plan(step, metric);
    let entries = plan.as_ref().map_or(best.entries(), |plan| &plan.entries).to_vec();
    let meta = Meta { step: step + 1, best: entries, config: "Model:\n  in_bands: 4\n".into(), ..Meta::default() };
    let file = CheckpointFile { tensors, meta: &meta };
    if let Some(plan) = plan {
        file.write_atomic(&folder.join(&plan.entry.path))?;
        best.commit(folder, plan)?;
    }
    file.write_atomic(&folder.join(LAST))
}

#[test]
fn a_resumed_run_leaves_a_folder_that_others_can_read() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample_run");
    let _ = fs::remove_dir_all(&folder);
    let mut best = BestK::new(Direction::Higher, 2, Vec::new());
    let first = RunDir::create_at(&folder).unwrap();
    // Killed after step 11; its last checkpoint is that of step 9.
    run(first.path(), 0, 12, &METRICS, &mut best).unwrap();
    drop(first);
    let second = RunDir::reopen(&folder).unwrap();
    let more = [&METRICS[..], &["EMA/decay"]].concat();
    run(second.path(), 10, 20, &more, &mut best).unwrap();

    let csv = fs::read_to_string(folder.join("metrics.csv")).unwrap();
    let steps: Vec<u64> = csv.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(steps, (0..20).collect::<Vec<_>>());
    assert!(csv.lines().next().unwrap().ends_with("EMA/decay"));
    let kept: Vec<u64> = best.entries().iter().map(|e| e.step).collect();
    assert_eq!(kept, [19, 14], "an infinite PSNR is never best");
    let count = |dir: &Path, end: &str| {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| name.ends_with(end)).count()
    };
    assert_eq!(count(&folder, ".safetensors"), 3);
    assert_eq!(count(&folder.join("val"), ".png"), 4);
}
