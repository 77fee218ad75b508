//! The keyed exchange: each block goes to the worker that is home to its model's device.
//!
//! Windows, the fair order and late binding then need no locks, because one worker sees every row for the device.

use std::sync::Arc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

use crate::block::Block;
use crate::catalog::Catalog;

/// Methods to bring blocks to the home of their device.
pub trait KeyedExchange<'scope> {
    /// Moves each block to the worker that `catalog` names as its model's home. Where that is the same worker, nothing is copied.
    fn keyed_exchange(self, catalog: Arc<Catalog>) -> Self;
}

impl<'scope> KeyedExchange<'scope> for StreamVec<'scope, u64, Arc<Block>> {
    fn keyed_exchange(self, catalog: Arc<Catalog>) -> Self {
        let home =
            move |block: &Arc<Block>| catalog.served(block.model).map_or(0, |served| served.home) as u64;
        self.unary(Exchange::new(home), "KeyedExchange", |_capability, _info| {
            |input, output| {
                input.for_each_stamp(|stamp, data| {
                    output.session(&stamp).give_containers(data);
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use timely::dataflow::operators::vec::Map;
    use timely::dataflow::operators::{Capture, ToStream, capture::Extract};

    use super::*;
    use crate::broker::Polled;
    use crate::catalog::{BatchPolicy, Limits, Listing, ModelIndex, NotFinite, Served};
    use crate::model::Signature;

    fn served(id: &str, home: usize) -> Listing {
        let signature = Signature::of_floats(&[1], 1);
        let batch = BatchPolicy::Static { size_max: 1, delay_max: Duration::ZERO };
        let version = "0".repeat(16);
        Listing::Served(Arc::new(Served {
            id: id.into(),
            version,
            signature,
            not_finite: NotFinite::Refuse,
            limits: Limits::default(),
            batch,
            bytes_max: usize::MAX,
            measured: Vec::new(),
            home,
        }))
    }

    #[test]
    fn every_block_arrives_at_the_home_of_its_model() {
        let catalog = Arc::new(Catalog::new(vec![served("a", 0), served("b", 1)]));
        let guards = timely::execute(timely::Config::process(2), move |worker| {
            let index = worker.index();
            let catalog = Arc::clone(&catalog);
            let arrived = worker.dataflow::<u64, _, _>(|scope| {
                let blocks = (0..10).map(move |n| {
                    Arc::new(Block::new(ModelIndex(n % 2), index, Vec::new(), Arc::new(Polled::default())))
                });
                blocks.to_stream(scope).keyed_exchange(catalog).map(|block| block.model.0).capture()
            });
            while worker.step_or_park(None) {}
            arrived.extract().into_iter().flat_map(|(_, models)| models).collect::<Vec<_>>()
        });
        for (home, models) in guards.unwrap().join().into_iter().enumerate() {
            assert_eq!(models.unwrap(), vec![u32::try_from(home).unwrap(); 10]);
        }
    }
}
