//! `/metrics`, `/health/live`, `/health/ready` and `/capacity`, on a thread of their own.
//!
//! Whoever connects gets little: a bounded number of connections, each for a bounded time and a bounded number of bytes read. A probe
//! or a scraper that keeps its connection open makes a new one when that time is over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use dataflows::capacity::Report;
use operators::health::Health;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use crate::capacity::{Kept, Shown as AutopilotShown, setup_line, tick_line};
use crate::metrics::{CONTENT_TYPE, Metrics};

/// Connections at once; a further one waits.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection lives.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes read from a connection: requests here have no body.
const CONNECTION_BYTES_MAX: usize = 64 << 10;

/// How long requests under way have at the end.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

/// How long accepting waits after it failed: the process may be out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address can't be listened at.
    #[error("could not listen at {address}: {source}")]
    Bind {
        /// `http.address`.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The thread could not be started.
    #[error("could not start the HTTP server: {0}")]
    Start(io::Error),
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `address`, and answers from its own thread.
    ///
    /// # Errors
    ///
    /// If the address can't be listened at.
    pub fn start(
        address: &str,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        capacity: Option<Arc<Kept>>,
    ) -> Result<Self, HttpError> {
        let bind_error = |source| HttpError::Bind { address: address.to_owned(), source };
        let socket = TcpListener::bind(address).map_err(bind_error)?;
        socket.set_nonblocking(true).map_err(bind_error)?;
        let bound = socket.local_addr().map_err(bind_error)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::Start)?;
        let (stop, stopped) = watch::channel(false);
        let router = router(metrics, health, capacity);
        let run = move || {
            if let Err(error) = runtime.block_on(serve(socket, router, stopped)) {
                tracing::error!(%error, "the HTTP server ended");
            }
        };
        let thread =
            std::thread::Builder::new().name("http".to_owned()).spawn(run).map_err(HttpError::Start)?;
        tracing::info!(address = %bound, "metrics and health are served");
        Ok(Self { address: bound, stop, thread: Some(thread) })
    }

    /// Where it listens: the port too, if any was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: requests under way have a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP server had panicked");
        }
    }
}

async fn serve(socket: TcpListener, router: Router, stopped: watch::Receiver<bool>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let bounded = Bounded { listener, connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let server = axum::serve(bounded, router).with_graceful_shutdown(until_stopped(stopped.clone()));
    let server = tokio::spawn(server.into_future());
    until_stopped(stopped).await;
    // What is under way after that ends with the runtime.
    match tokio::time::timeout(STOP_TIME_MAX, server).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(io::Error::other(panicked)),
        Err(_late) => Ok(()),
    }
}

/// Ends when it was told to stop, and when nobody is left who could tell.
async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    let told = stopped.wait_for(|stopped| *stopped).await.is_ok();
    tracing::debug!(told, "the HTTP server stops");
}

#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    capacity: Option<Arc<Kept>>,
}

fn router(metrics: Arc<Metrics>, health: Arc<Health>, capacity: Option<Arc<Kept>>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/capacity", get(capacity_report))
        .route("/capacity/ticks", get(capacity_ticks))
        .with_state(Shown { metrics, health, capacity })
}

async fn metrics_page(State(shown): State<Shown>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], shown.metrics.text()).into_response()
}

async fn live(State(shown): State<Shown>) -> Response {
    answer(&shown, "live", shown.health.is_live())
}

async fn ready(State(shown): State<Shown>) -> Response {
    answer(&shown, "ready", shown.health.is_ready())
}

/// A report, and what was done about it.
#[derive(Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    autopilot: Option<Arc<AutopilotShown>>,
}

/// What was found last, as one object; before the first second is over there is nothing.
async fn capacity_report(State(shown): State<Shown>) -> Response {
    let Some(capacity) = shown.capacity else { return StatusCode::NOT_FOUND.into_response() };
    match capacity.report() {
        Some(report) => {
            let with_autopilot = Found { report: &report, autopilot: capacity.autopilot() };
            let text = serde_json::to_string(&with_autopilot).expect("it has texts for keys");
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// What was seen after a moment, as a trace.
async fn capacity_ticks(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let Some(capacity) = shown.capacity else { return StatusCode::NOT_FOUND.into_response() };
    let query = query.unwrap_or_default();
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after=")?.parse().ok());
    let mut text = setup_line(&capacity.setup());
    for tick in capacity.ticks_after(after.unwrap_or(i64::MIN)) {
        text.push_str(&tick_line(&tick));
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response()
}

/// One word if all is well; else each condition as a line of JSON.
fn answer(shown: &Shown, word: &str, is_well: bool) -> Response {
    if is_well {
        return format!("{word}\n").into_response();
    }
    let line = |(condition, reason): (String, String)| {
        format!("{}\n", serde_json::json!({ "condition": condition, "reason": reason }))
    };
    let lines: String = shown.health.reasons().into_iter().map(line).collect();
    (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

/// Takes a bounded number of connections.
struct Bounded {
    listener: tokio::net::TcpListener,
    connections: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit =
            Arc::clone(&self.connections).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let ends = Box::pin(tokio::time::sleep(CONNECTION_TIME_MAX));
                    return (
                        Connection { stream, ends, bytes_left: CONNECTION_BYTES_MAX, _permit: permit },
                        peer,
                    );
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself.
struct Connection {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    bytes_left: usize,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn check_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ends.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        let read = into.filled().len() - before;
        match self.bytes_left.checked_sub(read) {
            Some(left) => self.bytes_left = left,
            None => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
