//! Pages that need nothing around them: how they begin, and how they look.

use std::fmt::{self, Write as _};

/// How a page looks.
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.6rem;margin-bottom:0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}p{max-width:46rem}\
.where{color:#666}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}\
.wide{overflow-x:auto}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}.bad{color:#b00020;font-weight:600}svg{max-width:100%;height:auto}\
.text{text-align:left;white-space:normal}";

/// Begins a page of this title, up to what its body holds.
///
/// # Errors
///
/// None: a text can be written to.
pub(crate) fn begin(page: &mut String, title: &str) -> fmt::Result {
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>",
        escape(title)
    )
}

/// A text as it stands in a page, whatever is in it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
