//! How other tools name the tensors of a network: what stands before the names of opensr-srgan's state dict.

use std::collections::{HashMap, HashSet};

/// Name and shape of a tensor.
pub type Named = (String, Vec<usize>);

/// What wrappers put before or behind a network's name: `DataParallel` and DDP, `torch.compile`, Lightning modules.
const WRAPPERS: [&str; 3] = ["module", "_orig_mod", "model"];

/// PyTorch counts the batches that a batch norm has seen, for averages that the networks here do not keep.
const BATCH_COUNT: &str = ".num_batches_tracked";

/// Whether a tensor is PyTorch's count of batches, which nothing here reads.
pub fn is_batch_count(name: &str) -> bool {
    name.ends_with(BATCH_COUNT)
}

/// What stands before most of the names of `network` in a file, whose names without it are `bare`: `generator.`,
/// `module.generator.`, or nothing where `is_optional`. `None` if none of the names is there.
pub fn prefix_in(found: &[Named], network: &str, is_optional: bool, bare: &[Named]) -> Option<String> {
    let bare: HashSet<&str> = bare.iter().map(|(name, _)| name.as_str()).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, _) in found {
        let starts = [0].into_iter().chain(name.match_indices('.').map(|(at, _)| at + 1));
        for (prefix, _) in starts.map(|at| name.split_at(at)).filter(|(_, rest)| bare.contains(rest)) {
            if is_prefix_of(prefix, network, is_optional) {
                *counts.entry(prefix).or_default() += 1;
            }
        }
    }
    // Of equals the first by name, so that the choice does not depend on the order of a hash map.
    let best = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
    best.map(|(prefix, _)| prefix.to_owned())
}

/// Whether a prefix consists of the network's name, once or, if optional, not at all, and of wrappers.
fn is_prefix_of(prefix: &str, network: &str, is_optional: bool) -> bool {
    let parts: Vec<&str> = prefix.split('.').filter(|part| !part.is_empty()).collect();
    let names = parts.iter().filter(|part| **part == network).count();
    let wrappers = parts.iter().filter(|part| WRAPPERS.contains(part)).count();
    (names == 1 || (names == 0 && is_optional)) && names + wrappers == parts.len()
}

/// What a user is told about names in a file that begin with `prefix` where `expected` is usual; nothing if they do.
pub fn prefix_note(prefix: &str, expected: &str) -> Option<String> {
    let what = match prefix {
        _ if prefix == expected => return None,
        "" => format!("its names lack `{expected}`"),
        _ => format!("its names begin with `{prefix}` instead of `{expected}`"),
    };
    Some(format!("{what}, as those of other tools do; they are read as usual"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<Named> {
        names.iter().map(|name| (name.to_string(), vec![1])).collect()
    }

    #[test]
    fn prefixes_of_wrappers_are_found_on_either_side_of_the_name() {
        let bare = list(&["head.0.weight", "tail.bias"]);
        let find = |names: &[&str], optional| prefix_in(&list(names), "generator", optional, &bare);
        for prefix in
            ["generator.", "module.generator.", "generator._orig_mod.", "model.generator.module.", "module.", ""]
        {
            let names =
                [format!("{prefix}head.0.weight"), format!("{prefix}tail.bias"), "discriminator.tail.bias".into()];
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let named = prefix.contains("generator");
            assert_eq!(find(&names, true).as_deref(), Some(prefix));
            assert_eq!(find(&names, false).as_deref(), named.then_some(prefix));
        }
        assert_eq!(find(&["other.head.0.weight", "generator.generator.tail.bias", "nothing"], true), None);
    }

    #[test]
    fn what_is_unusual_is_told() {
        assert_eq!(prefix_note("generator.", "generator."), None);
        assert!(prefix_note("module.generator.", "generator.").unwrap().contains("begin with `module.generator.`"));
        assert!(prefix_note("", "generator.").unwrap().contains("lack `generator.`"));
    }
}
