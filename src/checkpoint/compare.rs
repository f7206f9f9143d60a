//! How the tensors of a checkpoint differ from those that a network expects.

use std::collections::BTreeMap;

use crate::table::Table;

/// Rows shown before the rest is only counted.
const MAX_ROWS: usize = 20;

/// A table of missing, unexpected and differently shaped tensors, or `None` where both lists agree (their
/// order does not matter).
pub fn compare_architecture(expected: &[(String, Vec<usize>)], found: &[(String, Vec<usize>)]) -> Option<String> {
    let wanted: BTreeMap<&str, &[usize]> = expected.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let present: BTreeMap<&str, &[usize]> = found.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();

    let mut rows: Vec<[String; 4]> = Vec::new();
    for (name, shape) in &wanted {
        let (problem, there) = match present.get(name) {
            None => ("missing", "-".to_owned()),
            Some(other) if other != shape => ("other shape", show(other)),
            Some(_) => continue,
        };
        rows.push([problem.into(), (*name).into(), show(shape), there]);
    }
    for (name, shape) in present.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
        rows.push(["unexpected".into(), (*name).into(), "-".into(), show(shape)]);
    }
    if rows.is_empty() {
        return None;
    }

    let mut table = Table::new(["problem", "tensor", "config", "checkpoint"]).left_aligned(4);
    let hidden = rows.len().saturating_sub(MAX_ROWS);
    for row in rows.into_iter().take(MAX_ROWS) {
        table.row(row);
    }
    let mut text = table.to_string();
    if hidden > 0 {
        text.push_str(&format!("\n… and {hidden} more"));
    }
    Some(text)
}

fn show(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
        items.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect()
    }

    #[test]
    fn equal_lists_in_any_order_do_not_differ() {
        let a = list(&[("a", &[2, 3]), ("b", &[])]);
        let b = list(&[("b", &[]), ("a", &[2, 3])]);
        assert_eq!(compare_architecture(&a, &b), None);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let want = list(&[("same", &[1]), ("gone", &[64, 3, 9, 9]), ("grown", &[32])]);
        let have = list(&[("same", &[1]), ("grown", &[64]), ("new", &[])]);
        let text = compare_architecture(&want, &have).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "problem      tensor  config    checkpoint",
                "missing      gone    64×3×9×9  -",
                "other shape  grown   32        64",
                "unexpected   new     -         scalar",
            ]
        );
    }

    #[test]
    fn long_tables_are_cut_with_a_count() {
        let want: Vec<_> = (0..50).map(|i| (format!("w{i:02}"), vec![i])).collect();
        let text = compare_architecture(&want, &[]).unwrap();
        assert_eq!(text.lines().count(), 22);
        assert!(text.ends_with("… and 30 more"), "{text}");
    }
}
