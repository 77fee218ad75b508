//! The keyed exchange: each block goes to the worker that is home to its device.
//!
//! Windows, the fair order and late binding then need no locks, because one worker sees every row for the device.

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use crate::block::Block;

/// Methods to bring blocks to the home of their device.
pub trait KeyedExchange<'scope> {
    /// Moves each block to the worker that is home to its device. Where that is the same worker, nothing is copied.
    fn keyed_exchange(self) -> Self;
}

impl<'scope> KeyedExchange<'scope> for StreamVec<'scope, u64, Arc<Block>> {
    fn keyed_exchange(self) -> Self {
        self.unary(
            Exchange::new(|block: &Arc<Block>| block.device as u64),
            "KeyedExchange",
            |_capability, _info| {
                |input, output| {
                    input.for_each_stamp(|stamp, data| {
                        output.session(&stamp).give_containers(data);
                    });
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use timely::dataflow::operators::vec::Map;
    use timely::dataflow::operators::{Capture, ToStream, capture::Extract};

    use super::*;
    use crate::broker::Polled;
    use crate::catalog::ModelIndex;

    #[test]
    fn every_block_arrives_at_the_home_of_its_device() {
        let guards = timely::execute(timely::Config::process(2), move |worker| {
            let index = worker.index();
            let arrived = worker.dataflow::<u64, _, _>(|scope| {
                let blocks = (0..10).map(move |n| {
                    let polled = Arc::new(Polled::default());
                    let block = Block::new(ModelIndex(7), index, Vec::new(), polled);
                    Arc::new(Block { device: n % 2, ..block })
                });
                blocks.to_stream(scope).keyed_exchange().map(|block| block.device).capture()
            });
            while worker.step_or_park(None) {}
            arrived.extract().into_iter().flat_map(|(_, devices)| devices).collect::<Vec<_>>()
        });
        for (home, devices) in guards.unwrap().join().into_iter().enumerate() {
            assert_eq!(devices.unwrap(), vec![home; 10]);
        }
    }
}
