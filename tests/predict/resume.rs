//! However a map is made, in one piece, killed and resumed, or from parts: its bytes are the same.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use srgan::log::Messages;
use srgan::predict::{MergeOptions, Part, PredictOptions, merge};
use srgan::rng::{Rng, Stream};

use crate::common::{GLOBAL, SMALL, Scratch, ground, map, options, refused};

#[test]
fn twenty_kills_leave_the_bytes_as_they_are() {
    let scratch = Scratch::new();
    let generator = SMALL.replace("n_channels: 4, n_blocks: 1", "n_channels: 16, n_blocks: 6");
    scratch.checkpoint("m.safetensors", &generator, 2, "normalization: identity");
    scratch.floats("s.npy", &[900, 150, 2], ground);
    let command = |out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_srgan"));
        let fixed = ["predict", "-m", "m.safetensors", "s.npy", "--device", "cpu", "--threads", "1", "--window", "48"];
        command.args(fixed).args(["-o", out]).current_dir(scratch.path("")).stderr(Stdio::null());
        command
    };
    assert!(command("whole.tif").status().unwrap().success());
    let mut rng = Rng::new(2, Stream::Crop, 0, 0);
    let mut kills = 0;
    for attempt in 0.. {
        assert!(attempt < 200, "{kills} kills in {attempt} attempts, and no map");
        let mut child = command("killed.tif").arg("--resume").spawn().unwrap();
        if kills < 20 {
            // Long enough for some rows, not for all.
            std::thread::sleep(Duration::from_millis(20 + (rng.uniform() * 150.0) as u64));
            child.kill().unwrap();
        }
        match child.wait().unwrap().code() {
            None => kills += 1,
            Some(code) => assert_eq!(code, 0),
        }
        if scratch.path("killed.tif").exists() {
            break;
        }
    }
    assert!(kills >= 5, "{kills} kills");
    assert!(fs::read(scratch.path("killed.tif")).unwrap() == fs::read(scratch.path("whole.tif")).unwrap());
    let left: Vec<String> = scratch.files().into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A map by a process whose files can have so many blocks, of 512 bytes or of 1024 as the shell has it: its exit code and
/// what it said.
fn map_in_blocks(scratch: &Scratch, blocks: &str, options: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_srgan"), "predict"]);
    command.args(["-m", "m.safetensors", "s.npy", "-o", "map.tif", "--device", "cpu", "--threads", "1"]).args(options);
    let output = command.current_dir(scratch.path("")).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// No room for the working file: it says so, and nothing is left that a later run would stumble over.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let scratch = Scratch::new();
    scratch.checkpoint("m.safetensors", SMALL, 2, "normalization: identity");
    scratch.floats("s.npy", &[300, 300, 2], ground);
    let before = scratch.files();
    let (code, said) = map_in_blocks(&scratch, "500", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot write .map.tif.new") && said.contains("free some space"), "{said}");
    assert_eq!(scratch.files(), before);
}

/// Room for the working file, none for the map: what is finished stays and is gone on with.
#[test]
fn a_disk_that_is_full_at_the_end_costs_no_work() {
    let scratch = Scratch::new();
    scratch.checkpoint("m.safetensors", SMALL, 2, "normalization: identity");
    scratch.floats("s.npy", &[300, 300, 2], ground);
    let mut left = scratch.files();
    left.insert(0, ".map.tif.work".into());
    // 2.9 MB of working file, and tiles of 8.4 MB.
    let options = ["--compress", "none"];
    let (code, said) = map_in_blocks(&scratch, "6500", &options);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot write .map.tif.tmp") && said.contains("free some space"), "{said}");
    assert!(said.contains("continue with the same command and --resume"), "{said}");
    assert_eq!(scratch.files(), left);
    let (code, said) = map_in_blocks(&scratch, "unlimited", &[options[0], options[1], "--resume"]);
    assert_eq!(code, Some(0), "{said}");
    let resumed = fs::read(scratch.path("map.tif")).unwrap();
    let (code, said) = map_in_blocks(&scratch, "unlimited", &[options[0], options[1], "--overwrite"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(fs::read(scratch.path("map.tif")).unwrap() == resumed);
    assert!(!scratch.path(".map.tif.work").exists());
}

#[test]
fn a_signal_saves_what_is_done_and_exits_with_75() {
    let scratch = Scratch::new();
    let generator = SMALL.replace("n_channels: 4, n_blocks: 1", "n_channels: 32, n_blocks: 12");
    scratch.checkpoint("m.safetensors", &generator, 2, "normalization: identity");
    scratch.floats("s.npy", &[1500, 400, 2], ground);
    let args = ["predict", "-m", "m.safetensors", "s.npy", "-o", "map.npy", "--device", "cpu", "--threads", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_srgan"));
    let mut child = command.args(args).current_dir(scratch.path("")).stderr(Stdio::piped()).spawn().unwrap();
    while !scratch.path(".map.npy.work").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the map was made before the signal");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: kill takes two numbers and touches no memory; the child has not been waited for, so the number is its.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("--resume") && said.contains(".map.npy.work"), "{said}");
    assert!(scratch.path(".map.npy.work").exists() && !scratch.path("map.npy").exists());
}

/// Parts of a map, in the order of their rows.
fn parts(scratch: &Scratch, options: &PredictOptions, count: usize) -> Vec<PathBuf> {
    let make = |index: usize| {
        let part = Some(Part { index, count });
        map(&scratch.path("s.npy"), &scratch.path("m.tif"), &PredictOptions { part, ..options.clone() }).unwrap();
        scratch.path(&format!("m.tif.part-{index}-of-{count}"))
    };
    (1..=count).map(make).collect()
}

fn join(parts: &[PathBuf], scratch: &Scratch, out: &str) -> Result<(), String> {
    let messages = Messages::plain(std::io::sink());
    merge(parts, &scratch.path(out), MergeOptions::default(), &messages).map_err(|e| e.to_string())
}

#[test]
fn parts_joined_are_the_whole() {
    // Rows that are final, and rows that are blended with those of the next window.
    for (generator, count) in [(SMALL, 3), (GLOBAL, 2), (GLOBAL, 9)] {
        let scratch = Scratch::new();
        let checkpoint = scratch.checkpoint("m.safetensors", generator, 1, "normalization: identity");
        scratch.floats("s.npy", &[200, 90], ground);
        let tiled = PredictOptions { window: Some(48), ..options(&checkpoint) };
        map(&scratch.path("s.npy"), &scratch.path("whole.tif"), &tiled).unwrap();
        let mut parts = parts(&scratch, &tiled, count);
        parts.reverse();
        join(&parts, &scratch, "joined.tif").unwrap();
        assert!(fs::read(scratch.path("joined.tif")).unwrap() == fs::read(scratch.path("whole.tif")).unwrap());
        assert!(join(&parts, &scratch, "joined.tif").unwrap_err().contains("this file exists"));
        assert!(join(&parts[1..], &scratch, "x.tif").unwrap_err().contains("are in none of the parts"));
        let twice = [&parts[..], &parts[..1]].concat();
        assert!(join(&twice, &scratch, "x.tif").unwrap_err().contains("the same rows are in"));
        let other = PredictOptions { part: Some(Part { index: 1, count }), overlap: Some(30), ..tiled };
        map(&scratch.path("s.npy"), &scratch.path("other.tif"), &other).unwrap();
        let mixed = [&parts[..], &[scratch.path(&format!("other.tif.part-1-of-{count}"))]].concat();
        assert!(join(&mixed, &scratch, "x.tif").unwrap_err().contains("a part of another map"));
    }
}

#[test]
fn damaged_rows_are_made_again_and_damaged_parts_refused() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity");
    scratch.floats("s.npy", &[200, 90], ground);
    let tiled = PredictOptions { window: Some(48), ..options(&checkpoint) };
    map(&scratch.path("s.npy"), &scratch.path("whole.tif"), &tiled).unwrap();
    let part = &parts(&scratch, &tiled, 1)[0];
    let whole = fs::read(part).unwrap();
    let mut damaged = whole.clone();
    // Records end in zeros up to a multiple of 4096.
    let last = damaged.iter().rposition(|byte| *byte != 0).unwrap();
    damaged[last] ^= 1;
    fs::write(part, &damaged).unwrap();
    assert!(join(std::slice::from_ref(part), &scratch, "x.tif").unwrap_err().contains("this part is damaged"));
    // All of the map in one part is a working file whose rows are all done.
    fs::write(scratch.path(".again.tif.work"), &damaged).unwrap();
    let resume = PredictOptions { resume: true, ..tiled.clone() };
    map(&scratch.path("s.npy"), &scratch.path("again.tif"), &resume).unwrap();
    assert!(fs::read(scratch.path("again.tif")).unwrap() == fs::read(scratch.path("whole.tif")).unwrap());
    for length in [0, 10, 100, whole.len() / 2] {
        fs::write(scratch.path(".cut.tif.work"), &whole[..length]).unwrap();
        let result = map(&scratch.path("s.npy"), &scratch.path("cut.tif"), &resume);
        match result {
            // A file of its first records: the rest is made.
            Ok(_) => {
                assert!(fs::read(scratch.path("cut.tif")).unwrap() == fs::read(scratch.path("whole.tif")).unwrap())
            }
            Err(e) => assert!(e.exit_code() == 2 && e.to_string().contains("not a working file"), "{length}: {e}"),
        }
    }
}

#[test]
fn an_unfinished_map_of_other_things_is_not_continued() {
    let scratch = Scratch::new();
    let checkpoint = scratch.checkpoint("m.safetensors", SMALL, 1, "normalization: identity");
    let scene = scratch.floats("s.npy", &[200, 90], ground);
    let tiled = PredictOptions { window: Some(48), ..options(&checkpoint) };
    let part = parts(&scratch, &tiled, 1).remove(0);
    fs::rename(part, scratch.path(".map.tif.work")).unwrap();
    let out = scratch.path("map.tif");
    assert!(refused(&scene, &out, &tiled).1.contains("an unfinished map is here"));
    let resume = PredictOptions { resume: true, ..tiled };
    let refused = |scene: &PathBuf, options: PredictOptions| refused(scene, &out, &options).1;
    assert!(
        refused(&scene, PredictOptions { window: Some(50), ..resume.clone() })
            .contains("the windows or their overlap differ")
    );
    assert!(
        refused(&scene, PredictOptions { live: true, ..resume.clone() })
            .contains("the checkpoint or its weights differ")
    );
    let other = scratch.floats("t.npy", &[200, 90], |i| ground(i + 1));
    assert!(refused(&other, resume).contains("the scene differ"));
}
