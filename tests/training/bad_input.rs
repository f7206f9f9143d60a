//! Files that cannot be used end the program with code 2 and their name, before a run folder is made; a full disk
//! leaves the previous checkpoint.

use std::fs;
use std::process::Command;

use srgan::data::PixelType;

use crate::common::{Scratch, finish, meta, npy, scene_value, tensors};
use crate::data_sets::write_pairs;

const PAIRS: [&str; 4] =
    ["Data.dataset_type=LRHRFolderDataset", "Data.root_dir=pairs", "Data.normalization=zero_one", "Data.hr_size=null"];

/// Asserts that the data are refused with these texts and that no run was begun.
#[track_caller]
fn refused(scratch: &Scratch, args: &[&str], wanted: &[&str]) {
    scratch.train(args).exits(2).says(wanted);
    assert!(!scratch.path("logs").exists());
}

#[test]
fn pairs_whose_sizes_do_not_match() {
    let scratch = Scratch::new();
    write_pairs(&scratch, "pairs");
    scratch.write("pairs/train/LR/image_3.npy", &npy(PixelType::F32, &[8, 6, 3], |_| 0.5));
    refused(&scratch, &PAIRS, &["train/LR/image_3.npy", "8 × 6", "16 × 16"]);
}

#[test]
fn validation_images_that_are_too_small_for_a_network() {
    let scratch = Scratch::new();
    write_pairs(&scratch, "pairs");
    scratch.write("pairs/val/LR/image_0.npy", &npy(PixelType::F32, &[4, 4, 3], |_| 0.5));
    scratch.write("pairs/val/HR/image_0.npy", &npy(PixelType::F32, &[8, 8, 3], |_| 0.5));
    let args = [&PAIRS[..], &["Discriminator.n_blocks=2", "Training.Losses.ssim_win=5"]].concat();
    refused(&scratch, &args, &["Discriminator", "at least 12 pixels", "the smallest validation image has 8"]);
    // The discriminator judges none where it does not train, or nothing is validated.
    for change in ["Training.g_pretrain_steps=-1", "Training.limit_val_batches=0"] {
        scratch.train(&[&args[..], &[change, "--dry-run"]].concat()).exits(0);
    }
}

#[test]
fn a_loader_that_does_not_fit_into_memory() {
    let scratch = Scratch::new();
    let args = ["Data.num_workers=1024", "Data.prefetch_factor=1024", "Data.patches_per_epoch=1000000000"];
    let large = [&args[..], &["Data.train_batch_size=900", "Training.g_pretrain_steps=-1"]].concat();
    refused(&scratch, &large, &["Data.num_workers", "data loader", "lower Data.num_workers or Data.prefetch_factor"]);
}

#[test]
fn pixels_that_are_no_numbers() {
    for value in [f32::NAN, f32::INFINITY] {
        let scratch = Scratch::new();
        write_pairs(&scratch, "pairs");
        let hr = npy(PixelType::F32, &[16, 16, 3], |i| if i == 100 { value } else { 0.5 });
        scratch.write("pairs/val/HR/image_1.npy", &hr);
        refused(&scratch, &PAIRS, &["val/HR/image_1.npy", "band 1"]);
    }
}

#[test]
fn empty_and_missing_folders_and_scenes() {
    let scratch = Scratch::new();
    refused(&scratch, &PAIRS, &["pairs", "no such folder"]);
    fs::create_dir_all(scratch.path("pairs/train/LR")).unwrap();
    refused(&scratch, &PAIRS, &["pairs/train/LR", "no image files"]);
    refused(&scratch, &["Data.scenes=[none.npy]"], &["none.npy"]);
    let example = ["Data.dataset_type=ExampleDataset", "Data.root_dir=pairs", "Data.hr_size=null"];
    refused(&scratch, &example, &["pairs"]);
}

#[test]
fn scenes_without_a_patch() {
    let scratch = Scratch::new();
    refused(&scratch, &["Data.hr_size=128"], &["scene.npy", "128"]);
    scratch.write("scene.npy", &npy(PixelType::U16, &[64, 64, 3], |_| 0.0));
    refused(&scratch, &["Data.nodata=0"], &["scene.npy"]);
}

#[test]
fn damaged_scenes() {
    let scratch = Scratch::new();
    let whole = npy(PixelType::U16, &[64, 64, 3], scene_value);
    scratch.write("scene.npy", &whole[..whole.len() / 2]);
    refused(&scratch, &[], &["scene.npy"]);
    scratch.write("scene.npy", b"II*\0 this is no array");
    refused(&scratch, &[], &["scene.npy"]);
    scratch.write("scene.npy", &npy(PixelType::U16, &[64, 64, 2], |_| 1000.0));
    refused(&scratch, &[], &["scene.npy", "bands"]);
}

#[test]
fn checkpoints_that_cannot_be_read() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=2"]);
    let resume = ["--run-dir", "run", "--resume", "auto"];
    let whole = fs::read(scratch.last("run")).unwrap();
    for (bytes, wanted) in [(&whole[..whole.len() - 5], "cut short"), (&whole[..4], ""), (b"", ""), (&[0xff; 999], "")]
    {
        fs::write(scratch.last("run"), bytes).unwrap();
        scratch.train(&resume).exits(2).says(&["run/last.safetensors", wanted]);
        assert_eq!(fs::read(scratch.last("run")).unwrap(), bytes, "the file was changed");
    }
    refused(&scratch, &["--resume", "none.safetensors"], &["none.safetensors", "no such file"]);
    refused(&scratch, &["Model.load_checkpoint=none.safetensors"], &["none.safetensors", "no such file"]);
    fs::create_dir(scratch.path("empty")).unwrap();
    refused(&scratch, &["--resume", "empty"], &["empty/last.safetensors", "no such file"]);
}

#[test]
fn extreme_numbers_do_not_panic() {
    let scratch = Scratch::new();
    let steps = "Training.max_steps=2";
    scratch.trained("rarely", &[steps, "Training.checkpoint_minutes=1e30"]);
    refused(&scratch, &["Optimizers.optim_g_lr=1e39"], &["Optimizers.optim_g_lr", "at most 3.4e38"]);
    scratch.trained("forever", &[steps, "Schedulers.g_warmup_steps=1000000000", "Data.prefetch_factor=1024"]);
}

#[test]
fn a_full_disk_leaves_the_previous_checkpoint() {
    let scratch = Scratch::new();
    scratch.trained("run", &["Training.max_steps=3"]);
    let (before, state) = (tensors(&scratch.last("run")), meta(&scratch.last("run")));
    // Room for everything but the checkpoint; the shell counts blocks of 512 bytes or of 1024.
    let blocks = fs::metadata(scratch.last("run")).unwrap().len() / 2048;
    let script = format!("ulimit -f {blocks}; exec \"$@\"");
    let program = scratch.command(&["--run-dir", "run", "--resume", "auto"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
    let done = finish(limited.current_dir(scratch.path("")));
    let done = done.exits(1).says(&["safetensors", "free some space", "--resume"]);
    assert_eq!(tensors(&scratch.last("run")), before);
    assert_eq!(meta(&scratch.last("run")), state);
    assert!(
        done.text.contains("the last checkpoint, of 3 steps, is kept: continue with --resume run"),
        "{}",
        done.text
    );
    // A run without a checkpoint is not told to continue.
    let program = scratch.command(&["--run-dir", "new"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
    let done = finish(limited.current_dir(scratch.path(""))).exits(1).says(&["free some space", "start it again"]);
    assert!(!done.text.contains("--resume"), "{}", done.text);
    // With room again the run goes on.
    scratch.trained("run", &["--resume", "auto"]);
    assert_eq!(meta(&scratch.last("run")).step, 12);
}
