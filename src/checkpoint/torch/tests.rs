//! Files of the real PyTorch, read bit for bit; files that are damaged or hostile.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::TensorFile;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn refusal(path: &Path) -> String {
    let error = TensorFile::open(path).unwrap_err();
    assert!(matches!(error, crate::Error::Checkpoint { .. }), "{error:?}");
    error.to_string()
}

/// Every tensor of a file is the one that torch has read from it, and those are all but `others`.
fn agrees(name: &str, others: &[&str]) -> TensorFile {
    let mut expected = TensorFile::open(&fixture("expected.safetensors")).unwrap();
    let mut file = TensorFile::open(&fixture(name)).unwrap();
    let wanted = expected.shapes(&format!("{name}/"));
    assert!(!wanted.is_empty());
    for (full, shape) in &wanted {
        let tensor = full.split_once('/').unwrap().1;
        let entry = file.entries().iter().find(|e| e.name == tensor).unwrap_or_else(|| panic!("no {tensor}"));
        assert_eq!(&entry.shape, shape, "{full}");
        assert_eq!(bits(&file.read(tensor).unwrap()), bits(&expected.read(full).unwrap()), "{full}");
    }
    let known = wanted.iter().map(|(full, _)| full.split_once('/').unwrap().1).chain(others.iter().copied());
    let found = file.entries().iter().map(|e| e.name.as_str());
    assert_eq!(found.collect::<HashSet<_>>(), known.collect::<HashSet<_>>(), "{name}");
    file
}

#[test]
fn every_format_of_torch_is_read_bit_for_bit() {
    for name in ["plain.pth", "protocol_4.pth", "legacy.pth", "legacy_protocol_5.pth", "zip64.pth"] {
        let mut file = agrees(name, &["i64"]);
        assert!(file.read("i64").unwrap_err().to_string().contains("tensor i64 is of type I64"));
        let order: Vec<&str> = file.entries().iter().take(5).map(|e| e.name.as_str()).collect();
        assert_eq!(order, ["f32", "f16", "bf16", "f64", "i64"]);
        assert!(file.metadata().is_empty());
    }
    agrees("python2.pth", &[]);
    agrees("attributes.pth", &[]);
}

#[test]
fn of_a_checkpoint_of_lightning_the_state_dict_and_the_average_count() {
    let file = agrees("lightning.ckpt", &["generator.1.num_batches_tracked", "ema.0.weight"]);
    let has = |name: &str| file.entries().iter().any(|e| e.name == name);
    assert!(has("generator.2.weight_orig") && has("generator.2.weight_u") && has("content_loss_criterion.weight"));
}

#[test]
fn a_tensor_that_cannot_be_read_is_named_when_it_is_read() {
    let others = ["transposed", "channels_last", "expanded", "sparse", "quantised", "complex", "u16", "negated"];
    let mut file = agrees("odd.pth", &others);
    for name in others {
        let error = file.read(name).unwrap_err().to_string();
        let (why, hint) = match name {
            "transposed" | "channels_last" | "expanded" => ("not in C order", "v.contiguous()"),
            _ => ("sparse, quantised, complex", "v.to_dense()"),
        };
        for part in [&format!("tensor {name} "), why, hint, "python -c \"import torch; d = torch.load('IN', "] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
        let error = file.read_into(name, &mut [0.0; 12]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let shape = |name: &str| file.entries().iter().find(|e| e.name == name).unwrap().shape.clone();
    assert_eq!(shape("transposed"), [4, 3]);
    assert_eq!(shape("channels_last"), [2, 3, 4, 4]);

    let mut file = TensorFile::open(&fixture("compressed.pth")).unwrap();
    let error = file.read("f32").unwrap_err().to_string();
    assert!(error.contains("tensor f32 is compressed") && error.contains("v.contiguous()"), "{error}");
    let mut file = TensorFile::open(&fixture("big_endian.pth")).unwrap();
    let error = file.read("w").unwrap_err().to_string();
    assert!(error.contains("tensor w was written by a big-endian machine"), "{error}");
}

#[test]
fn files_without_a_state_dict_are_refused_each_with_its_reason() {
    for (name, parts) in [
        ("packed.pth", ["compressed or encrypted", "torch.save("]),
        ("module.pth", ["an object that is no state dict", "save model.state_dict()"]),
        ("nested.pth", ["no tensors", "at the top: epoch, model"]),
    ] {
        let error = refusal(&fixture(name));
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ckpt");
    // An empty archive is its end record alone; with a member, it is not one of torch.
    let member = [&b"PK\x03\x04"[..], &[0; 22], &[1, 0, 0, 0], b"a"].concat();
    let entry = [&b"PK\x01\x02"[..], &[0; 24], &[1, 0], &[0; 16], b"a"].concat();
    let (len, start) = ((entry.len() as u32).to_le_bytes(), (member.len() as u32).to_le_bytes());
    let end = [&b"PK\x05\x06"[..], &[0, 0, 0, 0, 1, 0, 1, 0], &len, &start, &[0, 0]].concat();
    fs::write(&path, [member, entry, end].concat()).unwrap();
    assert!(refusal(&path).contains("not of torch.save: it has no data.pkl"));

    let error = TensorFile::open_checkpoint(&fixture("lightning.ckpt")).unwrap_err().to_string();
    assert!(error.contains("this is a file of PyTorch") && error.contains("Model.load_checkpoint"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["lightning.ckpt", "plain.pth", "zip64.pth", "legacy.pth", "python2.pth"] {
        let path = dir.path().join(name);
        fs::copy(fixture(name), &path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..file.metadata().unwrap().len()).rev() {
            file.set_len(length).unwrap();
            let error = refusal(&path);
            let known = ["cut short or damaged", "not a safetensors file"].iter().any(|p| error.contains(p));
            assert!(known, "{name}, {length} bytes: {error}");
        }
    }
}

/// Opens a file that may hold anything, and reads all that it lists. Whatever is wrong must be found by the checks,
/// not by the operating system.
fn survives(path: &Path, what: &str) {
    let check = |error: crate::Error| match error {
        crate::Error::Checkpoint { .. } => {}
        other => panic!("{what}: {other:?}"),
    };
    match TensorFile::open(path) {
        Err(error) => check(error),
        Ok(mut file) => {
            for entry in file.entries().to_vec() {
                match file.read(&entry.name) {
                    Ok(values) => assert_eq!(values.len(), entry.shape.iter().product::<usize>(), "{what}"),
                    Err(error) => check(error),
                }
            }
        }
    }
}

/// torch states a CRC-32 of each member of the archive.
#[test]
fn a_changed_byte_of_a_tensor_or_of_the_pickle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.pth");
    let bytes = fs::read(fixture("plain.pth")).unwrap();
    let mut whole = TensorFile::open(&fixture("plain.pth")).unwrap();
    let first = whole.read("f32").unwrap()[0].to_le_bytes();
    let at = bytes.windows(4).position(|window| window == first).unwrap();
    let mut changed = bytes.clone();
    changed[at] ^= 1;
    fs::write(&path, &changed).unwrap();
    let mut file = TensorFile::open(&path).unwrap();
    let error = file.read("f32").unwrap_err().to_string();
    assert!(error.contains("tensor f32 is damaged"), "{error}");
    file.read("f64").unwrap();
    let name = bytes.windows(3).position(|window| window == b"f64").unwrap();
    let mut changed = bytes.clone();
    changed[name + 1] = b'7';
    fs::write(&path, &changed).unwrap();
    assert!(refusal(&path).contains("data.pkl does not have the checksum"));
}

#[test]
fn a_changed_byte_is_an_error_or_another_description_but_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["plain.pth", "zip64.pth", "legacy.pth", "python2.pth", "attributes.pth"] {
        let path = dir.path().join(name);
        fs::copy(fixture(name), &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        for (at, &byte) in bytes.iter().enumerate() {
            for other in [byte ^ 1, !byte] {
                put(at, other);
                survives(&path, &format!("{name}, byte {at} = {other}"));
            }
            put(at, byte);
        }
    }
}

/// A file of the older format whose object is this pickle, with the storages `keys` and what follows them.
fn legacy(path: &Path, pickle: &[u8], keys: &[u8], data: &[u8]) {
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    fs::write(path, [head, pickle, keys, data].concat()).unwrap();
}

/// A state dict of one tensor `w` of f32 with these opcodes for offset, size and stride.
fn one_tensor(offset: &[u8], size: &[u8], stride: &[u8]) -> Vec<u8> {
    let storage = b"((U\x07storagectorch\nFloatStorage\nU\x01aU\x03cpuK\x04NtQ";
    [&b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor\n"[..], storage, offset, size, stride, b"tRs."].concat()
}

const KEYS: &[u8] = b"\x80\x02]U\x01aa.";

fn four_floats() -> Vec<u8> {
    [4u64.to_le_bytes().to_vec(), [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect()].concat()
}

#[test]
fn impossible_tensors_are_errors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    legacy(&path, &one_tensor(b"K\x01", b"K\x03\x85", b"K\x01\x85"), KEYS, &four_floats());
    assert_eq!(TensorFile::open(&path).unwrap().read("w").unwrap(), [2.0, 3.0, 4.0]);

    let huge: &[u8] = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let four_huge = [huge, huge, huge, huge].concat();
    let two = |a: &[u8]| [a, a, b"\x86"].concat();
    let none_of_huge = [b"(K\x00", huge, huge, b"t"].concat();
    for (offset, size, stride, want) in [
        (&b"K\x02"[..], b"K\x03\x85".to_vec(), b"K\x01\x85".to_vec(), "reaches beyond its storage"),
        (b"J\xff\xff\xff\xff", b"K\x03\x85".to_vec(), b"K\x01\x85".to_vec(), "reaches beyond"),
        (huge, b"K\x01\x85".to_vec(), b"K\x01\x85".to_vec(), "reaches beyond"),
        (b"K\x00", [huge, b"\x85"].concat(), b"K\x01\x85".to_vec(), "reaches beyond"),
        (b"K\x00", two(huge), two(b"K\x01"), "reaches beyond"),
        (b"K\x00", b"J\xff\xff\xff\xff\x85".to_vec(), b"K\x01\x85".to_vec(), "impossible size"),
        (b"K\x00", b"K\x03\x85".to_vec(), b")".to_vec(), "impossible stride"),
        (b"K\x00", b"U\x01x\x85".to_vec(), b"K\x01\x85".to_vec(), "impossible size"),
        (b"K\x00", [b"(", four_huge.as_slice(), &four_huge, huge, b"t"].concat(), b")".to_vec(), "impossible size"),
        (b"U\x00", b"K\x03\x85".to_vec(), b"K\x01\x85".to_vec(), "cannot be read"),
    ] {
        legacy(&path, &one_tensor(offset, &size, &stride), KEYS, &four_floats());
        let error = TensorFile::open(&path).unwrap().read("w").unwrap_err().to_string();
        assert!(error.contains("tensor w ") && error.contains(want), "{want}: {error}");
    }
    legacy(&path, &one_tensor(b"K\x00", &none_of_huge, &none_of_huge), KEYS, &four_floats());
    assert_eq!(TensorFile::open(&path).unwrap().read("w").unwrap(), [0.0; 0]);
    // The list of storages leaves out the one that is needed.
    legacy(&path, &one_tensor(b"K\x00", b"K\x03\x85", b"K\x01\x85"), b"\x80\x02].", b"");
    let error = TensorFile::open(&path).unwrap().read("w").unwrap_err().to_string();
    assert!(error.contains("tensor w has no values in the file"), "{error}");
}

#[test]
fn hostile_pickles_end_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let deep =
        |open: &[u8], close: &[u8]| [b"\x80\x02", &open.repeat(300_000)[..], &close.repeat(299_999), b"."].concat();
    let no_state_dict = "no state dict";
    for (what, pickle, want) in [
        ("nested lists", deep(b"]", b"a"), no_state_dict),
        ("nested tuples", deep(b"(", b"t"), no_state_dict),
        ("a list in itself", b"\x80\x02]q\x00h\x00a.".to_vec(), no_state_dict),
        ("a dict in itself", b"\x80\x02}q\x00U\x0astate_dicth\x00s.".to_vec(), "no tensors"),
        (
            "an ordered dict of itself",
            b"\x80\x02ccollections\nOrderedDict\n]q\x00h\x00ah\x00\x85R.".to_vec(),
            "no state dict",
        ),
        ("pairs that double", [&b"\x80\x02K\x01"[..], &b"2\x86".repeat(200), b"."].concat(), no_state_dict),
        ("a string without end", b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "does not end"),
        ("a number without end", b"\x80\x02\x8b\xff\xff\xff\xff".to_vec(), "does not end"),
        ("a name without end", b"\x80\x02cos".to_vec(), "does not end"),
        ("an empty stack", b"\x80\x02R".to_vec(), "stack is empty"),
        ("a stack below a mark", b"\x80\x02NN(a".to_vec(), "stack is empty"),
        ("a lost object", b"\x80\x02h\x07.".to_vec(), "no object 7"),
        ("an unknown opcode", b"\x80\x02\xfe".to_vec(), "0xfe is no opcode"),
        ("an unknown protocol", b"\x80\x06N.".to_vec(), "pickle protocol 6"),
        ("parts without end", [&b"\x80\x02"[..], &b"N".repeat(4_000_000), b"."].concat(), "more than 4000000 parts"),
        ("a command", b"\x80\x02cos\nsystem\nU\x04exit\x85R.".to_vec(), no_state_dict),
    ] {
        legacy(&path, &pickle, b"\x80\x02].", b"");
        let error = refusal(&path);
        assert!(error.contains(want), "{what}: {error}");
    }
    let good = one_tensor(b"K\x00", b"K\x03\x85", b"K\x01\x85");
    let long = [&b"X"[..], &2000u32.to_le_bytes(), &b"w".repeat(2000)].concat();
    let named = [&b"\x80\x02}"[..], &long, &good[b"\x80\x02}U\x01w".len()..]].concat();
    legacy(&path, &named, KEYS, &four_floats());
    assert!(refusal(&path).contains("a tensor's name has 2000 bytes"), "{}", refusal(&path));
    for (what, keys, data, want) in [
        ("a count without end", KEYS, u64::MAX.to_le_bytes().to_vec(), "storage a does not end"),
        ("no list of storages", b"\x80\x02N.", Vec::new(), "does not name its storages"),
        ("a storage that nobody uses", b"\x80\x02]U\x01ba.", vec![0; 8], "type of storage b"),
        ("a storage without a name", b"\x80\x02]K\x01a.", vec![0; 8], "not a string"),
    ] {
        legacy(&path, &good, keys, &data);
        let error = refusal(&path);
        assert!(error.contains(want), "{what}: {error}");
    }
}

/// A list of pairs can be made a dict once only, or a small file would fill the memory.
#[test]
fn ordered_dicts_of_one_list_do_not_multiply_it() {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00](".to_vec();
    let (pairs, dicts) = (10_000, 1000);
    pickle.extend(b"NN\x86".repeat(pairs));
    pickle.extend(b"eq\x01");
    pickle.extend(b"h\x00h\x01\x85R0".repeat(dicts));
    pickle.extend(b".");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, &pickle).unwrap();
    let mut file = std::io::BufReader::new(fs::File::open(&path).unwrap());
    let mut objects = super::Objects::default();
    let mut input = super::Input::new(&path, &mut file, (0, pickle.len() as u64), "x").unwrap();
    super::pickle::load(&mut input, &mut objects).unwrap();
    assert_eq!(objects.dicts.len(), dicts);
    assert_eq!(objects.dicts.iter().map(Vec::len).sum::<usize>(), pairs);
}

/// Beyond 4 GiB torch writes 64-bit fields; the hole takes no room on the disk.
#[test]
fn archives_beyond_4_gib_are_read() {
    let bytes = fs::read(fixture("zip64.pth")).unwrap();
    let hole = 5u64 << 30;
    let mut moved = bytes.clone();
    let mut add = |at: usize| {
        let old = u64::from_le_bytes(moved[at..at + 8].try_into().unwrap());
        moved[at..at + 8].copy_from_slice(&(old + hole).to_le_bytes());
    };
    // Every member but the first is read behind the hole: where it lies is the last of the extra field.
    let entries = (0..bytes.len()).filter(|&i| bytes[i..].starts_with(b"PK\x01\x02"));
    for entry in entries.skip(1) {
        assert_eq!(bytes[entry + 42..entry + 46], [0xff; 4]);
        add(entry + 46 + usize::from(bytes[entry + 28] + bytes[entry + 30]) - 8);
    }
    // So is the directory, which the 64-bit end record names, and that, which the locator names.
    let locator = bytes.len() - 22 - 20;
    add(locator - 56 + 48);
    add(locator + 8);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.pth");
    fs::write(&path, &bytes).unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(hole)).unwrap();
    file.write_all(&moved).unwrap();
    let mut large = TensorFile::open(&path).unwrap();
    let mut small = TensorFile::open(&fixture("zip64.pth")).unwrap();
    for name in ["f32", "second", "parameter"] {
        assert_eq!(bits(&large.read(name).unwrap()), bits(&small.read(name).unwrap()));
    }
}
