//! Tests of the GGUF reader on hand-made, random and damaged files.

use super::*;
use crate::write::GgufWriter;
use proptest::prelude::*;
use smallmind_kernels::dtype::DType;

fn sample() -> GgufWriter<'static> {
    let mut writer = GgufWriter::new();
    writer
        .set_str("general.architecture", "llama")
        .set_u32("llama.block_count", 2)
        .set_u64("big", u64::MAX)
        .set_i32("minus", -1)
        .set_f32("eps", 1e-5)
        .set_f64("base", 1e4)
        .set_bool("flag", true)
        .set_strings("tokens", &[&b"a"[..], b"", b"\xff\xfe"])
        .set_strings("words", &["x", "ÿ"])
        .set_f32s("scores", &[0.5, -1.0])
        .set_i32s("types", &[1, -2])
        .set_u32s("counts", &[1, u32::MAX])
        .set_bools("flags", &[true, false]);
    writer.add_tensor("blk.0.w", DType::Q8_0, &[32, 3], (0..102).collect::<Vec<u8>>());
    writer.add_tensor("norm", DType::F32, &[2], vec![7; 8]);
    writer
}

fn parse(bytes: &[u8]) -> Result<Gguf, FormatError> {
    Gguf::from_bytes("test.gguf", bytes.to_vec())
}

fn fault(bytes: &[u8]) -> String {
    let text = parse(bytes).unwrap_err().to_string();
    assert!(text.starts_with("test.gguf: ") && !text.chars().any(char::is_control), "{text}");
    text
}

/// A file made of raw parts: keys and values, then tensor descriptions, then 4 KiB of data.
fn raw(keys: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    bytes.extend(keys.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 4096, 0);
    bytes
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn key(name: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    [string(name), value_type.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn tensor(name: &[u8], dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn with_key(name: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    raw(&[key(name, value_type, value)], &[tensor(b"t", &[4], 0, 0)])
}

fn with_tensor(name: &[u8], dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    raw(&[], &[tensor(b"first", &[4], 0, 0), tensor(name, dims, type_id, offset)])
}

#[test]
fn every_getter_reads_its_type() {
    let file = parse(&sample().to_bytes().unwrap()).unwrap();
    let m = file.metadata();
    assert_eq!((file.version(), m.len(), file.tensors().len()), (3, 13, 2));
    assert_eq!(m.str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(m.u32("llama.block_count").unwrap(), Some(2));
    assert_eq!(m.usize("llama.block_count").unwrap(), Some(2));
    assert_eq!(m.i32("minus").unwrap(), Some(-1));
    assert_eq!(m.u64("big").unwrap(), Some(u64::MAX));
    assert_eq!((m.f32("eps").unwrap(), m.f32("base").unwrap()), (Some(1e-5), Some(1e4)));
    assert_eq!(m.bool("flag").unwrap(), Some(true));
    assert_eq!(m.strings("words").unwrap(), Some(vec!["x", "ÿ"]));
    assert_eq!(m.byte_strings("tokens").unwrap(), Some(vec![&b"a"[..], b"", b"\xff\xfe"]));
    assert_eq!(m.f32s("scores").unwrap(), Some(vec![0.5, -1.0]));
    assert_eq!(m.i32s("types").unwrap(), Some(vec![1, -2]));
    assert_eq!(m.u32s("counts").unwrap(), Some(vec![1, u32::MAX]));
    assert_eq!(m.bools("flags").unwrap(), Some(vec![true, false]));
    assert_eq!(m.u32("absent").unwrap(), None);
    assert!(m.contains("eps") && !m.contains("absent"));
}

#[test]
fn a_getter_refuses_other_types_and_values_that_do_not_fit() {
    let file = parse(&sample().to_bytes().unwrap()).unwrap();
    let m = file.metadata();
    let text = |e: FormatError| e.to_string();
    assert_eq!(
        text(m.u32("general.architecture").unwrap_err()),
        "test.gguf: key `general.architecture` is a string, not an integer of 0..=4294967295; convert the model again"
    );
    assert!(text(m.u32("big").unwrap_err()).contains("is u64 18446744073709551615, not"));
    assert!(text(m.u64("minus").unwrap_err()).contains("is i32 -1, not"));
    assert!(text(m.u32("flag").unwrap_err()).contains("is bool true, not"));
    assert!(text(m.u32("eps").unwrap_err()).contains("is f32 1e-5, not"));
    assert!(text(m.f32("llama.block_count").unwrap_err()).contains("is u32 2, not a floating-point number"));
    assert!(text(m.bool("big").unwrap_err()).contains("not a boolean"));
    assert!(text(m.str("words").unwrap_err()).contains("is an array of 2 × string, not a string"));
    assert!(text(m.strings("tokens").unwrap_err()).contains("string 2 is not UTF-8"));
    assert!(
        text(m.strings("scores").unwrap_err()).contains("is an array of 2 × f32, not an array of strings")
    );
    assert!(text(m.f32s("tokens").unwrap_err()).contains("is an array of 3 × string, not"));
    assert!(text(m.u32s("types").unwrap_err()).contains("element 1 is i32 -2"));
    assert!(text(m.i32s("counts").unwrap_err()).contains("element 1 is u32 4294967295"));
    assert!(text(m.f32s("types").unwrap_err()).contains("element 0 is i32 1"));
    assert_eq!(
        text(m.require_u32("absent").unwrap_err()),
        "test.gguf: key `absent` is missing; convert the model again"
    );
}

#[test]
fn values_are_shown_short_and_harmless() {
    let mut writer = sample();
    writer.set_str("evil", "\x1b]0;pwned\x07").set_str("long", &"n".repeat(10_000));
    writer.set_strings("many", &vec!["\x1b[2J"; 1000]);
    let file = parse(&writer.to_bytes().unwrap()).unwrap();
    let show = |key| file.metadata().get(key).unwrap().to_string();
    assert_eq!(show("evil"), "\\u{1b}]0;pwned\\u{7}");
    assert_eq!(show("long").chars().count(), 201);
    assert!(show("many").ends_with(", … 1000 in all]"));
    assert_eq!((show("types"), show("tokens")), ("[1, -2]".into(), "[\"a\", \"\", \"\\xff\\xfe\"]".into()));
    for (_, value) in file.metadata().iter() {
        assert!(!value.to_string().chars().any(char::is_control));
    }
}

#[test]
fn tensors_are_found_by_name_and_their_bytes_are_aligned() {
    let file = parse(&sample().to_bytes().unwrap()).unwrap();
    let w = file.tensor("blk.0.w").unwrap();
    assert_eq!(
        (w.dtype, w.shape.as_slice(), w.elements(), w.bytes(), w.rows()),
        (DType::Q8_0, &[32, 3][..], 96, 102, 3)
    );
    assert_eq!(file.data(w), (0..102).collect::<Vec<u8>>());
    let norm = file.tensor("norm").unwrap();
    assert_eq!((file.data(norm), norm.rows(), norm.row_len()), (&[7; 8][..], 1, 2));
    assert_eq!(file.tensor("norm2"), None);
    for t in file.tensors() {
        assert!(file.data(t).as_ptr().addr().is_multiple_of(8) && t.offset().is_multiple_of(32));
        file.release(t, 0..t.bytes());
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = sample().to_bytes().unwrap();
    let file = parse(&bytes).unwrap();
    let needed = file.tensors().iter().map(|t| t.range().end).max().unwrap();
    for len in 0..needed {
        let text = fault(&bytes[..len]);
        assert!(text.contains("missing") || len < 4, "cut at {len}: {text}");
    }
    assert!(parse(&bytes[..needed]).is_ok(), "padding after the last tensor may be absent");
    let cut = fault(&bytes[..needed - 3]);
    assert!(
        cut.starts_with("test.gguf: 3 bytes are missing") && cut.contains("download is incomplete"),
        "{cut}"
    );
}

#[test]
fn bytes_after_the_last_tensor_are_ignored() {
    let mut bytes = sample().to_bytes().unwrap();
    bytes.extend([0xaa; 100]);
    assert!(parse(&bytes).is_ok());
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let cases: [(&[u8], &str); 12] = [
        (b"", "is empty"),
        (b"GG", "incomplete"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html>", "web page"),
        (b"PK\x03\x04aaaa", "PyTorch or zip"),
        (b"\x36\0\0\0\0\0\0\0{\"x\":1}", "safetensors"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"lmgg\x01\0\0\0", "old format"),
        (b"\x7fELF\x02", "program"),
        (b"{{{{{{{{{", "JSON"),
        (&[0; 100], "zeros"),
        (b"abcdefgh", "not a GGUF model"),
    ];
    for (bytes, word) in cases {
        assert!(fault(bytes).contains(word), "{}", fault(bytes));
    }
}

#[test]
fn only_versions_2_and_3_in_little_endian_order_are_read() {
    let mut bytes = sample().to_bytes().unwrap();
    let mut with = |version: u32| {
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        parse(&bytes).map(|f| f.version()).map_err(|e| e.to_string())
    };
    assert_eq!((with(2), with(3)), (Ok(2), Ok(3)));
    assert!(with(1).unwrap_err().contains("version 1 of GGUF is obsolete"));
    assert!(with(3u32.swap_bytes()).unwrap_err().contains("big-endian"));
    assert!(with(4).unwrap_err().contains("version 4 of GGUF is unknown"));
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_at_once() {
    let bytes = sample().to_bytes().unwrap();
    for at in [8, 16] {
        for claim in [1u64 << 20, 1 << 31, 1 << 61, u64::MAX] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            assert!(fault(&bytes).contains(&format!("claims {claim}")), "{}", fault(&bytes));
        }
    }
    for elem in 0..13u32 {
        for claim in [1u64 << 31, 1 << 61, (1 << 62) + 1, u64::MAX] {
            let value = [&elem.to_le_bytes()[..], &claim.to_le_bytes()].concat();
            assert!(fault(&with_key(b"x", 9, &value)).contains(&format!("key `x`, which claims {claim}")));
        }
    }
}

#[test]
fn faults_in_keys_and_values_are_named() {
    assert!(fault(&with_key(b"", 4, &[0; 4])).contains("key 0 is empty"));
    assert!(fault(&with_key(b"a\0b", 4, &[0; 4])).contains("key 0 is not printable ASCII"));
    assert!(fault(&with_key(&[b'k'; 65_536], 4, &[0; 4])).contains("longer than 65535"));
    assert!(parse(&with_key(&[b'k'; 65_535], 4, &[0; 4])).is_ok());
    assert!(fault(&with_key(b"x", 13, &[0; 8])).contains("key `x`: has the unknown value type 13"));
    assert!(fault(&with_key(b"x", 7, &[2])).contains("key `x`: holds a boolean that is neither 0 nor 1"));
    let bools = [&7u32.to_le_bytes()[..], &3u64.to_le_bytes(), &[0, 1, 3]].concat();
    assert!(fault(&with_key(b"x", 9, &bools)).contains("neither 0 nor 1"));
    let twice =
        raw(&[key(b"a", 0, &[1]), key(b"b", 0, &[1]), key(b"a", 0, &[1])], &[tensor(b"t", &[4], 0, 0)]);
    assert!(fault(&twice).contains("key `a`: is there twice"));
    let text = with_key(b"x", 8, &string(b"\xff"));
    assert!(
        parse(&text).unwrap().metadata().str("x").unwrap_err().to_string().contains("key `x`: is not UTF-8")
    );
}

#[test]
fn nested_arrays_are_read_to_a_bounded_depth() {
    let nested = |depth: usize| {
        let head = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        [head.repeat(depth), [&0u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[1]].concat()].concat()
    };
    for depth in [0, 1, 7] {
        assert!(parse(&with_key(b"x", 9, &nested(depth))).is_ok(), "{depth}");
    }
    for depth in [8, 1000, 60_000] {
        assert!(
            fault(&with_key(b"x", 9, &nested(depth))).contains("nests arrays more than 8 deep"),
            "{depth}"
        );
    }
}

#[test]
fn alignment_is_a_power_of_two_that_keeps_floats_aligned() {
    for value in [0u32, 1, 4, 12, 33, 131_072, u32::MAX] {
        let text = fault(&with_key(b"general.alignment", 4, &value.to_le_bytes()));
        assert!(text.contains(&format!("key `general.alignment`: is {value}, not a power of two")), "{text}");
    }
    for value in [8u32, 32, 64] {
        assert!(parse(&with_key(b"general.alignment", 4, &value.to_le_bytes())).is_ok());
    }
    assert!(
        fault(&with_key(b"general.alignment", 8, &string(b"32"))).contains("is a string, not an integer")
    );
    assert!(parse(&with_key(b"general.alignment", 10, &32u64.to_le_bytes())).is_ok());
}

#[test]
fn one_part_of_a_split_model_is_refused() {
    assert!(
        fault(&with_key(b"split.count", 2, &[3, 0]))
            .contains("key `split.count`: the model is split into 3 files")
    );
    assert!(parse(&with_key(b"split.count", 2, &[1, 0])).is_ok());
}

#[test]
fn faults_in_tensors_are_named() {
    let has = |bytes: Vec<u8>, words: &str| {
        let text = fault(&bytes);
        assert!(text.contains(words), "{text}");
    };
    has(raw(&[], &[]), "holds no tensors");
    has(with_tensor(b"", &[4], 0, 32), "the name of tensor 1 is empty");
    has(with_tensor(&[b'n'; 65], &[4], 0, 32), "the name of tensor 1 is longer than 64 bytes");
    has(with_tensor(b"\xff", &[4], 0, 32), "the name of tensor 1 is not UTF-8");
    has(with_tensor(b"\x1b[2J", &[4], 0, 32), "the name of tensor 1 holds control characters");
    has(with_tensor(b"first", &[4], 0, 32), "tensor `first`: it is there twice");
    has(with_tensor(b"x", &[], 0, 32), "tensor `x`: it has 0 dimensions");
    has(with_tensor(b"x", &[1; 5], 0, 32), "tensor `x`: it has 5 dimensions");
    has(with_tensor(b"x", &[4, 0], 0, 32), "tensor `x`: a dimension of [4, 0] is 0");
    has(with_tensor(b"x", &[1 << 32, 1 << 32], 0, 32), "too large");
    has(with_tensor(b"x", &[1 << 62], 0, 32), "too large");
    has(with_tensor(b"x", &[33, 32], 8, 32), "rows of 33 are not a whole number of Q8_0 blocks of 32");
    has(
        with_tensor(b"x", &[32], 20, 32),
        "type IQ4_NL, which is not supported; get the model in one of F32, F16",
    );
    has(with_tensor(b"x", &[32], 4, 32), "the unknown type 4");
    has(with_tensor(b"x", &[32], u32::MAX, 32), "the unknown type 4294967295");
    has(with_tensor(b"x", &[4], 0, 33), "offset 33 is not a multiple of 32");
    has(with_tensor(b"x", &[4], 0, 0), "overlap those of tensor");
    has(with_tensor(b"x", &[4], 0, 1 << 40), "are missing");
    has(with_tensor(b"x", &[4], 0, u64::MAX - 31), "lies beyond any file");
    has(with_tensor(b"x", &[1 << 20], 0, 32), "(`x` should end at byte");
}

#[test]
fn a_tensor_may_end_at_the_last_byte_and_order_is_free() {
    assert!(parse(&with_tensor(b"x", &[(4096 - 32) / 4], 0, 32)).is_ok());
    let reversed = raw(&[], &[tensor(b"b", &[4], 0, 1024), tensor(b"a", &[4], 0, 0)]);
    let file = parse(&reversed).unwrap();
    let names: Vec<_> = file.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(file.tensor("a").unwrap().name, "a");
}

/// Everything a caller can ask of a file, so that a mutation that slips through shows itself.
fn read_everything(file: &Gguf) -> usize {
    let mut read = 0;
    for (key, value) in file.metadata().iter() {
        let m = file.metadata();
        read += value.to_string().len();
        read += m.str(key).map_or(0, |v| v.map_or(0, str::len));
        read += m.strings(key).map_or(0, |v| v.map_or(0, |v| v.len()));
        read += m.byte_strings(key).map_or(0, |v| v.map_or(0, |v| v.len()));
        read += m.f32s(key).map_or(0, |v| v.map_or(0, |v| v.len()));
        read += m.i32s(key).map_or(0, |v| v.map_or(0, |v| v.len()));
        read += m.bools(key).map_or(0, |v| v.map_or(0, |v| v.len()));
        read += usize::from(m.u64(key).is_ok()) + usize::from(m.f32(key).is_ok());
    }
    for t in file.tensors() {
        assert_eq!(file.data(t).len(), t.bytes());
        assert_eq!(t.rows() * t.row_len(), t.elements());
        assert_eq!(file.tensor(&t.name), Some(t));
        read += file.data(t).iter().map(|b| usize::from(*b)).sum::<usize>();
    }
    read
}

#[derive(Clone, Debug)]
enum Any {
    Str(String),
    U32(u32),
    U64(u64),
    I32(i32),
    F32(f32),
    Bool(bool),
    Strings(Vec<Vec<u8>>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

fn any_value() -> impl Strategy<Value = Any> {
    prop_oneof![
        any::<String>().prop_map(Any::Str),
        any::<u32>().prop_map(Any::U32),
        any::<u64>().prop_map(Any::U64),
        any::<i32>().prop_map(Any::I32),
        any::<f32>().prop_map(Any::F32),
        any::<bool>().prop_map(Any::Bool),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9).prop_map(Any::Strings),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(Any::F32s),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Any::I32s),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Any::Bools),
    ]
}

fn any_tensor() -> impl Strategy<Value = (DType, Vec<usize>)> {
    let types: Vec<DType> = DType::all().collect();
    (prop::sample::select(types), 1usize..3, prop::collection::vec(1usize..4, 0..4))
        .prop_map(|(dtype, blocks, rest)| (dtype, [vec![blocks * dtype.block_len()], rest].concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_what_is_read(
        keys in prop::collection::btree_map("[a-z]([a-z0-9_.]{0,20})", any_value(), 0..9),
        tensors in prop::collection::btree_map("[a-z0-9._é]{1,20}", any_tensor(), 1..6),
        alignment in prop::option::of(3u32..17),
        seed in any::<u8>(),
    ) {
        let mut writer = GgufWriter::new();
        if let Some(power) = alignment {
            writer.set_u32(ALIGNMENT_KEY, 1 << power);
        }
        for (key, value) in &keys {
            match value {
                Any::Str(v) => writer.set_str(key, v),
                Any::U32(v) => writer.set_u32(key, *v),
                Any::U64(v) => writer.set_u64(key, *v),
                Any::I32(v) => writer.set_i32(key, *v),
                Any::F32(v) => writer.set_f32(key, *v),
                Any::Bool(v) => writer.set_bool(key, *v),
                Any::Strings(v) => writer.set_strings(key, v),
                Any::F32s(v) => writer.set_f32s(key, v),
                Any::I32s(v) => writer.set_i32s(key, v),
                Any::Bools(v) => writer.set_bools(key, v),
            };
        }
        let data = |dtype: DType, shape: &[usize]| -> Vec<u8> {
            (0..dtype.bytes_of(shape.iter().product()).unwrap()).map(|i| seed.wrapping_mul(31) ^ i as u8).collect()
        };
        for (name, (dtype, shape)) in &tensors {
            writer.add_tensor(name, *dtype, shape, data(*dtype, shape));
        }
        let file = parse(&writer.to_bytes().unwrap()).unwrap();
        let m = file.metadata();
        prop_assert_eq!(m.len(), keys.len() + usize::from(alignment.is_some()));
        for (key, value) in &keys {
            match value {
                Any::Str(v) => prop_assert_eq!(m.require_str(key).unwrap(), v),
                Any::U32(v) => prop_assert_eq!(m.require_u32(key).unwrap(), *v),
                Any::U64(v) => prop_assert_eq!(m.require_u64(key).unwrap(), *v),
                Any::I32(v) => prop_assert_eq!(m.require_i32(key).unwrap(), *v),
                Any::F32(v) => prop_assert_eq!(m.require_f32(key).unwrap().to_bits(), v.to_bits()),
                Any::Bool(v) => prop_assert_eq!(m.require_bool(key).unwrap(), *v),
                Any::Strings(v) => prop_assert_eq!(&m.require_byte_strings(key).unwrap(), v),
                Any::F32s(v) => prop_assert_eq!(
                    m.require_f32s(key).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                    v.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                ),
                Any::I32s(v) => prop_assert_eq!(&m.require_i32s(key).unwrap(), v),
                Any::Bools(v) => prop_assert_eq!(&m.require_bools(key).unwrap(), v),
            }
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (name, (dtype, shape)) in &tensors {
            let t = file.tensor(name).unwrap();
            prop_assert_eq!((&t.dtype, &t.shape), (dtype, shape));
            prop_assert_eq!(file.data(t), data(*dtype, shape));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_but_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample().to_bytes().unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match parse(&bytes) {
            Ok(file) => prop_assert!(read_everything(&file) > 0),
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
        }
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_start_never_panic(rest in prop::collection::vec(any::<u8>(), 0..400), n in 1u8..4) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([n, 0, 0, 0, 0, 0, 0, 0, n, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(rest);
        if let Ok(file) = parse(&bytes) {
            read_everything(&file);
        }
    }
}
