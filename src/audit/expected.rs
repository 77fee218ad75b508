//! What the models say, one request at a time, until the results have been compared with it.

use std::collections::BTreeSet;

use operators::dead_letter::Reason;

use super::book::{Entry, Numbers};
use super::oracle::Oracle;
use super::{AuditOptions, Tolerance};
use crate::request::Request;

/// The expected outputs that are held at the moment.
#[derive(Debug)]
pub(super) struct Expected {
    floats: Vec<f64>,
    floats_max: usize,
    tolerance: Tolerance,
    not_finite_allowed: BTreeSet<String>,
    /// Requests on which a model was run.
    pub(super) inferred: u64,
    /// The first failure of a model, for people.
    pub(super) failure: Option<String>,
    /// The largest difference between an output and what was expected, over all that are finite.
    pub(super) largest_difference: f64,
}

impl Expected {
    pub(super) fn new(options: &AuditOptions) -> Self {
        Self {
            floats: Vec::new(),
            floats_max: options.held_floats_max.min(1 << 31),
            tolerance: options.tolerance,
            not_finite_allowed: options.not_finite_allowed.clone(),
            inferred: 0,
            failure: None,
            largest_difference: 0.0,
        }
    }

    /// Whether one more output may be held. The first may always, however long it is.
    pub(super) fn has_room(&self) -> bool {
        self.floats.is_empty() || self.floats.len() < self.floats_max
    }

    pub(super) fn clear(&mut self) {
        self.floats.clear();
    }

    /// Runs the model on a request, and holds what it says.
    pub(super) fn infer(&mut self, entry: &mut Entry, request: &Request, oracle: &mut dyn Oracle) {
        self.inferred += 1;
        entry.numbers = Numbers::Unneeded;
        let output = if request.tensors.is_empty() {
            oracle
                .infer(&request.model_id, &request.input)
                .map(|output| output.into_iter().map(f64::from).collect())
        } else {
            oracle.infer_tensors(&request.model_id, &request.tensors)
        };
        let output: Vec<f64> = match output {
            Ok(output) => output,
            Err(reason) => {
                entry.ends.instead_of_result(Reason::InferenceFailed);
                self.failure.get_or_insert_with(|| format!("{}: {reason}", request.model_id));
                return;
            }
        };
        let finite = output.iter().all(|number| number.is_finite());
        if !finite && !self.not_finite_allowed.contains(&request.model_id) {
            entry.ends.instead_of_result(Reason::NotFinite);
            return;
        }
        if let (Ok(start), Ok(length)) = (u32::try_from(self.floats.len()), u32::try_from(output.len())) {
            entry.numbers = Numbers::Held(start, length);
            self.floats.extend_from_slice(&output);
        }
    }

    /// Compares the output of a result with what is held for it; what is wrong, if anything is.
    pub(super) fn compare(&mut self, entry: &Entry, output: &[Option<f64>]) -> Option<String> {
        let Numbers::Held(start, length) = entry.numbers else { return None };
        let expected = &self.floats[start as usize..][..length as usize];
        if output.len() != expected.len() {
            return Some(format!("the output has {} numbers, and the model gives {length}", output.len()));
        }
        let mut complaint = None;
        for (place, (&expected, &found)) in expected.iter().zip(output).enumerate() {
            let equal = match found {
                // JSON has no way to write what is not finite.
                None => !expected.is_finite(),
                Some(found) => {
                    let difference = (found - expected).abs();
                    if difference.is_finite() {
                        self.largest_difference = self.largest_difference.max(difference);
                    }
                    difference <= self.tolerance.absolute + self.tolerance.relative * expected.abs()
                }
            };
            if !equal && complaint.is_none() {
                let found = found.map_or("null".to_owned(), |found| found.to_string());
                complaint = Some(format!("output {place} is {found}, and the model says {expected}"));
            }
        }
        complaint
    }
}
