use super::*;

fn info() -> WandbInfo {
    let config = serde_json::json!({"Training": {"seed": 3}}).as_object().unwrap().clone();
    WandbInfo { id: "abc".into(), project: "p".into(), name: "n".into(), config, ..WandbInfo::default() }
}

/// The step and the values of each history record of the newest file.
fn history(parent: &Path) -> Vec<(i64, Vec<(String, String)>)> {
    let mut rows = Vec::new();
    RecordFile::resume(&file_of(&newest(parent, "abc").unwrap(), "abc"), |record| {
        if let Some(RecordType::History(history)) = &record.record_type {
            let items = history.item.iter().filter(|item| !item.nested_key[0].starts_with('_'));
            let values = items.map(|item| (item.nested_key.join("."), item.value_json.clone())).collect();
            rows.push((history.step.as_ref().unwrap().num, values));
        }
        true
    })
    .unwrap();
    rows
}

fn row(run: &mut WandbRun, step: u64, value: f32) {
    run.row(step, 0, [("a", Scalar::F32(value))].into_iter()).unwrap();
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_step_is_one_record_whatever_comes_when() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = WandbRun::open(dir.path(), &info(), 0).unwrap();
    row(&mut run, 0, 0.1);
    run.row(0, 0, [("val", Scalar::F64(f64::NAN))].into_iter()).unwrap();
    run.panels(0, &[Picture::filled(2, 3, 1, 9)]).unwrap();
    row(&mut run, 1, 1e-30);
    run.finish().unwrap();
    let rows = history(dir.path());
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0].1[..3], pairs(&[("a", "0.1"), ("val", "NaN"), ("epoch", "0")]));
    let picture = rows[0].1.iter().find(|(name, _)| name == "Val SR.filenames").unwrap();
    let names: Vec<String> = serde_json::from_str(&picture.1).unwrap();
    assert!(run.folder().join("files").join(&names[0]).is_file(), "{names:?}");
    assert_eq!(rows[1], (1, pairs(&[("a", "1e-30"), ("epoch", "0")])));
}

#[test]
fn a_continued_run_goes_on_in_its_file_without_the_steps_it_does_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = WandbRun::open(dir.path(), &info(), 0).unwrap();
    (0..5).for_each(|step| row(&mut run, step, step as f32));
    // Killed: its last step is not in the file.
    run.sync().unwrap();
    drop(run);
    let run = WandbRun::open(dir.path(), &info(), 5).unwrap();
    assert_eq!(run.last_step(), Some(3));
    let mut run = WandbRun::open(dir.path(), &info(), 3).unwrap();
    assert_eq!(run.last_step(), Some(2));
    row(&mut run, 3, 30.0);
    run.finish().unwrap();
    let steps = |rows: Vec<(i64, Vec<(String, String)>)>| -> Vec<(i64, String)> {
        rows.into_iter().map(|(step, values)| (step, values[0].1.clone())).collect()
    };
    let want = [(0, "0.0"), (1, "1.0"), (2, "2.0"), (3, "30.0")].map(|(step, value)| (step, value.to_owned()));
    assert_eq!(steps(history(dir.path())), want);
    // After its end it goes on likewise, and in a new file once the old one has been uploaded.
    let mut run = WandbRun::open(dir.path(), &info(), 4).unwrap();
    row(&mut run, 4, 4.0);
    run.finish().unwrap();
    assert_eq!(history(dir.path()).len(), 5);
    let folder = run.folder().to_owned();
    fs::write(folder.join("run-abc.wandb.synced"), b"").unwrap();
    let mut run = WandbRun::open(dir.path(), &info(), 5).unwrap();
    assert_ne!(run.folder(), folder);
    assert_eq!(run.last_step(), Some(4));
    row(&mut run, 5, 5.0);
    run.finish().unwrap();
    assert_eq!(steps(history(dir.path())), [(5, "5.0".to_owned())]);
}

#[test]
fn a_new_run_never_cuts_an_old_one_of_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = WandbRun::open(dir.path(), &info(), 0).unwrap();
    row(&mut first, 0, 1.0);
    first.finish().unwrap();
    let second = WandbRun::open(dir.path(), &info(), 0).unwrap();
    assert_ne!(first.folder(), second.folder());
}

#[test]
fn ids_are_short_and_differ() {
    let ids: std::collections::HashSet<String> = (0..100).map(|_| new_id()).collect();
    assert!(ids.len() > 90);
    assert!(ids.iter().all(|id| id.len() == 8 && id.chars().all(|c| c.is_ascii_alphanumeric())), "{ids:?}");
}
