//! Runs as jobs of a batch system: how their time ends, how they are queued again and find their folder, and what the
//! command line says of ranks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use srgan::checkpoint::TensorFile;

use crate::common::{Finished, Scratch, assert_same_tensors, finish, tensors};

/// A run that ends by its time alone, and leaves a checkpoint every few steps.
const LONG: [&str; 3] = ["Training.max_steps=1000000", "Training.max_epochs=-1", "Training.val_check_interval=1000000"];

/// A job's variables.
type Job<'a> = &'a [(&'a str, &'a str)];

/// The program as part of a job of SLURM, alone.
fn in_job(scratch: &Scratch, job: Job, args: &[&str]) -> Command {
    let mut command = scratch.command(args);
    std::env::vars().filter(|(name, _)| name.starts_with("SLURM_")).for_each(|(name, _)| _ = command.env_remove(name));
    command.envs(job.iter().copied());
    command
}

fn step(scratch: &Scratch, folder: &str) -> u64 {
    TensorFile::open_checkpoint(&scratch.path(folder).join("last.safetensors")).unwrap().1.step
}

#[test]
fn a_run_stops_at_its_time_and_goes_on_to_the_same_bits() {
    let scratch = Scratch::new();
    let args = [&LONG[..], &["--run-dir", "run", "Training.max_time=0:00:01"]].concat();
    let said = ["Training.max_time; continue with --resume run"];
    scratch.train(&args).exits(75).says(&said);
    let steps = step(&scratch, "run");
    assert!(steps > 0);
    let end = format!("Training.max_steps={}", steps + 3);
    scratch.trained("run", &[&LONG[1..], &["--resume", "run", &end]].concat());
    scratch.trained("whole", &[&LONG[1..], &[&end[..]]].concat());
    assert_same_tensors(&tensors(&scratch.last("run")), &tensors(&scratch.last("whole")));
}

/// Puts a `scontrol` into the folder that writes its arguments to `asked` and ends as told.
fn put_scontrol(scratch: &Scratch, ending: &str) -> String {
    let program = scratch.write("bin/scontrol", format!("#!/bin/sh\necho \"$@\" >> asked\n{ending}\n").as_bytes());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", scratch.path("bin").display(), std::env::var("PATH").unwrap())
}

#[test]
fn a_job_is_queued_again_when_its_time_is_over() {
    let scratch = Scratch::new();
    let ended = |ending: &str, run: &str| -> Finished {
        let args = [&LONG[..], &["--run-dir", run, "--requeue", "Training.max_time=0:00:01"]].concat();
        let path = put_scontrol(&scratch, ending);
        finish(in_job(&scratch, &[("SLURM_JOB_ID", "71"), ("SLURM_RESTART_COUNT", "1")], &args).env("PATH", path))
    };
    let said = ["SLURM job 71, queued again once", "SLURM job 71 is queued again (scontrol requeue 71)"];
    ended("", "run").exits(75).says(&said);
    assert_eq!(fs::read_to_string(scratch.path("asked")).unwrap(), "requeue 71\n");
    let failed = ended("echo 'Access denied' >&2; exit 1", "other").exits(75);
    failed.says(&["the job is not queued again: scontrol requeue 71: Access denied"]);
    assert!(step(&scratch, "other") > 0);
    let nowhere = finish(&mut in_job(&scratch, &[], &["--requeue"]));
    nowhere.exits(2).says(&["SLURM_JOB_ID is not set"]);
}

#[test]
fn the_end_of_a_job_stops_its_run() {
    let scratch = Scratch::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let end = (now + 3).to_string();
    let job = [("SLURM_JOB_ID", "71"), ("SLURM_JOB_END_TIME", &*end)];
    let args = [&LONG[..], &["--run-dir", "run"]].concat();
    finish(&mut in_job(&scratch, &job, &args)).exits(75).says(&["the job's time limit"]);
    // Handed on by a job that is over.
    let past = [("SLURM_JOB_ID", "71"), ("SLURM_JOB_END_TIME", "1000")];
    finish(&mut in_job(&scratch, &past, &["--run-dir", "other", "Training.max_steps=2"])).exits(0);
}

#[test]
fn jobs_continue_their_own_runs() {
    let scratch = Scratch::new();
    let task =
        |task: &'static str| [("SLURM_JOB_ID", "72"), ("SLURM_ARRAY_JOB_ID", "70"), ("SLURM_ARRAY_TASK_ID", task)];
    let run = |job: Job, steps: &str| {
        let steps = format!("Training.max_steps={steps}");
        finish(&mut in_job(&scratch, job, &["--resume", "auto", &steps])).exits(0)
    };
    run(&task("1"), "2").says(&["a new one begins", "task 1 of array job 70"]);
    run(&task("2"), "3").says(&["a new one begins"]);
    // Queued again, though the other task's run is newer.
    run(&task("1"), "4").says(&["continuing at step 2 from logs/srgan/job_70_1/"]);
    assert_eq!([step(&scratch, "logs/srgan/job_70_1"), step(&scratch, "logs/srgan/job_70_2")], [4, 3]);
    // A job in a chain goes on with the project's newest run, and with the same when it is queued again.
    let plain = [("SLURM_JOB_ID", "80")];
    run(&plain, "5").says(&["continuing at step 4 from logs/srgan/job_70_1/"]);
    run(&task("2"), "6").says(&["continuing at step 3 from logs/srgan/job_70_2/"]);
    run(&plain, "7").says(&["continuing at step 5 from logs/srgan/job_70_1/"]);
}

#[test]
fn a_dry_run_of_several_ranks_says_what_a_step_is() {
    let scratch = Scratch::new();
    let rank = |rank: &str, args: &[&str]| finish(scratch.command(args).env("PMI_RANK", rank).env("PMI_SIZE", "2"));
    let first = rank("0", &["--dry-run"]).exits(0);
    let text = first.says(&["ranks: 2, started by PMI · 4 samples a step", "2 steps per epoch"]).text;
    let bytes = |phase: &str| -> f64 {
        let rest = text.split(&format!("all-reduced in a step ({phase}): ")).nth(1).unwrap();
        let [number, unit] = [0, 1].map(|word| rest.split_whitespace().nth(word).unwrap());
        number.parse::<f64>().unwrap() * if unit == "MiB" { 1024.0 } else { 1.0 }
    };
    // Kilobytes: floats of the generator's weights, which start at round numbers, and mean and variance of 8 channels in 3
    // norms.
    let total = text.lines().find(|line| line.starts_with("total")).unwrap();
    let weights: f64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    let expected = 4.0 * (weights + 1.0 + 2.0 * 8.0 * 3.0) / 1024.0;
    assert!((1.0..1.1).contains(&(bytes("pretrain") / expected)), "{expected}: {text}");
    assert!(bytes("adversarial") > 10.0 * bytes("pretrain"), "{text}");
    assert_eq!(rank("1", &["--dry-run"]).exits(0).text, "");
}

#[test]
fn other_ranks_than_the_config_asks_for_are_refused() {
    let scratch = Scratch::new();
    scratch.train(&["Training.num_nodes=2"]).exits(2).says(&["Training.num_nodes", "2 nodes are asked for"]);
    let mut command = scratch.command(&["--dry-run", "Training.devices=3"]);
    let refused = finish(command.env("PMI_RANK", "0").env("PMI_SIZE", "4")).exits(2);
    refused.says(&["Training.devices: 3 ranks on each node are asked for, but PMI has started 4 ranks"]);
    scratch.train(&["--rank", "1"]).exits(2).says(&["--rank is given without --world-size"]);
}
