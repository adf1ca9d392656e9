//! Where unsafe code may stand. The compiler's lint asks for an `allow` in the file; this list asks for a reviewer.

use anyhow::Result;

use super::Tree;

/// Every file that may hold `unsafe`, and what for.
const FILES: &[(&str, &str)] = &[
    (
        "crates/smallmind-bench/src/measure/roofline.rs",
        "calls loops compiled for instructions that the CPU has",
    ),
    ("crates/smallmind-bench/src/profile/counters.rs", "perf_event_open"),
    ("crates/smallmind-cli/src/alloc.rs", "the counting allocator"),
    ("crates/smallmind-formats/src/map.rs", "maps a file"),
    ("crates/smallmind-kernels/src/aligned.rs", "bytes seen as units, checked for size and alignment"),
    (
        "crates/smallmind-kernels/src/gemm/bf16_tile.rs",
        "hands on the proof that tiles may be used; a transposition in intrinsics",
    ),
    ("crates/smallmind-kernels/src/isa/amx.rs", "assembly"),
    ("crates/smallmind-kernels/src/isa/amx_emulated.rs", "loads with a stride, as the hardware's"),
    (
        "crates/smallmind-kernels/src/isa/amx_proof.rs",
        "asks the system, and runs the instructions to be proved",
    ),
    ("crates/smallmind-kernels/src/isa/avx2.rs", "intrinsics"),
    ("crates/smallmind-kernels/src/isa/avx2_dot.rs", "intrinsics"),
    ("crates/smallmind-kernels/src/isa/avx512.rs", "intrinsics"),
    ("crates/smallmind-kernels/src/isa/i8mm.rs", "intrinsics"),
    ("crates/smallmind-kernels/src/isa/avx512_tiles.rs", "intrinsics"),
    ("crates/smallmind-kernels/src/isa/neon.rs", "intrinsics"),
    ("crates/smallmind-kernels/src/isa/wasm.rs", "loads and stores"),
    (
        "crates/smallmind-kernels/src/matmul/amx/mod.rs",
        "hands on the proof that tiles may be used; reads what was unpacked into memory not initialized before",
    ),
    ("crates/smallmind-kernels/src/matmul/amx/planes.rs", "unpacks into memory not initialized before"),
    (
        "crates/smallmind-kernels/src/matmul/amx/fast.rs",
        "hands on the proof that tiles may be used; unpacks into memory not initialized before",
    ),
    ("crates/smallmind-kernels/src/matmul/float.rs", "marks units as plain bytes"),
    ("crates/smallmind-kernels/src/matmul/format.rs", "marks units as plain bytes"),
    ("crates/smallmind-kernels/src/matmul/gated.rs", "threads join disjoint parts of two outputs"),
    (
        "crates/smallmind-kernels/src/matmul/many.rs",
        "memory for the sums of all tokens that there may be is written for those that there are",
    ),
    ("crates/smallmind-kernels/src/matmul/tile.rs", "threads write disjoint rows of one output"),
    (
        "crates/smallmind-kernels/src/ops/tile_attention.rs",
        "hands on the proof that tiles may be used; makes memory of zeros",
    ),
    ("crates/smallmind-kernels/src/table.rs", "calls code compiled for instructions that the CPU has"),
    ("crates/smallmind-kernels/src/threads.rs", "lends a closure to the workers for one call"),
    ("crates/smallmind/src/profile/clock.rs", "reads the processor's counter of time"),
    ("crates/smallmind/tests/sampling.rs", "a counting allocator"),
    ("crates/smallmind/tests/session.rs", "a counting allocator"),
];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    // This file spells what it looks for.
    let others = tree.rust().filter(|(path, _)| *path != "xtask/src/tidy/unsafe_code.rs");
    let mut problems: Vec<String> = others.flat_map(|(path, text)| problems_of(path, text)).collect();
    for (path, _) in FILES {
        if !tree.rust().any(|(p, text)| p == *path && text.lines().any(is_unsafe)) {
            problems.push(format!(
                "{path}: has no unsafe code: take it off the list in xtask/src/tidy/unsafe_code.rs"
            ));
        }
    }
    Ok(problems)
}

fn problems_of(path: &str, text: &str) -> Vec<String> {
    let listed = FILES.iter().any(|(p, _)| *p == path);
    let lines: Vec<&str> = text.lines().collect();
    let mut problems = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let at = format!("{path}:{}", i + 1);
        if is_unsafe(line) && !listed {
            problems.push(format!(
                "{at}: unsafe code outside the listed files: write it safely, or argue for the file"
            ));
        } else if needs_reason(line) && !has_reason(&lines[..i]) {
            problems
                .push(format!("{at}: say in a `// SAFETY:` comment above it which proof makes this sound"));
        }
    }
    problems
}

/// The keywords in front of what they open; prose and strings do not put them so.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    let openers = ["{", "fn ", "impl ", "impl<", "trait ", "extern "];
    openers.iter().any(|o| code.contains(&format!("unsafe {o}"))) || code.contains("allow(unsafe_code")
}

fn needs_reason(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    code.contains("unsafe {") || code.contains("unsafe impl")
}

/// Whether the comments and the beginning of the statement just above hold the reason.
fn has_reason(above: &[&str]) -> bool {
    let statement = above.iter().rev().take_while(|line| {
        let line = line.trim();
        line.starts_with("//")
            || line.starts_with("#[")
            || !(line.is_empty() || line.ends_with([';', '{', '}']))
    });
    statement.into_iter().any(|line| line.contains("// SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::super::assert_kept;
    use super::*;

    #[test]
    fn unsafe_code_stays_where_it_is_listed() {
        assert_kept(check);
    }

    #[test]
    fn an_unlisted_file_and_a_missing_reason_are_found() {
        let listed = FILES[0].0;
        let good = "fn f() {\n    // SAFETY: as checked above.\n    let x =\n        unsafe { g() };\n}";
        assert_eq!(problems_of(listed, good), Vec::<String>::new());
        assert_eq!(problems_of("src/x.rs", good).len(), 1);
        assert_eq!(problems_of(listed, "// SAFETY: of another.\nf();\nunsafe { g() }").len(), 1);
        assert_eq!(problems_of(listed, "unsafe impl Send for X {}").len(), 1);
        assert_eq!(problems_of("src/x.rs", "#![allow(unsafe_code, reason = \"\")]").len(), 1);
        assert_eq!(
            problems_of("src/x.rs", "/// No unsafe { } here.\nlet s = \"unsafe calls\";"),
            Vec::<String>::new()
        );
    }
}
