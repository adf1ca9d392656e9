//! Many short texts in one piece of memory: a vocabulary of 262,144 tokens as vectors of their own takes four times the
//! memory and its allocations take longer than everything else that is done with it.

/// Byte strings by number, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    bytes: Vec<u8>,
    /// Where each ends and the next begins; 32 bits, so nothing is added once they are full.
    ends: Vec<u32>,
    /// Whether something did not fit.
    full: bool,
}

impl Texts {
    /// Adds one at the end. All together hold 4 GiB; what is more is left out, and [`Texts::is_full`] tells.
    pub fn push(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        match u32::try_from(self.bytes.len().saturating_add(text.len())) {
            Ok(end) if !self.full => {
                self.bytes.extend_from_slice(text);
                self.ends.push(end);
            }
            _ => self.full = true,
        }
    }

    /// The text of a number.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)? as usize;
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.bytes.get(start..end)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether something was left out.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let text = &self.bytes[start..end as usize];
            start = end as usize;
            text
        })
    }

    /// All of them as text, where they are UTF-8; checked all at once, which takes a fraction of checking each.
    pub(crate) fn strs(&self) -> impl Iterator<Item = Option<&str>> {
        let all = std::str::from_utf8(&self.bytes).ok();
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let range = start..end as usize;
            start = range.end;
            match all {
                // None where a character goes over the border of two texts.
                Some(all) => all.get(range),
                None => std::str::from_utf8(&self.bytes[range]).ok(),
            }
        })
    }

    /// Gives back what was set aside for more.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

impl std::ops::Index<usize> for Texts {
    type Output = [u8];

    fn index(&self, i: usize) -> &[u8] {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[i] as usize]
    }
}

impl<T: AsRef<[u8]>> Extend<T> for Texts {
    fn extend<I: IntoIterator<Item = T>>(&mut self, texts: I) {
        let texts = texts.into_iter();
        let more = texts.size_hint().0;
        self.ends.reserve(more);
        // What a token takes on average; too little only costs a copy.
        self.bytes.reserve(more.saturating_mul(8));
        texts.for_each(|text| self.push(text));
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = Self::default();
        all.extend(texts);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_by_number_and_in_order() {
        let given = ["a", "", "\u{2581}hello", "\0"];
        let texts: Texts = given.into_iter().collect();
        assert_eq!((texts.len(), texts.is_empty(), texts.is_full()), (4, false, false));
        assert!(texts.iter().eq(given.map(str::as_bytes)));
        for (i, text) in given.iter().enumerate() {
            assert_eq!((&texts[i], texts.get(i)), (text.as_bytes(), Some(text.as_bytes())));
        }
        assert_eq!(texts.get(4), None);
        assert!(Texts::default().is_empty());
    }

    #[test]
    fn a_text_is_text_only_where_it_is_so_by_itself() {
        let texts = |of: &[&[u8]]| of.iter().collect::<Texts>();
        // All together they are UTF-8.
        assert!(texts(&[b"a\xc3", b"\xa9b", "é".as_bytes(), b""]).strs().eq([
            None,
            None,
            Some("é"),
            Some("")
        ]));
        assert!(texts(&[b"a", b"\xff", "é".as_bytes()]).strs().eq([Some("a"), None, Some("é")]));
    }
}
