//! Any bytes -> `Safetensors::from_bytes`; of what opens, everything is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smallmind_formats::Safetensors;

fuzz_target!(|bytes: &[u8]| {
    match Safetensors::from_bytes("fuzz.safetensors", bytes.to_vec()) {
        Ok(file) => {
            let total: usize = file.tensors().iter().map(|t| file.data(t).len()).sum();
            assert!(total <= bytes.len());
            assert!(file.tensors().iter().all(|t| file.tensor(&t.name) == Some(t)));
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
    }
});
