//! tokenizer.model: SentencePiece's model file, a protocol buffer of which three fields matter. Source: `sentencepiece_
//! model.proto` and protocol buffers' wire format. Trusts nothing: every length is compared with the bytes there are.

/// One piece of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: Vec<u8>,
    pub(super) score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte: GGUF's numbers too.
    pub(super) kind: i32,
}

/// What a model file says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SentencePiece {
    pub(super) pieces: Vec<Piece>,
    /// A space is put before every text.
    pub(super) add_dummy_prefix: bool,
    /// 1 is unigram, 2 is BPE.
    pub(super) model_type: u64,
}

/// A field of a message.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    Skipped,
}

/// Why bytes are no such file.
pub(super) struct Malformed;

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(len).map_err(|_| Malformed)?;
    let (taken, rest) = bytes.split_at_checked(len).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// Calls `each` for every field of a message.
fn fields<'a>(
    mut bytes: &'a [u8],
    each: &mut dyn FnMut(u64, Field<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Field::Skipped)?,
            2 => {
                let len = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, len)?)
            }
            5 => Field::Fixed32(*take(&mut bytes, 4)?.first_chunk().ok_or(Malformed)?),
            _ => return Err(Malformed),
        };
        each(tag >> 3, field)?;
    }
    Ok(())
}

fn piece(bytes: &[u8]) -> Result<Piece, Malformed> {
    let mut piece = Piece { text: Vec::new(), score: 0.0, kind: 1 };
    fields(bytes, &mut |id, field| {
        match (id, field) {
            (1, Field::Bytes(text)) => piece.text = text.to_vec(),
            (2, Field::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
            (3, Field::Varint(kind)) => piece.kind = i32::try_from(kind).map_err(|_| Malformed)?,
            (1..=3, _) => return Err(Malformed),
            _ => {}
        }
        Ok(())
    })?;
    if (1..=6).contains(&piece.kind) { Ok(piece) } else { Err(Malformed) }
}

/// Reads a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<SentencePiece, Malformed> {
    let mut model = SentencePiece { pieces: Vec::new(), add_dummy_prefix: true, model_type: 1 };
    fields(bytes, &mut |id, field| {
        match (id, field) {
            (1, Field::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
            // The trainer's settings.
            (2, Field::Bytes(bytes)) => fields(bytes, &mut |id, field| {
                if let (3, Field::Varint(kind)) = (id, field) {
                    model.model_type = kind;
                }
                Ok(())
            })?,
            // The normalizer's.
            (3, Field::Bytes(bytes)) => fields(bytes, &mut |id, field| {
                if let (3, Field::Varint(add)) = (id, field) {
                    model.add_dummy_prefix = add != 0;
                }
                Ok(())
            })?,
            (1..=3, _) => return Err(Malformed),
            _ => {}
        }
        Ok(())
    })?;
    if model.pieces.is_empty() { Err(Malformed) } else { Ok(model) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id << 3 | 2, content.len() as u8], content].concat()
    }

    fn sample() -> Vec<u8> {
        let unknown = [message(1, b"<unk>"), vec![0x15, 0, 0, 0, 0, 0x18, 2]].concat();
        let word = [message(1, "▁a".as_bytes()), [&[0x15][..], &(-2.5f32).to_le_bytes()].concat()].concat();
        [message(1, &unknown), message(1, &word), message(2, &[0x18, 2]), message(3, &[0x18, 0])].concat()
    }

    #[test]
    fn pieces_and_settings_are_read() {
        let model = parse(&sample()).ok().unwrap();
        assert_eq!(model.pieces.len(), 2);
        assert_eq!(model.pieces[0], Piece { text: b"<unk>".to_vec(), score: 0.0, kind: 2 });
        assert_eq!(model.pieces[1], Piece { text: "▁a".as_bytes().to_vec(), score: -2.5, kind: 1 });
        assert_eq!((model.add_dummy_prefix, model.model_type), (false, 2));
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_but_never_panics(at in any::<prop::sample::Index>(), to: u8, cut in any::<prop::sample::Index>()) {
            let mut bytes = sample();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(cut.index(bytes.len()) + 1);
            let _ = parse(&bytes);
        }
    }
}
