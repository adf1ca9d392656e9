//! Sound files are read, all others refused in a sentence.

use super::*;
use proptest::prelude::*;

fn file(header: &str, data: usize) -> Result<Safetensors, FormatError> {
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat();
    Safetensors::from_bytes("m.safetensors", bytes)
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}   "#;

#[test]
fn tensors_are_found_by_name_with_their_bytes() {
    let f = file(TWO, 12).unwrap();
    assert_eq!(f.tensors().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let b = f.tensor("b").unwrap();
    assert_eq!((b.dtype, b.shape.as_slice(), f.data(b).len()), (SafeType::F32, &[2, 1][..], 8));
    assert!(f.tensor("c").is_none());
    assert!(file("{}", 0).unwrap().tensors().is_empty());
}

#[test]
fn what_is_not_the_format_is_refused_with_the_reason() {
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype, shape, offsets| format!("{{{}}}", entry("t", dtype, shape, offsets));
    let two = |a: &str, b: &str| format!("{{{},{}}}", entry("a", "U8", "[4]", a), entry("b", "U8", "[4]", b));
    let cases = [
        (one("F32", "[1]", "[0,4]"), 3, "1 bytes are missing"),
        (one("F32", "[1]", "[0,4]"), 5, "belong to no tensor"),
        (one("F32", "[2]", "[0,4]"), 4, "take 8 bytes"),
        (one("F32", "[1]", "[4,0]"), 4, "take 4 bytes"),
        (one("F31", "[1]", "[0,4]"), 4, "unknown type `F31`"),
        (one("F32", "[18446744073709551615,2]", "[0,4]"), 4, "too large"),
        (one("F32", "[-1]", "[0,4]"), 4, "not what the format asks for"),
        (one("F32", "[1]", "[0,4,8]"), 4, "not what the format asks for"),
        (two("[0,4]", "[2,6]"), 8, "overlaps"),
        (two("[0,4]", "[6,10]"), 10, "gap"),
        (two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), 8, "there twice"),
        ("[]".to_owned(), 0, "no safetensors file"),
        ("{".to_owned(), 0, "not what the format asks for"),
        (r#"{"__metadata__":{"x":1}}"#.to_owned(), 0, "not what the format asks for"),
    ];
    for (header, data, words) in cases {
        let text = file(&header, data).unwrap_err().to_string();
        assert!(text.contains(words), "{header}: {text}");
    }
    for (bytes, words) in [
        (&b"version https://git-lfs.github.com/spec/v1"[..], "git-lfs"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "is GGUF"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "no safetensors"),
        (b"\x20\0\0\0\0\0\0\0{", "bytes are missing"),
        (b"abc", "no safetensors"),
    ] {
        let text = Safetensors::from_bytes("m", bytes.to_vec()).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn shards_are_joined_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, header: &str, data: usize| {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![1; data]].concat();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    let index = |map: &str| std::fs::write(dir.path().join("model.safetensors.index.json"), map).unwrap();
    let open = || SafetensorsFolder::open(dir.path());
    assert!(open().unwrap_err().to_string().contains("neither model.safetensors nor"));
    index(r#"{"metadata":{},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#);
    write("1.safetensors", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1);
    assert!(open().unwrap_err().to_string().contains("shard `2.safetensors`, which is missing"));
    write("2.safetensors", r#"{"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1);
    assert!(open().unwrap_err().to_string().contains("tensor `b`: is not in `2.safetensors`"));
    write("2.safetensors", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1);
    assert!(open().unwrap_err().to_string().contains("another shard"));
    write("2.safetensors", r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#, 2);
    let folder = open().unwrap();
    assert_eq!(folder.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(folder.tensor("b").unwrap().1.shape, [2]);
    index(r#"{"weight_map":{"a":"../1.safetensors"}}"#);
    assert!(open().unwrap_err().to_string().contains("no file name"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_refused_or_read_but_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = [&(TWO.len() as u64).to_le_bytes()[..], TWO.as_bytes(), &[7; 12]].concat();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        match Safetensors::from_bytes("m", bytes) {
            Ok(f) => prop_assert!(f.tensors().iter().map(|t| f.data(t).len()).sum::<usize>() <= 12),
            Err(e) => prop_assert!(!e.to_string().chars().any(char::is_control)),
        }
    }
}
