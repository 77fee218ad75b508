//! The JSON of a request, and the numbers of any.

use rand::Rng;

use super::ModelRow;

/// What a request says, its row aside.
pub(super) struct Parts<'a> {
    pub(super) request_id: &'a str,
    pub(super) tenant_id: &'a str,
    pub(super) model: &'a ModelRow,
    pub(super) enqueued_at_micros: i64,
}

/// Writes requests. Every name is one that JSON need not escape.
#[derive(Debug)]
pub(super) struct Writer {
    decimals: u8,
    /// 10 to the power of `decimals`.
    scale: u32,
}

impl Writer {
    pub(super) fn new(decimals: u8) -> Self {
        Self { decimals, scale: 10_u32.pow(u32::from(decimals)) }
    }

    /// A whole, good request.
    pub(super) fn request(&self, out: &mut Vec<u8>, parts: &Parts<'_>, random: &mut impl Rng) {
        let names = [
            ("request_id", parts.request_id),
            ("tenant_id", parts.tenant_id),
            ("model_id", parts.model.id.as_str()),
        ];
        out.push(b'{');
        self.names(out, &names);
        out.extend_from_slice(b",\"input\":");
        self.row(out, parts.model.row_len, random);
        self.optional(out, parts, random);
        out.push(b'}');
    }

    /// `"name":"text"` for each, with commas between them.
    #[expect(clippy::unused_self, reason = "reads as one of the writer's words")]
    pub(super) fn names(&self, out: &mut Vec<u8>, names: &[(&str, &str)]) {
        for (index, (name, text)) in names.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            for part in [comma, "\"", name, "\":\"", text, "\""] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }

    /// A row of floats.
    pub(super) fn row(&self, out: &mut Vec<u8>, row_len: usize, random: &mut impl Rng) {
        self.row_up_to(out, row_len, 0, random);
    }

    /// A row of at least `row_len` floats, and of as many as it takes until `out` has `bytes`.
    pub(super) fn row_up_to(&self, out: &mut Vec<u8>, row_len: usize, bytes: usize, random: &mut impl Rng) {
        out.push(b'[');
        let mut written = 0;
        while written < row_len || out.len() < bytes {
            if written > 0 {
                out.push(b',');
            }
            self.float(out, random);
            written += 1;
        }
        out.push(b']');
    }

    /// The row that [`Writer::row`] would have written.
    #[expect(clippy::cast_possible_truncation, reason = "rounded once, as the text would be")]
    pub(super) fn numbers(&self, row_len: usize, random: &mut impl Rng) -> Vec<f32> {
        let mut number = || {
            let (left, right) = self.draw(random);
            ((f64::from(left) - f64::from(right)) / f64::from(self.scale)) as f32
        };
        (0..row_len).map(|_| number()).collect()
    }

    /// Two numbers whose difference is a float's digits.
    fn draw(&self, random: &mut impl Rng) -> (u32, u32) {
        (random.next_u32() % (3 * self.scale), random.next_u32() % (3 * self.scale))
    }

    /// A float between -3 and 3, those near 0 more often: what a normalized feature looks like.
    fn float(&self, out: &mut Vec<u8>, random: &mut impl Rng) {
        let (left, right) = self.draw(random);
        if left < right {
            out.push(b'-');
        }
        let mut rest = left.abs_diff(right);
        let mut digits = [b'0'; 8];
        for digit in digits[..=usize::from(self.decimals)].iter_mut().rev() {
            *digit = b"0123456789"[rest as usize % 10];
            rest /= 10;
        }
        out.extend_from_slice(&[digits[0], b'.']);
        out.extend_from_slice(&digits[1..=usize::from(self.decimals)]);
    }

    /// The fields that a request may have: metadata in one of four, the time in each.
    pub(super) fn optional(&self, out: &mut Vec<u8>, parts: &Parts<'_>, random: &mut impl Rng) {
        let metadata = random.next_u32();
        if metadata.is_multiple_of(4) {
            let site = format!("edge-{:02}", metadata / 4 % 16);
            out.extend_from_slice(b",\"metadata\":{");
            self.names(out, &[("site", &site), ("firmware", "2.4.1")]);
            out.push(b'}');
        }
        let enqueued_at = jiff::Timestamp::from_microsecond(parts.enqueued_at_micros)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        out.push(b',');
        self.names(out, &[("enqueued_at", &enqueued_at.to_string())]);
    }
}
