//! What the tests of real vocabularies share: finding the model files and reading `tokenizer.*` out of a GGUF header.
//! A reader for files we trust; the real, checked one lives in another crate that this one may not depend on.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use smallmind_text::{TokenType, Tokenizer, VocabKind, VocabSpec};

/// A metadata value, as far as tokenizers need it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(i64),
    Float(f32),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    fn int(&self) -> i64 {
        if let Self::Int(i) = self { *i } else { panic!("not a number: {self:?}") }
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if let Self::Bytes(b) = self { b.clone() } else { panic!("not text: {self:?}") }
    }
}

struct Reader(BufReader<std::fs::File>);

impl Reader {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn string(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.u64()).unwrap()];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 => Value::Int(self.take::<1>()[0].into()),
            1 => Value::Int(i8::from_le_bytes(self.take()).into()),
            2 => Value::Int(u16::from_le_bytes(self.take()).into()),
            3 => Value::Int(i16::from_le_bytes(self.take()).into()),
            4 => Value::Int(u32::from_le_bytes(self.take()).into()),
            5 => Value::Int(i32::from_le_bytes(self.take()).into()),
            6 => Value::Float(f32::from_le_bytes(self.take())),
            7 => Value::Int(self.take::<1>()[0].into()),
            8 => Value::Bytes(self.string()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let count = self.u64();
                Value::List((0..count).map(|_| self.value(kind)).collect())
            }
            10 | 11 => Value::Int(i64::from_le_bytes(self.take())),
            12 => {
                self.take::<8>();
                Value::Float(0.0)
            }
            _ => panic!("value type {kind}"),
        }
    }
}

/// The metadata of a model the fetch script brings, or `None` (said loudly) where it is missing; in CI that is a failure.
pub(crate) fn metadata(file: &str) -> Option<HashMap<String, Value>> {
    let folder = std::env::var_os("SMALLMIND_TEST_MODELS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/smallmind-test-models"),
        PathBuf::from,
    );
    let path = folder.join(file);
    if !path.exists() {
        println!("skipped: {} is missing, run scripts/fetch-models", path.display());
        assert!(std::env::var_os("CI").is_none(), "{} is missing in CI", path.display());
        return None;
    }
    let mut reader = Reader(BufReader::new(std::fs::File::open(path).unwrap()));
    assert_eq!(&reader.take::<4>(), b"GGUF");
    reader.take::<12>();
    let count = reader.u64();
    let pairs = (0..count).map(|_| {
        let key = String::from_utf8(reader.string()).unwrap();
        let kind = u32::from_le_bytes(reader.take());
        (key, reader.value(kind))
    });
    Some(pairs.collect())
}

/// The tokenizer of a model, or `None` where the file is missing.
pub(crate) fn tokenizer(file: &str) -> Option<Tokenizer> {
    let metadata = metadata(file)?;
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let list = |key: &str| match get(key) {
        Some(Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let id = |key: &str| get(key).map(|v| u32::try_from(v.int()).unwrap());
    let flag = |key: &str| get(key).map(|v| v.int() != 0);
    let spec = VocabSpec {
        kind: match get("model").unwrap().bytes().as_slice() {
            b"gpt2" => VocabKind::Bpe,
            b"llama" => VocabKind::Spm,
            other => panic!("{other:?}"),
        },
        tokens: list("tokens").iter().map(Value::bytes).collect(),
        scores: list("scores").iter().map(|v| if let Value::Float(f) = v { *f } else { panic!() }).collect(),
        types: list("token_type")
            .iter()
            .map(|v| TokenType::try_from(i32::try_from(v.int()).unwrap()).unwrap())
            .collect(),
        merges: list("merges").iter().map(Value::bytes).collect(),
        pre: get("pre").map(|v| String::from_utf8(v.bytes()).unwrap()).unwrap_or_default(),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        ..VocabSpec::default()
    };
    Some(Tokenizer::new(spec).unwrap())
}
