//! The form of a request: how its bytes are to be read, as its header `content-type` says; and of a result.

use crate::records::RecordView;

/// The header that names a record's form.
pub const CONTENT_TYPE: &[u8] = b"content-type";

/// How the bytes of a request are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/json`, and what a request without the header has: see [`super::json`].
    Json,
    /// `application/x-tensor`: see [`super::x_tensor`].
    Tensor,
    /// `application/x-open-inference+json`: see [`super::open_inference`].
    OpenInference,
    /// `application/octet-stream`: the same, with tensors behind the JSON.
    OpenInferenceBinary,
}

/// Every form.
pub const FORMS: [Form; 4] = [Form::Json, Form::Tensor, Form::OpenInference, Form::OpenInferenceBinary];

impl Form {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Tensor => "application/x-tensor",
            Self::OpenInference => "application/x-open-inference+json",
            Self::OpenInferenceBinary => "application/octet-stream",
        }
    }

    /// The form of a record: that of its header, of which parameters and the case of letters do not matter. `None` if the header names
    /// a type that nothing here reads.
    ///
    /// ```
    /// use operators::codec::form::{CONTENT_TYPE, Form};
    /// use operators::records::Records;
    ///
    /// let mut records = Records::default();
    /// records.push(None, Some(b"{}"));
    /// assert_eq!(Form::of(records.get(0)), Some(Form::Json));
    /// records.push_header(CONTENT_TYPE, Some(b"Application/X-Tensor; v=1"));
    /// assert_eq!(Form::of(records.get(0)), Some(Form::Tensor));
    /// records.push_header(CONTENT_TYPE, Some(b"application/x-protobuf"));
    /// assert_eq!(Form::of(records.get(0)), None);
    /// ```
    pub fn of(record: RecordView<'_>) -> Option<Self> {
        let Some(Some(value)) = record.header(CONTENT_TYPE) else { return Some(Self::Json) };
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if media_type.is_empty() {
            return Some(Self::Json);
        }
        FORMS.into_iter().find(|form| form.media_type().as_bytes().eq_ignore_ascii_case(media_type))
    }
}

/// In which form results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultForm {
    /// Always in this one.
    Always(Form),
    /// In the form of its request.
    Request,
}

impl Default for ResultForm {
    fn default() -> Self {
        Self::Always(Form::Json)
    }
}

impl ResultForm {
    /// The form of the result of a request that was decoded.
    pub fn of(self, request: RecordView<'_>) -> Form {
        match self {
            Self::Always(form) => form,
            Self::Request => Form::of(request).unwrap_or(Form::Json),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    fn form(header: Option<&[u8]>) -> Option<Form> {
        let mut records = Records::default();
        records.push(None, None);
        records.push_header(CONTENT_TYPE, header);
        Form::of(records.get(0))
    }

    #[test]
    fn a_header_that_says_nothing_is_json() {
        for silent in [None, Some(&b""[..]), Some(b" "), Some(b"; charset=utf-8")] {
            assert_eq!(form(silent), Some(Form::Json), "{silent:?}");
        }
        assert_eq!(form(Some(b"application/json; charset=utf-8")), Some(Form::Json));
    }

    #[test]
    fn nothing_is_guessed_from_a_type_that_is_nearly_right() {
        for strange in [
            "application/jsonl",
            "json",
            "application/x-tensor2",
            "application/ json",
            "text/json",
            "application/x-open-inference",
        ] {
            assert_eq!(form(Some(strange.as_bytes())), None, "{strange}");
        }
        assert_eq!(form(Some(b"application/json\xff")), None);
    }
}
