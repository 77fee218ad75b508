//! What is wrong with a configuration, and how it is shown.

use std::fmt;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

use super::layer::Place;

/// One thing that is wrong: what, where, and what to do.
#[derive(Clone, Debug)]
pub struct Fault {
    message: String,
    help: Option<String>,
    text: Option<Arc<NamedSource<String>>>,
    labels: Vec<LabeledSpan>,
}

impl Fault {
    /// A fault that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, text: None, labels: Vec::new() }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Shows a place in a file. Places in another file than the first are left out.
    #[must_use]
    pub fn at(mut self, place: &Place, label: impl Into<String>) -> Self {
        let text = self.text.get_or_insert_with(|| Arc::clone(&place.text));
        if Arc::ptr_eq(text, &place.text) {
            self.labels.push(LabeledSpan::new_with_span(Some(label.into()), place.span.clone()));
        }
        self
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Diagnostic for Fault {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.text.as_deref().map(|text| text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty())
            .then(|| Box::new(self.labels.iter().cloned()) as Box<dyn Iterator<Item = _>>)
    }
}

/// Everything that is wrong with a configuration: at least one fault.
#[derive(Clone, Debug)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// These faults, or `None` if there are none.
    pub fn any(faults: Vec<Fault>) -> Option<Self> {
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [_] => out.write_str("could not use the configuration"),
            faults => write!(out, "could not use the configuration: {} faults", faults.len()),
        }
    }
}

impl std::error::Error for Faults {}

impl Diagnostic for Faults {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("`tidemill check --explain` lists every key"))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.0.iter().map(|fault| fault as &dyn Diagnostic)))
    }
}
