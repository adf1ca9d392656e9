//! Writes short stories for children with a chat model, many at once: the text that the embedded model was trained on.
//!
//! `cargo run --release -p smallmind --example stories -- MODEL.gguf OUT.txt [COUNT [THREADS]]`
//!
//! Story `i` depends on the model and on `i` alone, so the file is the same however many are computed side by side and
//! on whatever machine. Stories appear in order, each followed by a line `<|endoftext|>`; a file that was begun is gone
//! on with.
#![allow(clippy::print_stderr, reason = "an example shows its progress")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use smallmind::sample::Sampler;
use smallmind::{
    Batch, Encode, LoadOptions, Message, Model, RenderOptions, SamplingParams, Session, SessionOptions,
};

/// Stories computed side by side.
const BATCH: usize = 16;
/// Tokens of one story at most.
const LONGEST: usize = 200;
const END: &str = "<|endoftext|>";

const NAMES: &[(&str, &str)] = &[
    ("Lily", "She"),
    ("Tom", "He"),
    ("Mia", "She"),
    ("Ben", "He"),
    ("Anna", "She"),
    ("Max", "He"),
    ("Lucy", "She"),
    ("Tim", "He"),
    ("Sue", "She"),
    ("Jack", "He"),
    ("Ella", "She"),
    ("Leo", "He"),
    ("Rosie", "She"),
    ("Sam", "He"),
    ("Nina", "She"),
    ("Finn", "He"),
    ("Daisy", "She"),
    ("Billy", "He"),
    ("Amy", "She"),
    ("Fred", "He"),
];
const KINDS: &[&str] = &[
    "girl", "boy", "cat", "dog", "bunny", "bear", "bird", "fox", "mouse", "frog", "duck", "pig", "girl",
    "boy", "horse", "turtle", "puppy", "kitten", "girl", "boy", "elephant", "monkey",
];
const ADJECTIVES: &[&str] = &[
    "little", "happy", "small", "kind", "brave", "shy", "funny", "clever", "sleepy", "curious", "big", "sad",
    "lonely", "hungry", "silly", "gentle", "young", "good",
];
const LOOKS: &[&str] = &[
    "red", "blue", "big", "tiny", "shiny", "old", "soft", "yellow", "round", "pretty", "strange", "green",
    "lost", "broken", "warm", "golden", "new", "white", "wet", "special",
];
const THINGS: &[&str] = &[
    "ball", "box", "flower", "hat", "book", "apple", "boat", "star", "kite", "tree", "cake", "shoe", "bell",
    "stone", "toy", "key", "cup", "drum", "leaf", "egg", "balloon", "doll", "car", "bike", "cookie",
    "feather", "shell", "lamp", "nest", "ring", "blanket", "train", "button", "basket", "pumpkin", "rock",
];
const PLACES: &[&str] = &[
    "in the park",
    "in the garden",
    "by the river",
    "in the forest",
    "on the beach",
    "at school",
    "under the bed",
    "in the kitchen",
    "on the farm",
    "near the pond",
    "on the hill",
    "in the yard",
    "at the zoo",
    "in the snow",
    "behind the house",
    "at the lake",
    "on the road",
    "in the barn",
];
const VERBS: &[&str] = &[
    "play",
    "run",
    "sing",
    "jump",
    "draw",
    "swim",
    "dance",
    "read",
    "climb",
    "help",
    "explore",
    "paint",
    "cook",
    "dig",
    "build things",
    "look at the stars",
    "ride",
    "hide",
    "laugh",
    "sleep",
    "pick flowers",
    "eat cookies",
];
const FRIENDS: &[&str] = &[
    "mom",
    "dad",
    "grandma",
    "grandpa",
    "friend",
    "sister",
    "brother",
    "teacher",
    "best friend",
    "neighbor",
];
const ENDINGS: &[&str] = &[
    "sharing",
    "being brave",
    "saying sorry",
    "helping others",
    "a surprise",
    "making a new friend",
    "telling the truth",
    "trying again",
    "a rainy day",
    "a birthday",
    "going to bed",
    "getting lost",
    "being kind",
    "a game",
    "a big mess",
    "taking turns",
    "missing someone",
    "a storm",
    "being patient",
    "a yummy meal",
];
/// What the model is shown, so that it writes as plainly.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "Write a short story about a cat named Kit and a red sock. It is about sharing.",
        "Kit was a small cat. He had a red sock. He loved the sock very much. One day, a puppy came to his house. The \
         puppy was cold and sad. \"Do you want my sock?\" asked Kit. The puppy put the sock on his foot and smiled. \
         \"Thank you, Kit,\" he said. Now Kit had no sock, but he had a friend. They played all day and were very happy.",
    ),
    (
        "Write a short story about a girl named Joy and a tall tree. It is about being brave.",
        "Joy saw a tall tree in the park. She wanted to climb it, but she was scared. \"It is too high,\" she said. Her \
         dad held her hand. \"Take one small step,\" he said. Joy took one step, and then one more. Soon she sat on a \
         big branch. She could see the whole park! Joy laughed and waved to her dad. She was not scared any more.",
    ),
    (
        "Write a short story about a duck named Dot and a big puddle. It is about a rainy day.",
        "It rained and rained. Dot the duck looked out of the window. \"I want to play,\" she said. Her mom gave her a \
         blue hat. Dot ran outside and saw a big puddle. Splash! She jumped in. The water went up and down. Her brother \
         came and jumped in too. They were wet from head to toe. Then mom made them warm soup, and they went to bed.",
    ),
    (
        "Write a short story about a boy named Ned and a broken cup. It is about telling the truth.",
        "Ned was playing in the kitchen. He ran too fast and hit the table. Crash! His mom's cup fell down and broke. \
         Ned was afraid. He wanted to hide. But then he went to his mom and said, \"I broke your cup. I am sorry.\" His \
         mom gave him a hug. \"Thank you for telling me,\" she said. They picked up the pieces together. Ned felt good.",
    ),
];

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

/// What story `i` is about: the request, and how the story begins.
fn idea(i: u64) -> (String, String, (&'static str, &'static str)) {
    let mut d = Dice(i);
    let ((name, pronoun), kind) = (d.pick(NAMES), d.pick(KINDS));
    let (look, thing, place, verb) = (d.pick(LOOKS), d.pick(THINGS), d.pick(PLACES), d.pick(VERBS));
    let (adjective, friend, about) = (d.pick(ADJECTIVES), d.pick(FRIENDS), d.pick(ENDINGS));
    let (a, an) = (article(adjective), article(look));
    let their = if pronoun == "He" { "his" } else { "her" };
    let they = pronoun.to_lowercase();
    let start = match d.next() % 12 {
        0 | 1 => format!("Once upon a time, there was {a} {adjective} {kind} named {name}."),
        2 => format!(
            "Once upon a time, there was {a} {adjective} {kind} named {name}. {pronoun} liked to {verb}."
        ),
        3 => format!("Once upon a time, {a} {adjective} {kind} found {an} {look} {thing} {place}."),
        4 => format!("Once upon a time, there was {an} {look} {thing} {place}."),
        5 => format!("One day, {a} {adjective} {kind} named {name} saw {an} {look} {thing} {place}."),
        6 => format!("One day, {name} and {their} {friend} were {place}."),
        7 => format!("{name} was {a} {adjective} {kind}. {pronoun} loved to {verb} {place}."),
        8 => format!("{name} had {an} {look} {thing}. {pronoun} took it everywhere."),
        9 => format!("It was a sunny day. {name} and {their} {friend} wanted to {verb} {place}."),
        10 => format!("\"Look!\" said {name}. \"I see {an} {look} {thing} {place}!\""),
        _ => format!("{name} the {kind} was {adjective}. Every day {they} went to {verb} {place}."),
    };
    let ask = format!(
        "Write a short story about a {kind} named {name} and {an} {look} {thing}. It is about {about}."
    );
    (ask, start, d.pick(EXAMPLES))
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// A story under way.
struct Writing {
    index: u64,
    start: String,
    tokens: Vec<u32>,
    sampler: Sampler,
    next: u32,
}

fn begin(model: &Model, session: &mut Session, index: u64) -> Result<Writing, Box<dyn Error>> {
    let (ask, start, (example_ask, example)) = idea(index);
    let messages = [
        Message::new(
            "system",
            "You write very short stories for small children, in simple words and short sentences.",
        ),
        Message::new("user", example_ask),
        Message::new("assistant", example),
        Message::new("user", ask),
    ];
    let text = model.chat_template()?.render(&messages, RenderOptions::default())? + &start;
    let prompt = model.tokenizer().encode(&text, Encode { add_special: false, parse_special: true });
    let params = SamplingParams {
        temperature: 0.6,
        top_p: 0.9,
        repeat_penalty: 1.05,
        frequency_penalty: 0.15,
        repeat_last_n: 256,
        seed: Some(index),
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(&params, model.config().vocab)?;
    session.truncate(0);
    let next = sampler.sample(session.prefill(&prompt)?)?;
    Ok(Writing { index, start, tokens: Vec::new(), sampler, next })
}

/// The story up to its last whole sentence; `None` where little is left or it is not the plain text that was asked for.
fn finished(model: &Model, w: &Writing) -> Option<String> {
    let told = model.tokenizer().detokenize(&w.tokens);
    let text = format!("{}{told}", w.start);
    let text = text.replace(['\u{201c}', '\u{201d}'], "\"").replace(['\u{2018}', '\u{2019}'], "'");
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && *l != "The end.");
    let text = lines.by_ref().collect::<Vec<_>>().join("\n");
    let end = text.char_indices().rev().find(|(_, c)| ".!?".contains(*c))?.0 + 1;
    let end = if text[end..].starts_with('"') { end + 1 } else { end };
    let text = &text[..end];
    let quotes = text.matches('"').count();
    let plain =
        text.chars().all(|c| c == '\n' || matches!(c, ' '..='~')) && !text.contains(['*', '#', '[', '(']);
    let words: Vec<&str> = text.split_whitespace().collect();
    let long = words.iter().any(|w| w.len() > 14);
    (plain && !long && quotes % 2 == 0 && words.len() >= 40).then(|| text.to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(out)) = (args.next(), args.next()) else {
        return Err("usage: stories MODEL.gguf OUT.txt [COUNT [THREADS]]".into());
    };
    let count: u64 = args.next().map_or(Ok(100), |n| n.parse())?;
    let threads = args.next().map(|n| n.parse()).transpose()?;
    let model = Model::load(path, &LoadOptions { threads, precise: false })?;
    let done = std::fs::read_to_string(&out).unwrap_or_default().lines().filter(|l| *l == END).count() as u64;
    let mut file = OpenOptions::new().create(true).append(true).open(&out)?;

    let (mut next, mut to_write) = (done, done);
    let mut sessions = Vec::new();
    let mut writing = Vec::new();
    while writing.len() < BATCH && next < count {
        let mut session =
            Session::new(&model, &SessionOptions { context: Some(640), ..SessionOptions::default() })?;
        writing.push(begin(&model, &mut session, next)?);
        sessions.push(session);
        next += 1;
    }
    let mut ready: BTreeMap<u64, Option<String>> = BTreeMap::new();
    let mut batch = Batch::new(&model, BATCH)?;
    let (start, mut tokens) = (Instant::now(), 0usize);
    while !writing.is_empty() {
        let mut i = 0;
        while i < writing.len() {
            let w = &writing[i];
            let over = w.tokens.len() >= LONGEST || model.tokenizer().end_of_generation().contains(&w.next);
            if !over {
                i += 1;
                continue;
            }
            ready.insert(w.index, finished(&model, w));
            if next < count {
                writing[i] = begin(&model, &mut sessions[i], next)?;
                next += 1;
            } else {
                writing.swap_remove(i);
                sessions.swap_remove(i);
            }
        }
        while let Some(story) = ready.remove(&to_write) {
            // A story that was not usable leaves its mark, so that the next run counts it.
            let story = story.map_or(String::new(), |s| s + "\n");
            writeln!(file, "{story}{END}")?;
            to_write += 1;
            if to_write % 100 == 0 {
                let rate = tokens as f64 / start.elapsed().as_secs_f64();
                eprintln!("{to_write} stories, {rate:.0} tokens/s");
            }
        }
        if writing.is_empty() {
            break;
        }
        let last: Vec<u32> = writing.iter().map(|w| w.next).collect();
        let logits = batch.decode(&mut sessions, &last)?;
        for (w, row) in writing.iter_mut().zip(logits.chunks_exact_mut(model.config().vocab)) {
            w.tokens.push(w.next);
            w.sampler.accept(w.next);
            w.next = w.sampler.sample(row)?;
        }
        tokens += last.len();
    }
    Ok(())
}
