//! Any bytes -> `Gguf::from_bytes`; of what opens, everything is read. Seeds: `seeds/gguf_header`, so run
//! `cargo +nightly fuzz run gguf_header fuzz/corpus/gguf_header fuzz/seeds/gguf_header`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smallmind_formats::Gguf;

fuzz_target!(|bytes: &[u8]| {
    let file = match Gguf::from_bytes("fuzz.gguf", bytes.to_vec()) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().chars().any(char::is_control));
            return;
        }
    };
    let metadata = file.metadata();
    for (key, value) in metadata.iter() {
        assert!(!value.to_string().chars().any(char::is_control));
        assert!(metadata.contains(key));
        let _ = (metadata.str(key), metadata.strings(key), metadata.byte_strings(key));
        let _ = (metadata.u32(key), metadata.u64(key), metadata.i32(key), metadata.usize(key));
        let _ = (metadata.f32(key), metadata.bool(key), metadata.f32s(key));
        let _ = (metadata.i32s(key), metadata.u32s(key), metadata.bools(key));
    }
    let mut total = 0u64;
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len(), tensor.bytes());
        assert_eq!(tensor.rows() * tensor.row_len(), tensor.elements());
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        total += tensor.bytes() as u64;
    }
    // The tensors lie apart from each other.
    assert!(total <= file.file_len());
});
