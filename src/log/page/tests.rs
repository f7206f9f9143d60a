use std::fs;
use std::path::Path;

use super::curves::Curves;
use super::html::escaped;
use super::run::spread;
use super::*;
use crate::log::Picture;

/// A run's folder with so many rows, every tenth of a validation, and a picture for each of these.
fn run_folder(folder: &Path, rows: u64) {
    let mut csv =
        String::from("step,epoch,generator/content_loss,training/pretrain_phase,lr_generator,val_metrics/psnr\n");
    fs::create_dir_all(folder.join("val")).unwrap();
    for step in 0..rows {
        let psnr = if step % 10 == 9 { format!("{}", 20.0 + step as f64 / 100.0) } else { String::new() };
        let phase = u8::from(step < rows / 2);
        csv.push_str(&format!("{step},0,{},{phase}.0,0.001,{psnr}\n", 1.0 / (step + 1) as f64));
        if step % 10 == 9 {
            let picture = Picture::new(2, 2, 1, vec![(step % 256) as u8; 4]);
            picture.write_png(&folder.join(format!("val/step_{step}.png"))).unwrap();
        }
    }
    fs::write(folder.join("metrics.csv"), csv).unwrap();
    fs::write(folder.join("config.yaml"), "Data: {root_dir: <a & \"b\">}\n").unwrap();
}

/// A page's text after checking that it names no other file.
fn page(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    for outside in ["src=\"http", "href=\"http", "url(", "@import", "src=\"/", "file:"] {
        assert!(!text.contains(outside), "{outside}");
    }
    assert_eq!(text.matches("<figure").count(), text.matches("</figure>").count());
    text
}

#[test]
fn a_runs_page_holds_all_that_there_is() {
    let dir = tempfile::tempdir().unwrap();
    run_folder(dir.path(), 400);
    let facts = RunFacts { comparison: "bicubic < SR".into(), device: "cpu".into(), ..RunFacts::now() };
    facts.write(dir.path()).unwrap();
    assert_eq!(RunFacts::load(dir.path()).unwrap(), facts);
    let evaluation = dir.path().join(EVALUATION);
    fs::create_dir(&evaluation).unwrap();
    fs::write(evaluation.join(EVALUATION_TEXT), "PSNR 30.1").unwrap();
    Picture::new(1, 1, 1, vec![0]).write_png(&evaluation.join("best-1.png")).unwrap();
    Picture::new(1, 1, 1, vec![9]).write_png(&dir.path().join(HELD_OUT)).unwrap();
    write_run(dir.path()).unwrap();
    let text = page(&dir.path().join(REPORT));
    for part in ["bicubic &lt; SR", "PSNR in validation", "Content loss", "Learning rates", "trains alone", "PSNR 30.1"]
    {
        assert!(text.contains(part), "{part}");
    }
    assert!(text.contains("&lt;a &amp; &quot;b&quot;&gt;") && text.contains("after step 399"));
    assert!(!text.contains("Adversarial losses"), "a figure without a curve");
    // 16 of the 40 validations, the held-out area and the best patch.
    assert_eq!(text.matches("data:image/png;base64,").count(), 16 + 2);
    assert_eq!((text.matches(" hidden>").count(), text.matches("type=\"range\"").count()), (15, 1));
    assert_eq!(text.matches("<svg").count(), 3);
}

#[test]
fn a_run_that_has_just_begun_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("metrics.csv"), "step,epoch,val_metrics/psnr\n").unwrap();
    write_run(dir.path()).unwrap();
    assert_eq!(page(&dir.path().join(REPORT)).matches("<svg").count(), 0);
    fs::write(dir.path().join("metrics.csv"), "step,epoch,val_metrics/psnr\n5,0,inf\n6,0,31.5\n7,0,").unwrap();
    write_run(dir.path()).unwrap();
    assert_eq!(page(&dir.path().join(REPORT)).matches("<svg").count(), 1, "one point, and a line that is not finished");
}

#[test]
fn runs_stand_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let runs = ["a/x", "b/x", "b/y"].map(|name| dir.path().join(name));
    runs.iter().for_each(|run| run_folder(run, 30));
    let out = dir.path().join("all.html");
    write_comparison(&runs, &out).unwrap();
    let text = page(&out);
    assert!(text.contains("3 runs") && text.contains(">y</span>") && text.contains(&runs[0].display().to_string()));
    assert_eq!((text.matches("<svg").count(), text.matches("type=\"range\"").count()), (3, 3));
    let error = write_comparison(&[dir.path().join("none")], &out).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("holds no run"), "{error}");
}

#[test]
fn curves_of_long_runs_are_reduced_and_keep_their_means() {
    let dir = tempfile::tempdir().unwrap();
    run_folder(dir.path(), 5000);
    let curves = Curves::read(&dir.path().join("metrics.csv")).unwrap();
    let psnr = curves.get("val_metrics/psnr");
    assert!((300..=401).contains(&psnr.len()), "{}", psnr.len());
    assert!(psnr.iter().all(|(step, value)| (20.0 + step / 100.0 - value).abs() < 1e-9));
    assert!(psnr.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let phase = curves.pretraining().unwrap();
    assert!(phase.start < 20.0 && (2480.0..2520.0).contains(&phase.end), "{phase:?}");
    assert!(curves.get("unknown").is_empty());
}

#[test]
fn damaged_files_are_errors_or_passed_over_and_never_more() {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join("metrics.csv");
    assert!(write_run(dir.path()).is_err(), "there is none");
    fs::write(&csv, b"step,epoch,a\n\xff\xfe\n").unwrap();
    assert!(Curves::read(&csv).is_err(), "not text");
    fs::write(&csv, "step,epoch,a\nx,0,1\n1,0\n2,0,nan\n3,0,4,5,6\n,,,\n").unwrap();
    assert_eq!(Curves::read(&csv).unwrap().get("a"), [(3.0, 4.0)]);
    fs::write(dir.path().join("run.json"), "{\"version\": ").unwrap();
    assert!(write_run(dir.path()).unwrap_err().to_string().contains("run.json"));
}

#[test]
fn places_are_spread_and_end_with_the_last() {
    assert_eq!(spread(3, 16), [0, 1, 2]);
    assert_eq!(spread(40, 3), [0, 19, 39]);
    assert_eq!(spread(5, 1), [4]);
    assert!(spread(0, 3).is_empty());
    assert_eq!(escaped("<\"&\">"), "&lt;&quot;&amp;&quot;&gt;");
}
