//! What is written is read; every flip in header and index is refused, every flip behind them found by `verify`; the rule
//! of what a newer file may add holds.

use super::*;
use crate::error::FormatError;
use crate::gguf::Gguf;
use crate::write::{GgufWriter, PartSpec, SmqWriter};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use smallmind_kernels::dtype::DType;
use std::sync::OnceLock;

const ORDER: PartOrder = PartOrder::PairsToHalves { head_dim: 4, rope_dim: 2 };

fn model() -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.set_str("general.name", "m").set_strings("list", &["a", "b"]);
    w.add_tensor("rows", DType::F32, &[3], vec![1; 12]);
    w.add_tensor("both", DType::Q8_0, &[32, 8], vec![2; 272]);
    w.add_tensor("packed", DType::F32, &[5, 4], vec![3; 80]);
    w.to_bytes().unwrap()
}

fn specs() -> Vec<PartSpec> {
    let packed = |order| PartForm::Packed { layout: 1, order };
    let spec = |tensor, form, first_row, rows, bytes| PartSpec { tensor, form, first_row, rows, bytes };
    vec![
        spec(0, PartForm::Rows, 0, 1, 12),
        spec(1, PartForm::Rows, 0, 8, 272),
        spec(1, packed(PartOrder::Natural), 0, 8, 1000),
        spec(2, packed(ORDER), 0, 4, 640),
    ]
}

/// A file of some parts; made once, as its parts are apart by a huge page.
fn sample() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| write(&model(), specs()).unwrap()).clone()
}

fn write(model: &[u8], specs: Vec<PartSpec>) -> Result<Vec<u8>, FormatError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.smq");
    let gguf = Gguf::from_bytes("m.gguf", model.to_vec())?;
    let mut w = SmqWriter::create(&path, &gguf, 0, specs)?;
    while let Some(part) = w.next_part() {
        let bytes: Vec<u8> = (0..part.bytes).map(|i| (i * 13 + part.bytes) as u8).collect();
        w.part(&bytes)?;
    }
    w.commit()?;
    Ok(std::fs::read(path).unwrap())
}

fn open(bytes: Vec<u8>) -> Result<Gguf, FormatError> {
    Gguf::from_bytes("m.smq", bytes)
}

fn verify(bytes: Vec<u8>) -> Result<Option<Verified>, FormatError> {
    open(bytes)?.verify(&mut |_| true)
}

/// Makes a changed header and index as whole as a writer would.
fn seal(bytes: &mut [u8]) {
    let index = usize::try_from(u64::from_le_bytes(bytes[16..24].try_into().unwrap())).unwrap();
    let digest = Sha256::new().chain_update(&bytes[..32]).chain_update(&bytes[64..64 + index]).finalize();
    bytes[32..64].copy_from_slice(&digest);
}

#[test]
fn a_written_file_opens_with_the_models_header_and_all_parts() {
    let file = open(sample()).unwrap();
    let gguf = Gguf::from_bytes("m.gguf", model()).unwrap();
    assert_eq!(file.metadata().require_str("general.name").unwrap(), "m");
    assert_eq!(file.metadata().require_byte_strings("list").unwrap(), [b"a", b"b"]);
    assert_eq!((file.gguf_header(), file.gguf_len()), (gguf.gguf_header(), model().len() as u64));
    let [rows, both, packed] = ["rows", "both", "packed"].map(|n| file.tensor(n).unwrap());
    assert_eq!([rows, both, packed].map(|t| t.has_rows()), [true, true, false]);
    assert_eq!([rows, both, packed].map(|t| file.data(t).len()), [12, 272, 0]);
    assert_eq!(both.offset(), gguf.tensor("both").unwrap().offset());
    let part = file.packed(packed, &(0..4)).unwrap();
    assert_eq!(part.form, PartForm::Packed { layout: 1, order: ORDER });
    assert_eq!((part.bytes(), file.part_data(part).len(), file.shared().part(part).len()), (640, 640, 640));
    assert!(file.packed(packed, &(0..3)).is_none() && file.packed(rows, &(0..1)).is_none());
    let huge = usize::try_from(DATA_ALIGNMENT).unwrap();
    let first = file.packed(both, &(0..8)).unwrap().range.start;
    assert!(first.is_multiple_of(huge) && part.range.start.is_multiple_of(64));
    assert_eq!(verify(sample()).unwrap(), Some(Verified { parts: 4, bytes: sample().len() as u64 }));
    assert_eq!(gguf.verify(&mut |_| true).unwrap(), None);
    assert!(gguf.parts().is_none());
}

#[test]
fn a_file_that_another_program_wrote_by_the_description_opens() {
    let bytes = include_bytes!("../../../../fuzz/seeds/smq/two_parts").to_vec();
    let file = open(bytes).unwrap();
    let [a, b] = ["a", "b"].map(|n| file.tensor(n).unwrap());
    assert_eq!((file.data(a), b.has_rows()), (&[1; 12][..], false));
    assert_eq!(file.part_data(file.packed(b, &(0..4)).unwrap()), [2; 640]);
    assert_eq!(file.verify(&mut |_| true).unwrap().map(|v| v.parts), Some(2));
}

#[test]
fn every_flip_in_header_and_index_is_refused() {
    let good = sample();
    let end = open(good.clone()).unwrap().index_end();
    assert!(end > 400);
    let mut bytes = good;
    for at in 0..end {
        for bit in [0, 3, 7] {
            bytes[at] ^= 1 << bit;
            let error = Gguf::from_bytes("m.smq", bytes.clone());
            bytes[at] ^= 1 << bit;
            let text = error.map(drop).unwrap_err().to_string();
            assert!(!text.chars().any(char::is_control), "{text}");
        }
    }
}

#[test]
fn every_flip_behind_the_index_is_found_by_verify() {
    let mut bytes = sample();
    let file = open(bytes.clone()).unwrap();
    let (end, len) = (file.index_end(), bytes.len());
    let parts: Vec<Range<usize>> = file.parts().unwrap().iter().map(|p| p.range.clone()).collect();
    drop(file);
    // Places in and between the parts.
    let mut state = 7u64;
    for i in 0..1000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = usize::try_from(state >> 33).unwrap();
        let within = if i % 4 == 0 { end..len } else { parts[i % parts.len()].clone() };
        let at = within.start + random % within.len();
        bytes[at] ^= 1 << (i % 8);
        let file = Gguf::from_bytes("m.smq", bytes.clone()).unwrap();
        assert!(file.verify(&mut |_| true).is_err(), "a flip at {at} is not found");
        bytes[at] ^= 1 << (i % 8);
    }
}

#[test]
fn a_newer_file_is_read_refused_or_read_in_part_by_the_rule() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sample();
        change(&mut bytes);
        seal(&mut bytes);
        open(bytes).map(drop).unwrap_err().to_string()
    };
    assert!(refused(&|b| b[8] = 2).contains("version 2 of SMQ is unknown"));
    assert!(refused(&|b| b[12] = 4).contains("features 0x4"));
    assert!(refused(&|b| b[12] = 5).contains("features 0x4"));
    let mut known = sample();
    known[12] = u8::try_from(PACKED_LOOKUP).unwrap();
    seal(&mut known);
    assert_eq!(open(known).unwrap().parts().unwrap().len(), 4);
    assert!(refused(&|b| b.truncate(b.len() - 1)).contains("is cut short"));
    assert!(refused(&|b| b.push(0)).contains("bytes behind its end"));
    // A section of an unknown kind, put before the list of parts.
    let with_section = |flags| {
        let mut bytes = sample();
        let index = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let first = usize::try_from(u64::from_le_bytes(bytes[72..80].try_into().unwrap())).unwrap();
        let at = 64 + (16 + first).next_multiple_of(64);
        let section = padded_section(77, flags, &[&[0; 40]]);
        // The index grows into the gap before the first part's boundary: the parts of the sample that follow it at once
        // are moved along with their offsets left wrong, so only the packed ones are kept.
        let list = at;
        let count = (usize::try_from(index).unwrap() + 64 - list - 16) / PART_BYTES;
        let mut kept = Vec::new();
        for i in 0..count {
            let part = &bytes[list + 16 + i * PART_BYTES..][..PART_BYTES];
            if part[4] == 1 {
                kept.extend_from_slice(part);
            }
        }
        let mut new = bytes[..at].to_vec();
        new.extend(section);
        new.extend(padded_section(super::section::PARTS, REQUIRED, &[&kept]));
        let len = new.len() as u64 - 64;
        new[16..24].copy_from_slice(&len.to_le_bytes());
        let end = new.len();
        new.extend_from_slice(&bytes.split_off(end));
        seal(&mut new);
        open(new)
    };
    assert_eq!(with_section(0).unwrap().parts().unwrap().len(), 2);
    assert!(with_section(REQUIRED).unwrap_err().to_string().contains("kind 77 that must be understood"));
}

#[test]
fn parts_that_make_no_sense_are_refused_by_name() {
    let refused = |part: usize, at: usize, value: &[u8]| {
        let mut bytes = sample();
        let first = usize::try_from(u64::from_le_bytes(bytes[72..80].try_into().unwrap())).unwrap();
        let list = 64 + (16 + first).next_multiple_of(64) + 16;
        bytes[list + part * PART_BYTES + at..][..value.len()].copy_from_slice(value);
        seal(&mut bytes);
        open(bytes).map(drop).unwrap_err().to_string()
    };
    for (text, words) in [
        (refused(0, 0, &[9]), "tensor 9, which the header does not list"),
        (refused(1, 4, &[2]), "`both`: has a part of the unknown form 2"),
        (refused(1, 8, &[1]), "8 rows from row 1"),
        (refused(1, 16, &[0]), "0 rows"),
        (refused(1, 16, &[7]), "7 rows in 272 bytes"),
        (refused(3, 28, &[2]), "unknown order 2"),
        (refused(3, 32, &[3]), "unknown order 1 (3, 2)"),
        (refused(3, 36, &[3]), "unknown order 1 (4, 3)"),
        (refused(0, 40, &[1]), "not a place"),
        (refused(3, 47, &[255]), "not a place"),
        (refused(3, 48, &[255, 255, 255]), "not a place"),
    ] {
        assert!(text.contains(words), "`{words}`: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sealed_but_damaged_index_is_refused_or_read_but_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = sample();
        let end = open(bytes.clone()).unwrap().index_end();
        for (at, value) in damage {
            bytes[8 + at.index(end - 8)] = value;
        }
        let index = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        if index < 10_000 {
            seal(&mut bytes);
        }
        if let Ok(file) = open(bytes) {
            let _ = file.verify(&mut |_| true);
            for t in file.tensors() {
                prop_assert!(!t.has_rows() || file.data(t).len() == t.bytes());
            }
        }
    }
}
