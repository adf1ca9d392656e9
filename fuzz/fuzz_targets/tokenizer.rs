//! Any small vocabulary, any text: refused or usable, and what is encoded comes back where the vocabulary has all bytes.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use smallmind_text::{Encode, Pretokenizer, TextStream, TokenType, Tokenizer, VocabKind, VocabSpec};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    spm: bool,
    /// Start from a vocabulary with all bytes.
    whole: bool,
    pre: u8,
    tokens: Vec<(&'a [u8], i8, u8)>,
    merges: Vec<(&'a str, &'a str)>,
    ids: [Option<u8>; 3],
    add_bos: Option<bool>,
    add_space_prefix: Option<bool>,
    parse_special: bool,
    stop: String,
    text: &'a str,
}

fuzz_target!(|input: Input<'_>| {
    let names = Pretokenizer::names();
    let mut spec = VocabSpec {
        kind: if input.spm { VocabKind::Spm } else { VocabKind::Bpe },
        pre: names[usize::from(input.pre) % names.len()].to_owned(),
        merges: input.merges.iter().map(|(a, b)| format!("{a} {b}")).collect(),
        bos: input.ids[0].map(u32::from),
        eos: input.ids[1].map(u32::from),
        unk: input.ids[2].map(u32::from),
        add_bos: input.add_bos,
        add_space_prefix: input.add_space_prefix,
        ..VocabSpec::default()
    };
    if input.whole {
        let alphabet = |byte: u8| match byte {
            0..=0x20 => u32::from(byte) + 0x100,
            0x7f..=0xa0 => u32::from(byte) - 0x7f + 0x121,
            0xad => 0x143,
            _ => u32::from(byte),
        };
        for byte in 0..=255u8 {
            let text = match spec.kind {
                VocabKind::Spm => format!("<0x{byte:02X}>"),
                VocabKind::Bpe => char::from_u32(alphabet(byte)).unwrap().to_string(),
            };
            spec.tokens.push(text);
            spec.scores.push(0.0);
            spec.types.push(if input.spm { TokenType::Byte } else { TokenType::Normal });
        }
    }
    let mut normal = true;
    for (text, score, kind) in &input.tokens {
        spec.tokens.push(text);
        spec.scores.push(f32::from(*score));
        let kind = TokenType::try_from(i32::from(*kind % 6) + 1).unwrap();
        normal &= kind == TokenType::Normal;
        spec.types.push(kind);
    }
    let Ok(tokenizer) = Tokenizer::new(spec) else { return };
    let ids = tokenizer.encode(input.text, Encode { add_special: true, parse_special: input.parse_special });
    tokenizer.detokenize(&ids);
    let mut stream = TextStream::new(vec![input.stop]);
    let mut streamed = String::new();
    for &id in &ids {
        assert!((id as usize) < tokenizer.vocab_len());
        stream.push_into(tokenizer.piece(id), &mut streamed);
    }
    // Names such as <|im_end|> are control tokens whatever their type says.
    if input.whole && normal && !input.spm && !input.parse_special && tokenizer.end_of_generation().is_empty() {
        let plain = tokenizer.encode(input.text, Encode::default());
        assert_eq!(tokenizer.detokenize(&plain), input.text);
    }
});
