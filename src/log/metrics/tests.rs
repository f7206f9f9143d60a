use super::*;
use crate::testing::Shared;

fn open(folder: &Path, metrics: &[&str]) -> Result<MetricsLog> {
    MetricsLog::open(folder, metrics, 0, None, &Messages::plain(io::sink()))
}

#[test]
fn values_that_are_written_again_join_those_of_their_step() {
    let dir = tempfile::tempdir().unwrap();
    let text = "step,epoch,a,b\n0,0,1.0,\n1,0,2.0,\n2,0,3.0,4.0\n";
    fs::write(dir.path().join("metrics.csv"), text).unwrap();
    let mut log = MetricsLog::open(dir.path(), &["a", "b"], 2, None, &Messages::plain(io::sink())).unwrap();
    log.row(1, 0, &[("b", Scalar::F64(5.0))]).unwrap();
    log.finish().unwrap();
    let text = fs::read_to_string(dir.path().join("metrics.csv")).unwrap();
    assert_eq!(text, "step,epoch,a,b\n0,0,1.0,\n1,0,2.0,5.0\n");
}

#[cfg(target_os = "linux")]
#[test]
fn what_became_of_the_rows_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = Shared::default();
    let mut log = MetricsLog::open(dir.path(), &["a"], 7, None, &Messages::plain(out.clone())).unwrap();
    log.row(7, 0, &[("a", Scalar::F32(1.5))]).unwrap();
    fs::remove_file(dir.path().join("metrics.csv")).unwrap();
    log.finish().unwrap();
    let text = out.text();
    assert!(text.contains("steps before 7 are missing") && text.contains("written anew, with all rows"), "{text}");
    assert_eq!(fs::read_to_string(dir.path().join("metrics.csv")).unwrap(), "step,epoch,a\n7,0,1.5\n");
}

#[test]
fn rows_are_kept_until_the_disk_has_confirmed_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), &["a"]).unwrap();
    log.row(0, 0, &[("a", Scalar::F32(0.5))]).unwrap();
    log.flush().unwrap();
    assert!(log.unconfirmed().is_empty());
    log.row(1, 0, &[("a", Scalar::F32(1.5))]).unwrap();
    let row = Row { step: 1, epoch: 0, values: vec![("a".into(), Scalar::F32(1.5))] };
    assert_eq!(log.unconfirmed(), [row]);
}

#[test]
fn numbers_read_back_as_they_were() {
    for (value, want) in [
        (Scalar::F32(0.1), "0.1"),
        (Scalar::F64(f64::from(0.1f32)), "0.10000000149011612"),
        (Scalar::F32(1e-30), "1e-30"),
        (Scalar::F64(1.0), "1.0"),
        (Scalar::F32(f32::NAN), "nan"),
        (Scalar::F64(-f64::NAN), "nan"),
        (Scalar::F64(f64::INFINITY), "inf"),
        (Scalar::F32(f32::NEG_INFINITY), "-inf"),
    ] {
        assert_eq!(value.to_string(), want);
    }
}

#[test]
fn flushed_rows_are_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), &["a", "b"]).unwrap();
    log.row(0, 0, &[("b", 0.5f32.into())]).unwrap();
    log.row(0, 0, &[("a", 2.0f64.into())]).unwrap();
    log.flush().unwrap();
    let text = || fs::read_to_string(dir.path().join("metrics.csv")).unwrap();
    assert_eq!(text(), "step,epoch,a,b\n0,0,2.0,0.5\n");
    log.row(1, 0, &[]).unwrap();
    drop(log);
    assert_eq!(text(), "step,epoch,a,b\n0,0,2.0,0.5\n1,0,,\n", "closing writes what is left");
}

#[test]
fn an_unknown_metric_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), &["a"]).unwrap();
    let error = log.row(0, 0, &[("c", 1.0f32.into())]).unwrap_err().to_string();
    assert!(error.contains("metric c"), "{error}");
}

#[test]
fn an_error_of_the_writer_reaches_the_trainer_and_keeps_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), &["a"]).unwrap();
    log.row(4, 0, &[("a", 1.0f32.into())]).unwrap();
    log.flush().unwrap();
    // A file where the folder of the pictures should be: the writer fails and stops.
    fs::write(dir.path().join("val"), b"").unwrap();
    let mut panels = Panels::new(&[0], 1.0);
    let shape = super::super::PanelShape { lr_height: 1, lr_width: 1, scale: 1, channels: 1 };
    let pixel = &[0.0][..];
    let images = super::super::PanelImages { lr: pixel, bicubic: pixel, sr: pixel, hr: pixel };
    panels.push(&shape, &images).unwrap();
    log.panels(4, panels).unwrap();
    let error = log.flush().unwrap_err().to_string();
    assert!(error.contains("val"), "{error}");
    let error = log.row(5, 0, &[]).unwrap_err().to_string();
    assert!(error.contains("earlier error"), "{error}");
    assert!(log.finish().is_err());
    assert_eq!(fs::read_to_string(dir.path().join("metrics.csv")).unwrap(), "step,epoch,a\n4,0,1.0\n");
}
