//! The reference agrees with the reader, and the book with the reference.

use super::*;
use crate::config::tree::join;

#[test]
fn the_book_has_this_reference() {
    let page = include_str!("../../../docs/config.md");
    let now = markdown();
    let differs = page.lines().zip(now.lines()).find(|(a, b)| a != b);
    let said = "write it anew: srgan config --keys --markdown > docs/config.md";
    assert_eq!(differs, None, "{said}");
    assert_eq!(page, now, "{said}");
}

#[test]
fn every_key_that_is_written_is_described() {
    let mut flat = Vec::new();
    Config::default().flatten("", &mut flat);
    let keys = keys();
    let described: Vec<(String, String)> = keys.iter().map(|k| (k.path.clone(), k.default.clone())).collect();
    assert_eq!(described, flat);
    for key in &keys {
        assert!(key.meaning.len() > 10 && key.meaning.ends_with('.'), "{}: {}", key.path, key.meaning);
        assert!(!key.meaning.contains('['), "{}: a link of rustdoc is none for users: {}", key.path, key.meaning);
    }
}

#[test]
fn a_section_or_key_is_shown_with_type_default_range_and_meaning() {
    let shown = describe(Some("training.losses")).unwrap();
    assert_eq!(
        shown.matches("Training.Losses.").count(),
        keys().iter().filter(|k| k.path.starts_with("Training.Losses.")).count()
    );
    assert!(
        shown.contains("Training.Losses.ssim_win\n    whole number; between 3 and 255, odd  [default: 11]"),
        "{shown}"
    );
    let one = describe(Some("Generator.block_type")).unwrap();
    assert!(one.contains("- rcab: Residual channel attention."), "{one}");
    assert!(describe(Some("Data.hr_size")).unwrap().contains("(not in opensr-srgan)"));
    assert!(describe(None).unwrap().lines().all(|line| line.chars().count() <= COLUMNS));
    let error = describe(Some("Generater")).unwrap_err().to_string();
    assert!(error.contains("no section or key `Generater`") && error.contains("`Generator`"), "{error}");
}

#[test]
fn the_schema_has_every_key_and_nothing_else_is_allowed() {
    let schema = json_schema();
    let property = |path: &str| {
        path.split('.').try_fold(&schema, |at, name| at["properties"].get(name)).unwrap_or_else(|| panic!("{path}"))
    };
    for key in keys() {
        assert!(property(&key.path)["description"].as_str().unwrap().starts_with(&key.meaning), "{}", key.path);
    }
    for section in sections() {
        assert_eq!(property(&section.path)["additionalProperties"], false, "{}", section.path);
    }
    let ssim = &property("Training.Losses.ssim_win")["anyOf"][0];
    assert_eq!((&ssim["type"], &ssim["minimum"], &ssim["maximum"]), (&"integer".into(), &3.into(), &255.into()));
    let fraction = &property("Data.val_fraction")["anyOf"][0];
    assert_eq!((&fraction["exclusiveMinimum"], &fraction["exclusiveMaximum"]), (&0.into(), &1.into()));
    assert_eq!(property("Optimizers.betas")["anyOf"][0]["items"]["anyOf"][0]["exclusiveMaximum"], 1);
    assert_eq!(property("Generator.model_type")["anyOf"][0]["enum"][1], "esrgan");
    assert_eq!(property(&join("Generator", "n_blocks"))["default"], 16);
    assert!(property("Data.batch_size")["deprecationMessage"].as_str().unwrap().contains("Data.train_batch_size"));
}
