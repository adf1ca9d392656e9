//! Streams cut at every place must read the same.

use super::*;
use proptest::prelude::*;

fn stream(stops: &[&str], pieces: &[&[u8]]) -> (String, bool) {
    let mut stream = TextStream::new(stops.iter().map(|&s| s.to_owned()).collect());
    let mut out = String::new();
    for piece in pieces {
        let push = stream.push(piece);
        out.push_str(&push.text);
        if push.stopped {
            assert!(stream.stopped());
            assert_eq!(stream.push(b"more"), Push { text: String::new(), stopped: true });
            assert_eq!(stream.finish(), "");
            return (out, true);
        }
    }
    out.push_str(&stream.finish());
    (out, false)
}

#[test]
fn a_character_comes_out_when_it_is_whole() {
    let mut stream = TextStream::new(Vec::new());
    let texts: Vec<String> = "é👍".bytes().map(|b| stream.push(&[b]).text).collect();
    assert_eq!(texts, ["", "é", "", "", "", "👍"]);
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    assert_eq!(stream(&[], &[b"a\xff", b"\xc3", b"b\xe2\x82"]).0, "a\u{fffd}\u{fffd}b\u{fffd}");
    assert_eq!(stream(&[], &[b"\xf0\x9f"]).0, "\u{fffd}");
}

#[test]
fn text_that_may_begin_a_stop_string_waits() {
    let mut stream = TextStream::new(vec!["</s>".into(), "\n\nUser:".into()]);
    assert_eq!(stream.push(b"x<").text, "x");
    assert_eq!(stream.push(b"/").text, "");
    assert_eq!(stream.push(b"b>\n").text, "</b>");
    assert_eq!(stream.push(b"\n").text, "");
    assert_eq!(stream.push(b"\nUs").text, "\n");
    assert_eq!(stream.push(b"er:").text, "");
    assert!(stream.stopped());
}

#[test]
fn a_stop_string_is_found_across_tokens_and_inside_one() {
    assert_eq!(stream(&["STOP"], &[b"go S", b"TO", b"P now"]), ("go ".into(), true));
    assert_eq!(stream(&["STOP"], &[b"go STOP now"]), ("go ".into(), true));
    assert_eq!(stream(&["STOP"], &[b"go STO"]), ("go STO".into(), false));
    assert_eq!(stream(&["aab"], &[b"aaa", b"b"]), ("a".into(), true));
    assert_eq!(stream(&["é!"], &[b"x\xc3", b"\xa9", b"!"]), ("x".into(), true));
    assert_eq!(stream(&["", "b"], &[b"abc"]), ("a".into(), true));
}

#[test]
fn of_two_stop_strings_the_one_complete_first_ends_the_answer() {
    assert_eq!(stream(&["bcde", "cd"], &[b"abcde"]), ("ab".into(), true));
    assert_eq!(stream(&["bcd", "cd"], &[b"abcd"]), ("a".into(), true));
}

#[test]
fn a_finished_stream_is_as_new() {
    let mut stream = TextStream::new(vec!["ab".into()]);
    assert_eq!(stream.push(b"xa").text, "x");
    assert_eq!(stream.finish(), "a");
    assert_eq!(stream.push(b"b").text, "b");
    assert!(stream.push(b"ab").stopped);
    stream.finish();
    assert!(!stream.push(b"c").stopped);
}

#[test]
fn pushing_reuses_its_buffers() {
    let mut stream = TextStream::new(vec!["<stop>".into()]);
    let mut out = String::with_capacity(64);
    stream.push_into("ab<st é".as_bytes(), &mut out);
    let (held, bytes) = (stream.held.capacity(), stream.bytes.capacity());
    for _ in 0..1000 {
        out.clear();
        stream.push_into("ab<st é".as_bytes(), &mut out);
    }
    assert_eq!((stream.held.capacity(), stream.bytes.capacity(), out.capacity()), (held, bytes, 64));
}

/// What a stream must give: the text up to the stop string that is complete first.
fn naive(text: &str, stops: &[String]) -> (String, bool) {
    let ends = (1..=text.len()).filter(|&end| text.is_char_boundary(end));
    for end in ends {
        let hit = stops.iter().filter(|s| !s.is_empty() && text[..end].ends_with(s.as_str()));
        if let Some(longest) = hit.map(String::len).max() {
            return (text[..end - longest].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}

proptest! {
    #[test]
    fn cuts_make_no_difference(
        text in "[ab<é👍]{0,24}",
        stops in proptest::collection::vec("[ab<é]{0,4}", 0..4),
        cuts in proptest::collection::vec(1usize..5, 0..30),
    ) {
        let mut pieces = Vec::new();
        let mut rest = text.as_bytes();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let stops_ref: Vec<&str> = stops.iter().map(String::as_str).collect();
        prop_assert_eq!(stream(&stops_ref, &pieces), naive(&text, &stops));
    }

    #[test]
    fn any_bytes_read_as_the_standard_library_reads_them(bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
        let (a, b) = bytes.split_at(cut.min(bytes.len()));
        prop_assert_eq!(stream(&[], &[a, b]).0, String::from_utf8_lossy(&bytes));
    }
}
