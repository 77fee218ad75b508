//! LZ4 frames, as Kafka wants them: of blocks that do not depend on each other, the only ones that Java's clients read.
//!
//! The format is that of "LZ4 Frame Format Description" 1.6. The library has frames too, but takes no acceleration when it writes them,
//! and what it reads goes through buffers of its own; it is left those frames that Kafka does not want.

use std::io::{self, Read as _};

use lz4::block::{CompressionMode, compress_bound, compress_to_buffer, decompress_to_buffer};

/// Magic number; version 1, independent blocks, no checksums (a batch has its own); blocks of 64 KiB at most; the check of these two bytes.
const HEAD: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
/// A block's size at most.
const BLOCK: usize = 64 * 1024;
/// The magic number alone.
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// What the byte behind it says: the version, and what a frame has.
mod flag {
    pub(super) const VERSION: u8 = 0b1100_0000;
    pub(super) const FIRST: u8 = 0b0100_0000;
    pub(super) const INDEPENDENT: u8 = 0b0010_0000;
    pub(super) const BLOCK_CHECKSUM: u8 = 0b0001_0000;
    pub(super) const LENGTH: u8 = 0b0000_1000;
    pub(super) const DICTIONARY: u8 = 0b0000_0001;
}
/// Set in the size of a block that is not compressed.
const AS_IT_IS: u32 = 1 << 31;
/// A block of size zero ends the frame.
const END: [u8; 4] = [0; 4];
/// How much of the effort to find repetitions is left out. Results of JSON with ten numbers, 486 bytes each, took 840 ns at 1, 745 at 2 and
/// 730 at 4, and became 143, 150 and 159 bytes; 1,100 ns and 146 bytes with `lz4_flex`.
const ACCELERATION: i32 = 2;

/// Appends a frame with these bytes.
pub(super) fn append(bytes: &[u8], frame: &mut Vec<u8>) {
    frame.reserve(HEAD.len() + bytes.len() / 2 + END.len());
    frame.extend_from_slice(&HEAD);
    // So much at most, wherever the block is one of at most 64 KiB. Into the frame itself the library would need as much room behind each
    // block as if nothing could be compressed.
    let bound = compress_bound(bytes.len().min(BLOCK)).unwrap_or(2 * BLOCK);
    let mut room = vec![0; bound];
    for block in bytes.chunks(BLOCK) {
        let mode = CompressionMode::FAST(ACCELERATION);
        let (size, written) = match compress_to_buffer(block, Some(mode), false, &mut room) {
            Ok(size) if size < block.len() => (length(size), &room[..size]),
            // It would be longer.
            _ => (length(block.len()) | AS_IT_IS, block),
        };
        frame.extend_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(written);
    }
    frame.extend_from_slice(&END);
}

fn length(size: usize) -> u32 {
    u32::try_from(size).expect("a block is of 64 KiB at most")
}

/// Reads a frame into `into`, from its start on, and returns how many bytes it held, which are `most` or fewer. What stands in `into`
/// behind them says nothing: so its memory is cleared once, and not for each frame.
///
/// # Errors
///
/// If it is no frame, or holds more.
pub(super) fn read(frame: &[u8], into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let Some(([a, b, c, d, flags, sizes], mut rest)) = frame.split_first_chunk::<6>() else {
        return Err(broken("it ends in its head"));
    };
    if [*a, *b, *c, *d] != MAGIC || flags & flag::VERSION != flag::FIRST {
        return Err(broken("it is no LZ4 frame"));
    }
    if flags & flag::INDEPENDENT == 0 || flags & flag::DICTIONARY != 0 {
        return read_any(frame, into, most);
    }
    let block_max = match (sizes >> 4) & 7 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return Err(broken("its blocks have a size that is not defined")),
    };
    // The length of all of it, if it is there, and the check of the head. No check is looked at: the batch has one of everything.
    take(&mut rest, if flags & flag::LENGTH == 0 { 1 } else { 9 })?;
    let mut length = 0;
    loop {
        let size = u32::from_le_bytes(take(&mut rest, 4)?.try_into().map_err(|_| broken("it ends early"))?);
        if size == 0 {
            return Ok(length);
        }
        let block = take(&mut rest, (size & !AS_IT_IS) as usize)?;
        if flags & flag::BLOCK_CHECKSUM != 0 {
            take(&mut rest, 4)?;
        }
        if into.len() < length + block_max {
            into.resize(length + block_max, 0);
        }
        let room = &mut into[length..length + block_max];
        length += if size & AS_IT_IS == 0 {
            decompress_to_buffer(block, i32::try_from(block_max).ok(), room)?
        } else {
            room.get_mut(..block.len()).ok_or_else(|| broken("a block is too large"))?.copy_from_slice(block);
            block.len()
        };
        if length > most {
            return Err(broken("it holds too much"));
        }
    }
}

/// Reads a frame of any kind.
fn read_any(frame: &[u8], into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    into.clear();
    let length = lz4::Decoder::new(frame)?.take(most as u64 + 1).read_to_end(into)?;
    if length > most { Err(broken("it holds too much")) } else { Ok(length) }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> io::Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count).ok_or_else(|| broken("it ends early"))?;
    *rest = left;
    Ok(taken)
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use lz4_flex::frame::FrameDecoder;
    use proptest::prelude::*;

    use super::*;

    fn read(frame: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameDecoder::new(frame).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        append(bytes, &mut frame);
        frame
    }

    proptest! {
        #[test]
        fn another_library_reads_what_is_written(
            piece in proptest::collection::vec(any::<u8>(), 0..300),
            times in 0..1_000_usize,
        ) {
            let bytes = piece.repeat(times);
            prop_assert_eq!(read(&written(&bytes)), bytes);
        }
    }

    #[test]
    fn what_repeats_is_shorter_and_what_does_not_is_hardly_longer() {
        assert!(written(&vec![7; 200_000]).len() < 2_000);
        let noise: Vec<u8> =
            (0_u64..5_000).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        let frame = written(&noise);
        assert_eq!(frame.len(), HEAD.len() + noise.len() + noise.len().div_ceil(BLOCK) * 4 + END.len());
        assert_eq!(read(&frame), noise);
    }

    #[test]
    fn a_frame_of_nothing_is_one() {
        assert_eq!(written(&[]), [HEAD.as_slice(), &END].concat());
    }
}
