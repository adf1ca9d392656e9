//! Cuts text into the words that BPE merges never cross, as each family's regular expression does, by hand-written
//! matchers that look at every character a bounded number of times. Knows no vocabulary.
//!
//! A pre-tokenizer is a list of rules. The first rule cuts the text into matches and the gaps between them, the next
//! rule cuts each of those pieces as if it stood alone, and so on (llama.cpp's `unicode_regex_split`).

use unicode_general_category::{GeneralCategory as G, get_general_category};

use crate::TextError;
use crate::error::quote;

/// The classes of characters the pre-tokenizers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnicodeClass {
    /// `\p{L}`.
    Letter,
    /// `\p{N}`.
    Number,
    /// `\p{M}`.
    Mark,
    /// `\p{P}`.
    Punctuation,
    /// `\p{S}`.
    Symbol,
    /// `\s`: the White_Space property.
    Space,
    /// Everything else: controls, format characters, unassigned code points.
    Other,
}

/// The class of one character.
#[inline]
pub fn unicode_class(c: char) -> UnicodeClass {
    match c {
        'a'..='z' | 'A'..='Z' => UnicodeClass::Letter,
        '0'..='9' => UnicodeClass::Number,
        ' ' | '\t'..='\r' => UnicodeClass::Space,
        '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~' => UnicodeClass::Symbol,
        '!'..='/' | ':'..='@' | '['..='`' | '{'..='~' => UnicodeClass::Punctuation,
        '\0'..='\x7f' => UnicodeClass::Other,
        c if c.is_whitespace() => UnicodeClass::Space,
        c => match get_general_category(c) {
            G::UppercaseLetter
            | G::LowercaseLetter
            | G::TitlecaseLetter
            | G::ModifierLetter
            | G::OtherLetter => UnicodeClass::Letter,
            G::DecimalNumber | G::LetterNumber | G::OtherNumber => UnicodeClass::Number,
            G::NonspacingMark | G::SpacingMark | G::EnclosingMark => UnicodeClass::Mark,
            G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation => UnicodeClass::Punctuation,
            G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol => UnicodeClass::Symbol,
            _ => UnicodeClass::Other,
        },
    }
}

use UnicodeClass as C;

/// Where English contractions (`'s`, `'re`) are cut off or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contractions {
    /// Not treated at all.
    Ignored,
    /// A word of their own, in either case.
    Apart,
    /// The end of the word before them, in either case.
    Attached,
}

/// One expression of the Llama-3 line:
/// `CONTRACTION|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[TAIL]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
#[derive(Debug, Clone, Copy)]
struct Words {
    contractions: Contractions,
    /// Words break between `aB`, as GPT-4o's do (llama.cpp's approximation: only ASCII letters have a case).
    cased: bool,
    /// Combining marks belong to words.
    marks: bool,
    /// The longest group of digits.
    digits: usize,
    /// Characters that a run of signs takes along at its end.
    tail: &'static [char],
}

const LLAMA3: Words =
    Words { contractions: Contractions::Apart, cased: false, marks: false, digits: 3, tail: &['\r', '\n'] };
const QWEN2: Words = Words { digits: 1, ..LLAMA3 };
const GPT4O: Words =
    Words { contractions: Contractions::Attached, cased: true, tail: &['\r', '\n', '/'], ..LLAMA3 };

/// One step of a pre-tokenizer.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// `\p{N}{1,max}`.
    Numbers(usize),
    /// `[0-9][0-9][0-9]`.
    ThreeDigits,
    /// `[\p{P}...]+` with these symbols added.
    Signs(&'static str),
    /// `[\r\n]`.
    Newline,
    /// An optional character, then a run of others: `\s?\p{L}+`.
    Run { lead: fn(char) -> bool, body: fn(char) -> bool },
    /// GPT-2's expression.
    Gpt2,
    /// The Llama-3 line.
    Words(Words),
    /// The last expression of DeepSeek-V3.
    DeepSeek3,
}

/// A pre-tokenizer by the name GGUF gives it.
#[derive(Debug, Clone, Copy)]
pub struct Pretokenizer {
    rules: &'static [Rule],
    /// A word that is a token as a whole is not merged.
    pub(crate) ignore_merges: bool,
    /// BOS is added unless the file says otherwise.
    pub(crate) add_bos: bool,
}

struct Row {
    names: &'static [&'static str],
    rules: &'static [Rule],
    ignore_merges: bool,
    add_bos: bool,
}

const fn row(names: &'static [&'static str], rules: &'static [Rule]) -> Row {
    Row { names, rules, ignore_merges: false, add_bos: false }
}

const fn none(_: char) -> bool {
    false
}
fn is_space(c: char) -> bool {
    c.is_whitespace()
}
fn is_letter(c: char) -> bool {
    unicode_class(c) == C::Letter
}
fn is_punctuation(c: char) -> bool {
    unicode_class(c) == C::Punctuation
}
fn is_deepseek_cjk(c: char) -> bool {
    matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}')
}
fn is_deepseek3_cjk(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}')
}
fn is_bloom_word(c: char) -> bool {
    !c.is_whitespace() && !"(|.,!?…。，、।۔،)".contains(c)
}

/// Every supported name. Expressions: llama.cpp, `src/llama-vocab.cpp`, `llm_tokenizer_bpe`.
const ROWS: &[Row] = &[
    row(
        &["", "default"],
        &[Rule::Signs("$+<=>^~|"), Rule::Gpt2, Rule::Numbers(usize::MAX), Rule::ThreeDigits],
    ),
    row(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "dolma",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[Rule::Gpt2],
    ),
    row(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[Rule::Numbers(1), Rule::Gpt2],
    ),
    row(&["falcon"], &[Rule::Signs("$+<=>^~|`"), Rule::Gpt2, Rule::ThreeDigits]),
    Row {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        rules: &[Rule::Words(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
    },
    row(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[Rule::Words(LLAMA3)]),
    Row {
        names: &["minicpm5"],
        rules: &[Rule::Numbers(3), Rule::Words(Words { digits: usize::MAX, ..LLAMA3 })],
        ignore_merges: true,
        add_bos: false,
    },
    row(
        &[
            "qwen2",
            "stablelm2",
            "deepseek-r1-qwen",
            "megrez",
            "hunyuan",
            "grok-2",
            "solar-open",
            "kormo",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        &[Rule::Words(QWEN2)],
    ),
    row(&["qwen35"], &[Rule::Words(Words { marks: true, ..QWEN2 })]),
    row(&["ufakzeka"], &[Rule::Words(Words { contractions: Contractions::Ignored, ..QWEN2 })]),
    row(&["seed-coder"], &[Rule::Words(Words { tail: &[], ..QWEN2 })]),
    Row {
        names: &["tekken"],
        rules: &[Rule::Words(Words { contractions: Contractions::Ignored, digits: 1, ..GPT4O })],
        ignore_merges: true,
        add_bos: true,
    },
    row(&["gpt-4o", "llama4", "kanana2", "minimax-m2"], &[Rule::Words(GPT4O)]),
    row(
        &["deepseek-coder"],
        &[
            Rule::Newline,
            Rule::Run { lead: is_space, body: is_letter },
            Rule::Run { lead: is_space, body: is_punctuation },
            Rule::Run { lead: none, body: is_deepseek_cjk },
            Rule::Numbers(1),
        ],
    ),
    row(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        &[Rule::Numbers(3), Rule::Run { lead: none, body: is_deepseek3_cjk }, Rule::DeepSeek3],
    ),
    row(&["poro-chat", "bloom", "gpt3-finnish"], &[Rule::Run { lead: |c| c == ' ', body: is_bloom_word }]),
    row(&["viking"], &[Rule::Run { lead: |c| c == ' ', body: is_bloom_word }, Rule::Numbers(1)]),
];

impl Pretokenizer {
    /// The pre-tokenizer that `tokenizer.ggml.pre` names; empty means `default`.
    ///
    /// # Errors
    /// [`TextError::UnknownPretokenizer`] for a name that is not built in: a wrong guess would give wrong ids silently.
    pub fn by_name(name: &str) -> Result<Self, TextError> {
        let row = ROWS.iter().find(|row| row.names.contains(&name)).ok_or_else(|| {
            TextError::UnknownPretokenizer {
                name: quote(name.as_bytes()),
                supported: Self::names().join(", "),
            }
        })?;
        Ok(Self { rules: row.rules, ignore_merges: row.ignore_merges, add_bos: row.add_bos })
    }

    /// Every name that [`Pretokenizer::by_name`] takes.
    pub fn names() -> Vec<&'static str> {
        ROWS.iter().flat_map(|row| row.names.iter().copied()).filter(|name| !name.is_empty()).collect()
    }

    /// Calls `each` with the words of `text` in order; together they are `text`. Time: linear.
    pub fn split<'t>(&self, text: &'t str, each: &mut impl FnMut(&'t str)) {
        split(self.rules, text, each);
    }
}

fn split<'t>(rules: &[Rule], text: &'t str, each: &mut impl FnMut(&'t str)) {
    let Some((rule, later)) = rules.split_first() else {
        if !text.is_empty() {
            each(text);
        }
        return;
    };
    let (mut gap, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let matched = rule.matched(rest);
        if matched == 0 {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if gap < at {
            split(later, &text[gap..at], each);
        }
        split(later, &text[at..at + matched], each);
        at += matched;
        gap = at;
    }
    if gap < at {
        split(later, &text[gap..], each);
    }
}

/// Bytes of the longest prefix of `text` whose characters are all `of`.
#[inline]
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.char_indices().find(|&(_, c)| !of(c)).map_or(text.len(), |(i, _)| i)
}

/// Bytes of a prefix of at most `max` numbers.
fn numbers(text: &str, max: usize) -> usize {
    text.char_indices()
        .enumerate()
        .find(|&(count, (_, c))| count == max || unicode_class(c) != C::Number)
        .map_or(text.len(), |(_, (i, _))| i)
}

/// Bytes of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at the start of `text`, or 0.
fn contraction(text: &str, any_case: bool) -> usize {
    let fold = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
    match text.as_bytes() {
        [b'\'', a, ..] if matches!(fold(*a), b's' | b't' | b'm' | b'd') => 2,
        [b'\'', a, b, ..] if matches!([fold(*a), fold(*b)], [b'r', b'e'] | [b'v', b'e'] | [b'l', b'l']) => 3,
        _ => 0,
    }
}

/// `\s+(?!\S)|\s+` at the start of `text`: the last blank before a word is left to it.
fn blanks(text: &str) -> usize {
    let end = run(text, is_space);
    if end == text.len() {
        return end;
    }
    match text[..end].char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => end,
    }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` at the start of `text`.
fn lines_or_blanks(text: &str) -> usize {
    let end = run(text, is_space);
    match text[..end].rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => blanks(text),
    }
}

impl Rule {
    /// Bytes matched at the start of `text` (not empty), 0 for none.
    fn matched(self, text: &str) -> usize {
        let Some(first) = text.chars().next() else { return 0 };
        match self {
            Self::Numbers(max) => numbers(text, max),
            Self::ThreeDigits => match text.as_bytes() {
                [a, b, c, ..] if [a, b, c].iter().all(|d| d.is_ascii_digit()) => 3,
                _ => 0,
            },
            Self::Signs(also) => run(text, |c| unicode_class(c) == C::Punctuation || also.contains(c)),
            Self::Newline => usize::from(matches!(first, '\r' | '\n')),
            Self::Run { lead, body } => {
                let skip = if lead(first) { first.len_utf8() } else { 0 };
                match run(&text[skip..], body) {
                    // The optional character is given back where nothing follows it.
                    0 if skip > 0 => run(text, body),
                    0 => 0,
                    n => skip + n,
                }
            }
            Self::Gpt2 => gpt2(text, first),
            Self::Words(words) => words.matched(text, first),
            Self::DeepSeek3 => deepseek3(text, first),
        }
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
fn gpt2(text: &str, first: char) -> usize {
    let cut = contraction(text, false);
    if cut > 0 {
        return cut;
    }
    let skip = usize::from(first == ' ');
    let class_of = |c| match unicode_class(c) {
        class @ (C::Letter | C::Number | C::Space) => class,
        _ => C::Other,
    };
    match text[skip..].chars().next().map(class_of) {
        None | Some(C::Space) => blanks(text),
        Some(class) => skip + run(&text[skip..], |c| class_of(c) == class),
    }
}

impl Words {
    fn matched(self, text: &str, first: char) -> usize {
        if self.contractions == Contractions::Apart {
            let cut = contraction(text, true);
            if cut > 0 {
                return cut;
            }
        }
        let in_word = |c| match unicode_class(c) {
            C::Letter => true,
            C::Mark => self.marks,
            _ => false,
        };
        let class = unicode_class(first);
        let len = first.len_utf8();
        let start = if in_word(first) {
            Some(0)
        } else if class != C::Number && !matches!(first, '\r' | '\n') {
            text[len..].chars().next().filter(|&c| in_word(c)).map(|_| len)
        } else {
            None
        };
        if let Some(start) = start {
            let end =
                start + if self.cased { cased_word(&text[start..]) } else { run(&text[start..], in_word) };
            let attached = match self.contractions {
                Contractions::Attached => contraction(&text[end..], true),
                _ => 0,
            };
            return end + attached;
        }
        if class == C::Number {
            return numbers(text, self.digits);
        }
        let skip = usize::from(first == ' ');
        let signs = run(&text[skip..], |c| {
            !in_word(c) && !matches!(unicode_class(c), C::Letter | C::Number | C::Space)
        });
        if signs > 0 {
            let end = skip + signs;
            return end + run(&text[end..], |c| self.tail.contains(&c));
        }
        lines_or_blanks(text)
    }
}

/// `U*V+|U+V*` where U is a letter but a-z and V a letter but A-Z: bytes matched at the start of a letter.
fn cased_word(text: &str) -> usize {
    // U* takes all it can; `both` ends after the last of them that V could take as well.
    let (mut upper, mut both) = (0, 0);
    for (i, c) in text.char_indices() {
        if c.is_ascii_lowercase() || !is_letter(c) {
            break;
        }
        upper = i + c.len_utf8();
        if !c.is_ascii_uppercase() {
            both = upper;
        }
    }
    let lower = run(&text[upper..], |c| is_letter(c) && !c.is_ascii_uppercase());
    match (lower, both) {
        (0, 0) => upper,
        // No lower case follows: U* gives letters back until V+ can take one, and what comes after it stays.
        (0, both) => both,
        (lower, _) => upper + lower,
    }
}

/// `[ASCII sign][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
fn deepseek3(text: &str, first: char) -> usize {
    if first.is_ascii_punctuation() {
        let letters = run(&text[1..], |c| c.is_ascii_alphabetic());
        if letters > 0 {
            return 1 + letters;
        }
    }
    let in_word = |c| matches!(unicode_class(c), C::Letter | C::Mark);
    let is_sign = |c| matches!(unicode_class(c), C::Punctuation | C::Symbol);
    let skip =
        if in_word(first) || is_sign(first) || matches!(first, '\r' | '\n') { 0 } else { first.len_utf8() };
    let word = run(&text[skip..], in_word);
    if word > 0 {
        return skip + word;
    }
    let skip = usize::from(first == ' ');
    let signs = run(&text[skip..], is_sign);
    if signs > 0 {
        let end = skip + signs;
        return end + run(&text[end..], |c| matches!(c, '\r' | '\n'));
    }
    if is_space(first) { lines_or_blanks(text) } else { 0 }
}

#[cfg(test)]
mod tests;
