//! Any bytes behind a header that is sealed for them -> `Gguf::from_bytes`; of what opens, everything is read and
//! verified. Seeds: `seeds/smq`, whole files without their packed parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use smallmind_formats::Gguf;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    // A digest would stop every mutation at the door: make it fit.
    if let Some(length) = bytes.get(16..24).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
        && let Ok(length) = usize::try_from(length)
        && let Some(index) = length.checked_add(64).and_then(|end| bytes.get(64..end))
    {
        let digest = Sha256::new().chain_update(&bytes[..32]).chain_update(index).finalize();
        bytes[32..64].copy_from_slice(&digest);
    }
    let file = match Gguf::from_bytes("fuzz.smq", bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().chars().any(char::is_control));
            return;
        }
    };
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len(), if tensor.has_rows() { tensor.bytes() } else { 0 });
    }
    for part in file.parts().into_iter().flatten() {
        assert_eq!(file.part_data(part).len(), part.bytes());
    }
    let _ = file.verify(&mut |_| true);
});
