//! Defaults of `Data` that follow from its other keys.

use super::super::Normalization;
use super::read_with;

const LEAST: &str = "Model: {in_bands: 4}";

#[test]
fn defaults_of_data_follow_its_kind() {
    let data = |overrides: &[&str]| read_with(LEAST, overrides).0.data;
    assert!(data(&["Data.dataset_type=Scenes", "Data.scenes=a.tif"]).augment);
    assert!(!data(&[]).augment && data(&["Data.augment=true"]).augment);
    // ExampleDataset has opensr-srgan's own rule.
    assert_eq!(data(&[]).method(), Normalization::Identity);
    assert_eq!(data(&["Data.normalization=normalise_10k"]).method(), Normalization::Identity);
    // What says nothing is as if it were not there.
    let (config, warnings) = read_with(LEAST, &["Logging.wandb.project=''", "Data.nodata=.nan"]);
    assert_eq!((config.logging.wandb.project.as_str(), config.data.nodata), ("srgan", None));
    assert!(warnings[0].contains("always left out"), "{warnings:?}");
}
