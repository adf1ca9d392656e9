//! Cuts special tokens out of a text before anything else sees it. Knows no algorithm and no template.
//!
//! llama.cpp looks for one token after the other, the longest first, each in what the ones before it left over. The same
//! result comes here from one pass of an automaton: it finds the stretches where special tokens lie, most are one token
//! exactly, and only where several overlap is the order of lengths played out, inside that stretch.

use std::collections::{BTreeSet, HashMap};

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use crate::TextError;
use crate::vocab::{TokenType, Vocab};

/// A piece of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Specials {
    /// Control, unknown and user-defined tokens: what `parse_special` reads.
    all: Option<Finder>,
    /// User-defined tokens only: read in any text.
    always: Option<Finder>,
    /// Blanks after these tokens belong to them (Phi-3).
    strips_right: BTreeSet<u32>,
}

#[derive(Debug)]
struct Finder {
    automaton: NFA,
    /// Ids and texts, longest text first, then by id: the automaton's pattern numbers.
    tokens: Vec<(u32, Box<str>)>,
}

/// Places in a text that special tokens cover.
struct Hit {
    start: usize,
    end: usize,
    id: u32,
}

impl Specials {
    pub(super) fn new(vocab: &Vocab, model_name: &str) -> Result<Self, TextError> {
        let select = |wanted: fn(TokenType) -> bool| {
            let chosen = (0u32..).zip(vocab.texts.iter().zip(&vocab.types));
            chosen
                .filter(|(_, (text, kind))| wanted(**kind) && !text.is_empty())
                // A token that is no UTF-8 cannot occur in a text.
                .filter_map(|(id, (text, _))| Some((id, std::str::from_utf8(text).ok()?.into())))
                .collect::<Vec<(u32, Box<str>)>>()
        };
        let all =
            select(|kind| matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined));
        let name = model_name.to_ascii_lowercase();
        let strips_right = if name.contains("phi-3") || name.contains("phi3") {
            let keeps = ["<unk>", "<s>", "<|endoftext|>"];
            all.iter().filter(|(_, text)| !keeps.contains(&&**text)).map(|(id, _)| *id).collect()
        } else {
            BTreeSet::new()
        };
        let always = select(|kind| kind == TokenType::UserDefined);
        Ok(Self { all: Finder::new(all)?, always: Finder::new(always)?, strips_right })
    }

    /// The fragments of `text` in order; no text fragment is empty.
    pub(super) fn split<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let finder = if parse_special { &self.all } else { &self.always };
        let hits = finder.as_ref().map(|f| f.hits(text)).unwrap_or_default();
        let mut fragments = Vec::with_capacity(2 * hits.len() + 1);
        let mut at = 0;
        for Hit { start, end, id } in hits {
            // `at` may be past `start` where blanks were stripped that a token begins with.
            if at > start {
                continue;
            }
            if at < start {
                fragments.push(Fragment::Text(&text[at..start]));
            }
            fragments.push(Fragment::Token(id));
            at = end;
            if self.strips_right.contains(&id) {
                let blank = |c: char| matches!(c, ' ' | '\t'..='\r');
                at += text[at..].len() - text[at..].trim_start_matches(blank).len();
            }
        }
        if at < text.len() {
            fragments.push(Fragment::Text(&text[at..]));
        }
        fragments
    }
}

impl Finder {
    fn new(mut tokens: Vec<(u32, Box<str>)>) -> Result<Option<Self>, TextError> {
        if tokens.is_empty() {
            return Ok(None);
        }
        tokens.sort_by_key(|(id, text)| (std::cmp::Reverse(text.len()), *id));
        let automaton = NFA::builder()
            .match_kind(MatchKind::Standard)
            .build(tokens.iter().map(|(_, text)| text.as_bytes()))
            .map_err(|e| {
                TextError::vocabulary(format!("its special tokens are too many or too long ({e})"))
            })?;
        Ok(Some(Self { automaton, tokens }))
    }

    /// Every special token that is read, in order of place.
    fn hits(&self, text: &str) -> Vec<Hit> {
        let Ok(mut state) = self.automaton.start_state(Anchored::No) else { return Vec::new() };
        let mut longest_at: HashMap<StateID, usize> = HashMap::new();
        // The stretches so far, and the number of the token each ends with: a match takes in all it overlaps.
        let mut stretches: Vec<(usize, usize, usize)> = Vec::new();
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            state = self.automaton.next_state(Anchored::No, state, byte);
            if !self.automaton.is_special(state) || !self.automaton.is_match(state) {
                continue;
            }
            let number = *longest_at.entry(state).or_insert_with(|| self.longest(state));
            let mut start = (i + 1).saturating_sub(self.tokens[number].1.len());
            while let Some((from, _, _)) = stretches.pop_if(|(_, to, _)| start < *to) {
                start = start.min(from);
            }
            stretches.push((start, i + 1, number));
        }
        let mut hits = Vec::with_capacity(stretches.len());
        for (from, to, number) in stretches {
            self.settle(text, from, to, number, &mut hits);
        }
        hits
    }

    /// The number of the longest token that ends in `state`; the lowest number is the longest.
    fn longest(&self, state: StateID) -> usize {
        let patterns = 0..self.automaton.match_len(state);
        patterns.map(|i| self.automaton.match_pattern(state, i).as_usize()).min().unwrap_or(0)
    }

    /// Decides one stretch: the longest token first, each as often as it fits, as llama.cpp does.
    fn settle(&self, text: &str, from: usize, to: usize, last: usize, hits: &mut Vec<Hit>) {
        let stretch = &text[from..to];
        let (id, token) = &self.tokens[last];
        // A token as long as the stretch: nothing longer can be inside, so it wins.
        if token.len() == stretch.len() {
            hits.push(Hit { start: from, end: to, id: *id });
            return;
        }
        let mut free = vec![(from, to)];
        let mut found = Vec::new();
        for number in self.present(stretch) {
            let (id, token) = &self.tokens[number];
            let mut left = Vec::with_capacity(free.len());
            for (start, end) in free {
                let mut at = start;
                while let Some(offset) = text[at..end].find(&**token) {
                    let hit = at + offset;
                    found.push(Hit { start: hit, end: hit + token.len(), id: *id });
                    if at < hit {
                        left.push((at, hit));
                    }
                    at = hit + token.len();
                }
                if at < end {
                    left.push((at, end));
                }
            }
            free = left;
        }
        found.sort_by_key(|hit| hit.start);
        hits.append(&mut found);
    }

    /// The numbers of the tokens that occur in `stretch`, ascending, which is longest first.
    fn present(&self, stretch: &str) -> BTreeSet<usize> {
        let mut numbers = BTreeSet::new();
        let Ok(mut state) = self.automaton.start_state(Anchored::No) else { return numbers };
        let mut seen = BTreeSet::new();
        for &byte in stretch.as_bytes() {
            state = self.automaton.next_state(Anchored::No, state, byte);
            // A state's matches are always the same: each state is read once.
            if self.automaton.is_match(state) && seen.insert(state) {
                let patterns = 0..self.automaton.match_len(state);
                numbers.extend(patterns.map(|i| self.automaton.match_pattern(state, i).as_usize()));
            }
        }
        numbers
    }
}
