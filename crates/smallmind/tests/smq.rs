//! SMQ: nothing is lost on the way there and back, logits keep their bits, and another layout is never misread.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy cannot see it")]

mod support;

use std::path::Path;

use smallmind::convert::{ConvertOptions, convert};
use smallmind::quantize::{Mix, QuantizeOptions, quantize};
use smallmind::{DType, Gguf, LoadOptions, Model, Session, SessionOptions};
use smallmind_formats::write::{PartSpec, SmqWriter};
use smallmind_formats::{Part, PartForm};

const EMBEDDING: &str = "token_embd.weight";

fn to(input: &Path, out: &Path) -> Vec<String> {
    convert(input, out, &ConvertOptions { dtype: None, threads: 2 }, &mut |_| true).unwrap()
}

fn logits(path: &Path, precise: bool) -> Vec<u32> {
    let model = Model::load(path, &LoadOptions { threads: Some(2), precise }).unwrap();
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let ids: Vec<u32> = (0..24).map(|i| i * 3 % 60 + 3).collect();
    session.score(&ids, ids.len()).unwrap().iter().map(|v| v.to_bits()).collect()
}

/// Every fixture, and one of them in every type.
fn models(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> =
        support::cases().iter().map(|c| support::golden(&format!("tiny/{}.gguf", c.name))).collect();
    assert!(all.len() >= 15);
    let kquants = Gguf::open(&support::golden("tiny/llama-kquants.gguf")).unwrap();
    for dtype in DType::all() {
        let out = dir.join(format!("{dtype}.gguf"));
        let mix = Mix::find(dtype.name()).unwrap();
        let options = QuantizeOptions { pure: true, ..QuantizeOptions::new(mix) };
        quantize(&kquants, &options, &out, &mut |_| true).unwrap();
        all.push(out);
    }
    all
}

#[test]
fn there_and_back_is_the_same_file_and_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (smq, back) = (dir.path().join("m.smq"), dir.path().join("m.gguf"));
    for model in models(dir.path()) {
        assert_eq!(to(&model, &smq), [""; 0], "{}", model.display());
        to(&smq, &back);
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&model).unwrap(), "{}", model.display());
        assert!(logits(&smq, false) == logits(&model, false), "{}", model.display());
        assert!(logits(&smq, true) == logits(&model, true), "{} precise", model.display());
        let file = Gguf::open(&smq).unwrap();
        assert_eq!(file.verify(&mut |_| true).unwrap().map(|v| v.bytes), Some(file.file_len()));
        // An embedding that doubles as output matrix is there once.
        let embedding = file.tensor(EMBEDDING).unwrap();
        let of = |p: &&Part| file.tensors()[p.tensor].name == EMBEDDING;
        let found: Vec<bool> =
            file.parts().unwrap().iter().filter(of).map(|p| p.form == PartForm::Rows).collect();
        assert_eq!(found, [file.tensor("output.weight").is_some()], "{}", model.display());
        assert_eq!(embedding.has_rows(), found[0]);
        assert_eq!(std::fs::read(&smq).unwrap()[12], u8::from(!found[0]));
    }
}

/// Writes an SMQ file again with the embedding's rows beside its packed part, as files were written at first.
fn with_rows(smq: &Path, gguf: &Path, out: &Path) {
    let (file, gguf) = (Gguf::open(smq).unwrap(), Gguf::open(gguf).unwrap());
    let tensor = gguf.tensors().iter().position(|t| t.name == EMBEDDING).unwrap();
    let (embedding, form) = (&gguf.tensors()[tensor], PartForm::Rows);
    let bytes = embedding.bytes();
    let mut specs = vec![PartSpec { tensor, form, first_row: 0, rows: embedding.rows(), bytes }];
    let mut data = vec![gguf.data(embedding)];
    for p in file.parts().unwrap() {
        let (tensor, form, first_row, rows, bytes) = (p.tensor, p.form, p.first_row, p.rows, p.bytes());
        specs.push(PartSpec { tensor, form, first_row, rows, bytes });
        data.push(file.part_data(p));
    }
    let mut writer = SmqWriter::create(out, &gguf, 0, specs).unwrap();
    data.into_iter().for_each(|bytes| writer.part(bytes).unwrap());
    writer.commit().unwrap();
}

#[test]
fn a_file_with_the_embedding_both_ways_is_read_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (smq, old, back) = (path("m.smq"), path("old.smq"), path("m.gguf"));
    for name in ["gemma3", "gpt2", "llama-kquants"] {
        let model = support::golden(&format!("tiny/{name}.gguf"));
        to(&model, &smq);
        with_rows(&smq, &model, &old);
        let parts = |path: &Path| Gguf::open(path).unwrap().parts().unwrap().len();
        assert_eq!(parts(&old), parts(&smq) + 1);
        assert!(Gguf::open(&old).unwrap().tensor(EMBEDDING).unwrap().has_rows());
        for precise in [false, true] {
            assert!(logits(&old, precise) == logits(&model, precise), "{name}");
        }
        to(&old, &back);
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&model).unwrap(), "{name}");
    }
}

#[test]
fn an_smq_file_is_quantized_like_the_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let (model, smq) = (support::golden("tiny/qwen3.gguf"), dir.path().join("m.smq"));
    to(&model, &smq);
    let quantized = |from: &Path| {
        let out = dir.path().join("q.gguf");
        let options = QuantizeOptions::new(Mix::find("Q4_0").unwrap());
        quantize(&Gguf::open(from).unwrap(), &options, &out, &mut |_| true).unwrap();
        std::fs::read(out).unwrap()
    };
    assert!(quantized(&smq) == quantized(&model));
    let again = dir.path().join("again.smq");
    let refused = convert(&smq, &again, &ConvertOptions::default(), &mut |_| true).unwrap_err().to_string();
    assert!(refused.contains("is SMQ already: name the output"), "{refused}");
    assert!(!again.exists());
}

#[test]
fn another_layout_is_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let smq = dir.path().join("m.smq");
    to(&support::golden("tiny/llama.gguf"), &smq);
    let mut bytes = std::fs::read(&smq).unwrap();
    // Parts of 88 bytes, the form at 4 and the layout at 24, are the index's last section.
    let first = u64::from_le_bytes(bytes[72..80].try_into().unwrap()) as usize;
    let list = 64 + (16 + first).next_multiple_of(64);
    let count = u64::from_le_bytes(bytes[list + 8..list + 16].try_into().unwrap()) as usize / 88;
    let packed: Vec<usize> = (0..count).map(|i| list + 16 + i * 88).filter(|at| bytes[at + 4] == 1).collect();
    assert!(packed.len() > 10);
    bytes[packed[0] + 24] ^= 64;
    let index = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let digest = <sha2::Sha256 as sha2::Digest>::new();
    let digest = sha2::Digest::chain_update(digest, &bytes[..32]);
    let digest = sha2::Digest::finalize(sha2::Digest::chain_update(digest, &bytes[64..64 + index]));
    bytes[32..64].copy_from_slice(&digest);
    std::fs::write(&smq, bytes).unwrap();
    let load = Model::load(&smq, &LoadOptions { threads: Some(1), precise: false });
    let text = load.map(drop).unwrap_err().to_string();
    assert!(text.contains("is packed in layout 66, and this version reads layout 2"), "{text}");
    let out = dir.path().join("back.gguf");
    let text = convert(&smq, &out, &ConvertOptions::default(), &mut |_| true).unwrap_err().to_string();
    assert!(text.contains("layout 66") && !out.exists(), "{text}");
}
