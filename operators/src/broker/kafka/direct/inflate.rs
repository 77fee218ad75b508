//! What a batch holds that its producer has compressed, in any of the ways that Kafka knows.

use std::io::{self, Read as _};

use super::frame;

/// No batch holds more: whoever is sent one that does has been sent a trap.
pub(super) const INFLATED_MAX: usize = 64 << 20;
/// What the snappy of Java's clients begins with: a name, and the number of its version, behind which stands the lowest that can read it.
const XERIAL: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEAD: usize = 16;

/// How a batch is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    /// The codec that a batch's attributes name, if it is one that Kafka knows.
    pub(super) fn of(attributes: i16) -> Option<Self> {
        Some(match attributes & 0b111 {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Writes what `bytes` hold into `into`, from its start on, and returns how much that is; what stands behind it says nothing.
    ///
    /// # Errors
    ///
    /// If they are not compressed so, or hold too much.
    pub(super) fn inflate(self, bytes: &[u8], into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::None => {
                into.clear();
                into.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Self::Gzip => read_all(flate2::read::MultiGzDecoder::new(bytes), into),
            Self::Snappy => snappy(bytes, into),
            Self::Lz4 => frame::read(bytes, into, INFLATED_MAX),
            Self::Zstd => read_all(zstd::stream::read::Decoder::with_buffer(bytes)?, into),
        }
    }
}

fn read_all(reader: impl io::Read, into: &mut Vec<u8>) -> io::Result<usize> {
    into.clear();
    let length = reader.take(INFLATED_MAX as u64 + 1).read_to_end(into)?;
    if length > INFLATED_MAX { Err(too_much()) } else { Ok(length) }
}

/// Java's clients write pieces, each with its length before it; others write one.
fn snappy(bytes: &[u8], into: &mut Vec<u8>) -> io::Result<usize> {
    into.clear();
    if !bytes.starts_with(XERIAL) {
        snappy_piece(bytes, into)?;
        return Ok(into.len());
    }
    let ends_early = || io::Error::new(io::ErrorKind::UnexpectedEof, "a piece of it ends early");
    let mut rest = bytes.get(XERIAL_HEAD..).ok_or_else(ends_early)?;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (piece, left) =
            behind.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(ends_early)?;
        snappy_piece(piece, into)?;
        rest = left;
    }
    if rest.is_empty() { Ok(into.len()) } else { Err(ends_early()) }
}

fn snappy_piece(piece: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    let start = into.len();
    let length = snap::raw::decompress_len(piece)?;
    if start + length > INFLATED_MAX {
        return Err(too_much());
    }
    into.resize(start + length, 0);
    let written = snap::raw::Decoder::new().decompress(piece, &mut into[start..])?;
    into.truncate(start + written);
    Ok(())
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it holds too much")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// As a producer writes it that is not ours.
    fn deflated(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        match codec {
            Codec::None => bytes.to_vec(),
            Codec::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Codec::Snappy => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
            Codec::Lz4 => {
                let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Codec::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    fn inflated(codec: Codec, bytes: &[u8]) -> io::Result<Vec<u8>> {
        // What an earlier batch has left there must not be seen.
        let mut into = vec![0xaa; 100];
        let length = codec.inflate(bytes, &mut into)?;
        Ok(into[..length].to_vec())
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back_and_a_piece_of_it_is_an_error_or_less(
            codec in prop::sample::select(ALL.to_vec()),
            piece in prop::collection::vec(any::<u8>(), 0..200),
            times in 0..2_000_usize,
            end in any::<prop::sample::Index>(),
        ) {
            let bytes = piece.repeat(times);
            let compressed = deflated(codec, &bytes);
            prop_assert_eq!(&inflated(codec, &compressed).unwrap(), &bytes);
            let cut = &compressed[..end.index(compressed.len() + 1)];
            prop_assert!(inflated(codec, cut).map_or(true, |less| bytes.starts_with(&less)));
        }

        #[test]
        fn whatever_it_is_it_harms_nobody(
            codec in prop::sample::select(ALL.to_vec()),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            drop(inflated(codec, &bytes));
        }
    }

    #[test]
    fn snappy_is_read_in_pieces_too() {
        let mut bytes = [&XERIAL[..], &1_u32.to_be_bytes(), &1_u32.to_be_bytes()].concat();
        for piece in [&b"hello, "[..], b"world"] {
            let piece = snap::raw::Encoder::new().compress_vec(piece).unwrap();
            bytes.extend(u32::try_from(piece.len()).unwrap().to_be_bytes());
            bytes.extend(piece);
        }
        assert_eq!(inflated(Codec::Snappy, &bytes).unwrap(), b"hello, world");
        assert!(inflated(Codec::Snappy, &bytes[..bytes.len() - 1]).is_err());
        assert!(inflated(Codec::Snappy, &bytes[..XERIAL_HEAD + 2]).is_err());
    }

    #[test]
    fn a_trap_is_not_stepped_into() {
        let much = vec![0; INFLATED_MAX + 1];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            assert!(inflated(codec, &deflated(codec, &much)).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn only_what_kafka_knows_has_a_codec() {
        let known: Vec<_> = (0..8).filter_map(Codec::of).collect();
        assert_eq!(known, ALL);
        assert_eq!(Codec::of(0b1_0011), Some(Codec::Lz4), "the other bits say other things");
    }
}
