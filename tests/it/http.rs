//! Metrics and health over a real socket.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use operators::clock::ManualClock;
use operators::health::Health;
use operators::observe::Observer;
use tidemill::http::{HttpError, Server};
use tidemill::metrics::Metrics;

struct Served {
    server: Server,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

fn served() -> Served {
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::new(Arc::new(ManualClock::new()), Arc::clone(&health)));
    let server = Server::start("127.0.0.1:0", Arc::clone(&metrics), Arc::clone(&health), None).unwrap();
    Served { server, metrics, health }
}

/// The answer to `GET path`: status line and headers, and body.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn metrics_are_served_as_open_metrics() {
    let Served { server, metrics, .. } = served();
    metrics.polled(7, 700);
    let (head, body) = get(server.address(), "/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.contains("tidemill_polled_records_total 7\n"), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[test]
fn a_process_that_is_not_ready_says_why_and_is_alive() {
    let Served { server, health, .. } = served();
    assert_eq!(get(server.address(), "/health/ready").1, "ready\n");
    health.set_unready("broker", "no answer \"for\" 12 s");
    let (head, body) = get(server.address(), "/health/ready");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let line: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    assert_eq!(line, serde_json::json!({ "condition": "broker", "reason": "no answer \"for\" 12 s" }));
    assert_eq!(get(server.address(), "/health/live").1, "live\n");
}

#[test]
fn a_process_beyond_help_is_not_alive() {
    let Served { server, health, .. } = served();
    health.record_fault("an outcome is missing");
    let (head, body) = get(server.address(), "/health/live");
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("an outcome is missing"), "{head} {body}");
}

#[test]
fn nothing_else_is_served() {
    let Served { server, .. } = served();
    assert!(get(server.address(), "/").0.starts_with("HTTP/1.1 404"));
}

/// Hyper alone would take this one.
#[test]
fn a_request_that_is_too_large_gets_no_answer() {
    let Served { server, .. } = served();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let request = format!("GET /health/live HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "x".repeat(96 << 10));
    // The connection may be closed before all of it is written.
    let written = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{written:?} {read:?} {}",
        String::from_utf8_lossy(&answer)
    );
}

#[test]
fn a_stopped_server_is_gone_also_while_a_connection_is_open() {
    let Served { server, .. } = served();
    let address = server.address();
    let _idle = TcpStream::connect(address).unwrap();
    server.stop();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let Served { server, metrics, health } = served();
    let taken = server.address().to_string();
    let error = Server::start(&taken, metrics, health, None).unwrap_err();
    assert!(matches!(&error, HttpError::Bind { address, .. } if *address == taken), "{error}");
}
