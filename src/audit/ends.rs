//! The ends that a request may come to, found from its bytes alone.
//!
//! A request may have several faults, and which of them is told first is the engine's affair: each is an admissible reason. A request
//! without fault must have a result, unless something outside of it got in the way.

use std::collections::BTreeSet;

use operators::codec::form::Form;
use operators::dead_letter::{REASONS, Reason};
use operators::model::is_model_id;
use operators::records::RecordView;

use super::inputs::Inputs;
use super::oracle::{Lookup, Oracle};
use super::{AuditOptions, fingerprint};
use crate::request::{MODEL_ID, Names, Request, RequestError, check_optional_fields, tensors};

/// Reasons that lie outside of the request.
const EXCUSES: [Reason; 5] = [
    Reason::InferenceFailed,
    Reason::DeadlineExceeded,
    Reason::ResultTooLarge,
    Reason::OverQuota,
    Reason::Crashed,
];

/// Whether only a request that reaches a model can end so. One with a fault that is told before never does.
fn is_of_inference(reason: Reason) -> bool {
    reason != Reason::OverQuota
}

/// However JSON is read, so many brackets are not too many.
const NESTING_SURE: usize = 100;

/// A set of ends: a result, or a dead letter with one of some reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends(u32);

impl Ends {
    const RESULT: u32 = 1 << 31;

    fn bit(reason: Reason) -> u32 {
        1 << place(reason)
    }

    pub(super) fn add(&mut self, reason: Reason) {
        self.0 |= Self::bit(reason);
    }

    fn add_all(&mut self, reasons: &[Reason]) {
        for &reason in reasons {
            self.add(reason);
        }
    }

    pub(super) fn allow(self, reason: Reason) -> bool {
        self.0 & Self::bit(reason) != 0
    }

    pub(super) fn allow_result(self) -> bool {
        self.0 & Self::RESULT != 0
    }

    /// What would have been a result must be a dead letter with this reason.
    pub(super) fn instead_of_result(&mut self, reason: Reason) {
        self.0 &= !Self::RESULT;
        self.add(reason);
    }

    /// The names of the ends, for people.
    pub(super) fn names(self) -> String {
        let result = self.allow_result().then_some("result");
        let reasons = REASONS.into_iter().filter(|&reason| self.allow(reason)).map(Reason::name);
        result.into_iter().chain(reasons).collect::<Vec<_>>().join(", ")
    }
}

/// The place of a reason among all.
pub(super) fn place(reason: Reason) -> u8 {
    let place = REASONS.iter().position(|&other| other == reason);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(30)
}

/// What the ends depend on, besides the request.
pub(super) struct Rules<'a> {
    infer: bool,
    excuses: Vec<Reason>,
    not_finite_allowed: &'a BTreeSet<String>,
    record_bytes_max: usize,
}

impl<'a> Rules<'a> {
    pub(super) fn new(options: &'a AuditOptions) -> Self {
        Self {
            infer: options.infer,
            excuses: if options.strict { options.trusted.clone() } else { EXCUSES.to_vec() },
            not_finite_allowed: &options.not_finite_allowed,
            record_bytes_max: options.record_bytes_max.unwrap_or(usize::MAX),
        }
    }
}

/// What was found in a request.
#[derive(Default)]
struct Found {
    /// Each of them alone forbids a result.
    faults: Ends,
    /// Reasons that are admissible beside a result.
    doubts: Ends,
}

/// The ends that `record` may come to, and the request that it is, if it is one.
pub(super) fn of(
    record: RecordView<'_>,
    rules: &Rules<'_>,
    oracle: &mut dyn Oracle,
) -> (Ends, Option<Request>) {
    let mut found = Found::default();
    let header = record.header(MODEL_ID).flatten().filter(|header| !header.is_empty());
    if header.is_none() {
        found.faults.add(Reason::MissingModelId);
    }
    let (mut request, body_model) = found.value(record);
    for model_id in [header, body_model.as_deref().map(str::as_bytes)].into_iter().flatten() {
        if !is_model_id(model_id) {
            found.faults.add(Reason::InvalidModelId);
        }
    }
    if let (Some(header), Some(body)) = (header, &body_model)
        && header != body.as_bytes()
    {
        found.faults.add(Reason::ModelIdMismatch);
    }
    let model_id = header.map_or(body_model.as_deref(), |header| std::str::from_utf8(header).ok());
    if let Some(model_id) = model_id.filter(|id| is_model_id(id.as_bytes())) {
        found.model(model_id, record, request.as_mut(), rules, oracle);
    }
    if record.payload_bytes() > rules.record_bytes_max {
        found.doubts.add(Reason::Undecodable);
    }
    (found.ends(rules), request)
}

impl Found {
    /// Looks at the value: the request, if it is one, and the model that the body names, if it does.
    fn value(&mut self, record: RecordView<'_>) -> (Option<Request>, Option<String>) {
        let Some(value) = record.value() else {
            self.faults.add(Reason::NullValue);
            return (None, None);
        };
        match Request::of(record) {
            Ok(request) => {
                let brackets = value.iter().filter(|byte| b"[{".contains(byte)).count();
                let deep = request.shape.is_none() && brackets > NESTING_SURE;
                if check_optional_fields(record).is_err() || deep {
                    // The interface names the types of optional fields, and no depth: either end is in order.
                    self.doubts.add(Reason::Undecodable);
                }
                let model_id = request.model_id.clone();
                (Some(request), Some(model_id))
            }
            Err(RequestError::UnsupportedType(_)) => {
                self.faults.add(Reason::UnsupportedType);
                (None, None)
            }
            Err(error) => {
                self.faults.add(Reason::Undecodable);
                if matches!(&error, RequestError::Undecodable(why) if why.starts_with("number out of range"))
                {
                    self.faults.add(Reason::NotFinite);
                }
                (None, Names::of(record).model_id)
            }
        }
    }

    /// Looks at what is known of the model.
    fn model(
        &mut self,
        model_id: &str,
        record: RecordView<'_>,
        request: Option<&mut Request>,
        rules: &Rules<'_>,
        oracle: &mut dyn Oracle,
    ) {
        let lookup = oracle.lookup(model_id);
        if let Some(request) = request {
            match &lookup {
                Lookup::Serves { inputs } if !(inputs.is_floats() && request.tensors.is_empty()) => {
                    self.tensors(record, inputs, request, rules);
                }
                _ => self.floats(request, rules),
            }
            if let Lookup::Serves { inputs } = &lookup
                && request.tensors.is_empty()
                && !inputs.take_floats(request.input.len(), request.shape.as_deref())
            {
                self.faults.add(Reason::WrongShape);
            }
        }
        let dtypes = types(record);
        let typed = Form::of(record).is_some_and(|form| form != Form::Json);
        if let (Lookup::Serves { inputs }, Some(dtypes)) = (&lookup, dtypes)
            && !inputs.take_types(dtypes)
        {
            self.faults.add(Reason::UnsupportedType);
        }
        match lookup {
            Lookup::NoSuchModel => self.faults.add(Reason::UnknownModel),
            Lookup::Unavailable(_) => self.faults.add(Reason::ModelUnavailable),
            Lookup::Serves { .. } => {}
            Lookup::NotAsked => {
                if typed {
                    self.doubts.add(Reason::UnsupportedType);
                }
                self.doubts.add_all(&[Reason::UnknownModel, Reason::ModelUnavailable, Reason::WrongShape]);
            }
        }
        if !rules.infer {
            // The output may hold what the request does not.
            self.doubts.add(Reason::NotFinite);
        }
    }

    /// Looks at the numbers of a request to a model of floats, or to one of which nothing is known.
    fn floats(&mut self, request: &Request, rules: &Rules<'_>) {
        let finite = request.input.iter().all(|number| number.is_finite());
        if !finite && !rules.not_finite_allowed.contains(&request.model_id) {
            self.faults.add(Reason::NotFinite);
        }
    }

    /// Looks at the tensors of a request, and leaves them there.
    fn tensors(&mut self, record: RecordView<'_>, inputs: &Inputs, request: &mut Request, rules: &Rules<'_>) {
        match tensors(record) {
            Ok(tensors) => {
                let finite_only = !rules.not_finite_allowed.contains(&request.model_id);
                self.faults.add_all(&inputs.refuse(&tensors, finite_only));
                request.tensors = tensors;
            }
            Err(RequestError::UnsupportedType(_)) => self.faults.add(Reason::UnsupportedType),
            Err(_) => self.faults.add(Reason::Undecodable),
        }
    }

    fn ends(self, rules: &Rules<'_>) -> Ends {
        let mut ends = Ends(self.faults.0 | self.doubts.0);
        let faultless = self.faults == Ends::default();
        if faultless {
            ends.0 |= Ends::RESULT;
        }
        for &excuse in &rules.excuses {
            if faultless || !is_of_inference(excuse) {
                ends.add(excuse);
            }
        }
        ends
    }
}

/// The types that the headers of a raw tensor tell.
fn types(record: RecordView<'_>) -> Option<&str> {
    (Form::of(record) == Some(Form::Tensor)).then_some(())?;
    std::str::from_utf8(record.header(b"dtype").flatten()?).ok()
}

/// The fingerprints of a request's id, tenant and model, also of one that is none; an empty name is no name.
pub(super) fn name_prints(record: RecordView<'_>, request: Option<&Request>) -> [fingerprint::NamePrint; 3] {
    let print =
        |text: Option<&str>| fingerprint::name(text.filter(|text| !text.is_empty()).map(str::as_bytes));
    if let Some(request) = request {
        return [&request.request_id, &request.tenant_id, &request.model_id].map(|text| print(Some(text)));
    }
    let names = Names::of(record);
    [names.request_id, names.tenant_id, names.model_id].map(|text| print(text.as_deref()))
}
