//! Buffers that were used, kept for whoever needs one next. Memory that was given back has to be had again from the kernel, page by page,
//! which takes longer than what is then written into it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many bytes are kept: of one buffer, and of all together.
const BUFFER_BYTES_MAX: usize = 2 << 20;
const BYTES_MAX: usize = 16 << 20;

/// Buffers without an owner.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spares {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer in which anything may stand; a new one, if there is none.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut kept = self.kept();
        let buffer = kept.buffers.pop().unwrap_or_default();
        kept.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer, if there is room for it.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let (bytes, mut kept) = (buffer.capacity(), self.kept());
        if (1..=BUFFER_BYTES_MAX).contains(&bytes) && kept.bytes + bytes <= BYTES_MAX {
            kept.bytes += bytes;
            kept.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_taken_again_and_no_more_is_kept_than_there_is_room_for() {
        let spares = Spares::default();
        assert_eq!(spares.take().capacity(), 0);
        spares.give_back(vec![7; 1_000]);
        assert_eq!(spares.take(), [7; 1_000]);
        spares.give_back(Vec::with_capacity(BUFFER_BYTES_MAX + 1));
        assert_eq!(spares.take().capacity(), 0, "it is too large");
        for _ in 0..10 {
            spares.give_back(Vec::with_capacity(BUFFER_BYTES_MAX));
        }
        let Kept { buffers, bytes } = &*spares.kept();
        assert_eq!((buffers.len(), *bytes), (8, BYTES_MAX));
    }
}
