//! A block as bytes, and back; and the encoding that timely uses where nothing else is said.

use operators::block::Block;

/// An encoding of blocks.
pub(crate) trait Wire: 'static {
    /// Its name in tables.
    const NAME: &'static str;

    /// Appends a block.
    fn encode(block: &Block, out: &mut Vec<u8>);

    /// The block, with memory of its own: its rows wait in a window until their batch is made, and its originals for their outcome.
    fn decode(bytes: &[u8]) -> Block;
}

/// Timely's own: serde into bincode 1.3, field after field.
pub(crate) struct Bincode;

impl Wire for Bincode {
    const NAME: &'static str = "bincode";

    fn encode(block: &Block, out: &mut Vec<u8>) {
        bincode::serialize_into(out, block).expect("memory takes all that is written");
    }

    fn decode(bytes: &[u8]) -> Block {
        bincode::deserialize(bytes).expect("it is what was encoded")
    }
}

/// Whether nothing was lost on the way.
pub(crate) fn same(one: &Block, other: &Block) -> bool {
    let of = |block: &Block| {
        let rows: Vec<_> = (0..block.len())
            .map(|row| {
                let record = block.polled.records.get(block.rows[row].record as usize);
                let headers: Vec<_> = record
                    .headers()
                    .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                    .collect();
                (
                    block.origin(row),
                    block.request_id(row).to_owned(),
                    block.tenant_id(row).to_owned(),
                    record.key().map(<[u8]>::to_vec),
                    record.value().map(<[u8]>::to_vec),
                    headers,
                )
            })
            .collect();
        (rows, block.columns.clone(), block.polled.times.clone(), block.model, block.class.clone())
    };
    of(one) == of(other)
}
