//! One line per model: a digest of the bits of its logits over a fixed prompt, and eight greedy tokens with theirs.
//! Lines from two machines are equal, or the machines compute different things: `.ci/cross` compares them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows its result")]

use smallmind::{LoadOptions, Model, Session, SessionOptions};

/// FNV-1a, 64 bits.
fn digest(hash: u64, logits: &[f32]) -> u64 {
    let bytes = logits.iter().flat_map(|l| l.to_bits().to_le_bytes());
    bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;
    for path in std::env::args_os().skip(1).map(std::path::PathBuf::from) {
        let model = Model::load(&path, &LoadOptions::default())?;
        let (vocab, context) = (u32::try_from(model.config().vocab)?, model.config().context);
        let prompt: Vec<u32> =
            (0..24u32).map(|i| (i * i + 7 * i + 1) % vocab).take(context.saturating_sub(8)).collect();
        let mut session = Session::new(&model, &SessionOptions::default())?;
        let prefill = digest(EMPTY, session.score(&prompt, prompt.len())?);
        let (mut decode, mut tokens) = (EMPTY, Vec::new());
        for _ in 0..8 {
            let all = session.logits_mut();
            let logits = &all[all.len() - vocab as usize..];
            decode = digest(decode, logits);
            // The first of the largest.
            let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            let best = u32::try_from(best.unwrap_or_default())?;
            tokens.push(best);
            session.prefill(&[best])?;
        }
        eprintln!("{} on {}", path.display(), model.isa());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        println!("{prefill:016x} {decode:016x} {tokens:?} {name}");
    }
    Ok(())
}
