//! A proxy before a broker, which holds, cuts and swallows the connections of one client, or the answers to one kind of request.
//!
//! ```text
//!   engine ──▶ port of the proxy ──▶ second listener of the node     (scripts/kafka.sh --proxy)
//!     ▲                                  │
//!     └──── metadata: "connect there" ───┘
//! ```
//!
//! Kafka's frames say what is needed: a request begins with its length, the number of its kind, a version, a correlation id and the name
//! of its client; an answer with its length and the correlation id. So one proxy serves every engine, and faults are for one of them.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The kind of request that ends a transaction.
pub(crate) const END_TXN: i16 = 26;

/// Nothing that Kafka sends is longer.
const FRAME_BYTES_MAX: usize = 128 << 20;

/// How the line of a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Line {
    /// Everything goes through.
    #[default]
    Whole,
    /// Nothing goes through, and nothing is lost.
    Held,
    /// Connections are closed, also new ones.
    Cut,
    /// Connections stay open, and what is sent on them is thrown away, both ways. They are closed once the line is something else.
    HalfOpen,
}

/// What becomes of a connection whose answer was swallowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is closed.
    Closed,
    /// It stays open, and nothing ever comes on it again.
    Silent,
}

/// Answers that never arrive: those of `times` requests of one kind, of one client.
#[derive(Clone, Debug)]
struct Swallow {
    client: String,
    kind: i16,
    times: usize,
    then: Then,
}

/// A proxy for the nodes of a broker. What goes through it ends when this is dropped.
pub(crate) struct Proxy {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: BTreeMap<String, Line>,
    swallows: Vec<Swallow>,
    swallowed: usize,
    connections: Vec<Arc<Connection>>,
    ended: bool,
}

/// A connection of a client, and that to the node behind it.
struct Connection {
    near: TcpStream,
    far: TcpStream,
    /// Known with the first request.
    client: Mutex<String>,
    /// The kinds of requests without an answer yet, by correlation id.
    asked: Mutex<BTreeMap<i32, i16>>,
    /// Whether something that was sent on it is lost, so that it can't go on.
    lossy: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Takes a port for each of so many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        let listeners = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        Self { listeners, shared: Arc::default() }
    }

    /// Its ports, one a node.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
    }

    /// Where clients find it.
    pub(crate) fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    /// Begins to serve: each port of its own leads to the port of a node.
    pub(crate) fn lead_to(&self, ports: &[u16]) {
        for (listener, &to) in self.listeners.iter().zip(ports) {
            let (listener, shared) = (listener.try_clone().unwrap(), Arc::clone(&self.shared));
            thread::spawn(move || {
                for near in listener.incoming() {
                    if locked(&shared.state).ended {
                        return;
                    }
                    // A node that is down: its client is told so by the end of the connection.
                    let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else { continue };
                    // One whose streams can't be copied has failed already.
                    drop(shared.connect(near, far));
                }
            });
        }
    }

    /// From now on the line of this client is so.
    pub(crate) fn set(&self, client: &str, line: Line) {
        let mut state = locked(&self.shared.state);
        state.lines.insert(client.to_owned(), line);
        for connection in state.connections.iter().filter(|connection| *locked(&connection.client) == client) {
            let is_lost = connection.lossy.load(Ordering::SeqCst) && line != Line::HalfOpen;
            if line == Line::Cut || is_lost {
                connection.close();
            }
        }
        self.shared.changed.notify_all();
    }

    /// Every line is whole, and no further answer is swallowed.
    pub(crate) fn mend(&self) {
        let clients: Vec<String> = {
            let mut state = locked(&self.shared.state);
            state.swallows.clear();
            state.lines.keys().cloned().collect()
        };
        clients.iter().for_each(|client| self.set(client, Line::Whole));
    }

    /// The answers to the next so many requests of this kind never reach this client. The requests reach the broker.
    pub(crate) fn swallow(&self, client: &str, kind: i16, times: usize, then: Then) {
        let swallow = Swallow { client: client.to_owned(), kind, times, then };
        locked(&self.shared.state).swallows.push(swallow);
    }

    /// Answers that were swallowed so far.
    pub(crate) fn swallowed(&self) -> usize {
        locked(&self.shared.state).swallowed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = locked(&self.shared.state);
        state.ended = true;
        state.connections.iter().for_each(|connection| connection.close());
        drop(state);
        self.shared.changed.notify_all();
        // So that whoever waits for a connection sees that it is over.
        for port in self.ports() {
            drop(TcpStream::connect(("127.0.0.1", port)));
        }
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, near: TcpStream, far: TcpStream) -> io::Result<()> {
        // Answers are small, and each is waited for.
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let connection =
            Connection { near, far, client: Mutex::default(), asked: Mutex::default(), lossy: false.into() };
        let connection = Arc::new(connection);
        locked(&self.state).connections.push(Arc::clone(&connection));
        for serve in [Self::requests, Self::answers] {
            let (shared, connection) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || {
                // However one direction ends, it is the end of both.
                drop(serve(&shared, &connection));
                connection.close();
                locked(&shared.state).connections.retain(|other| !Arc::ptr_eq(other, &connection));
            });
        }
        Ok(())
    }

    fn requests(&self, connection: &Connection) -> io::Result<()> {
        loop {
            let frame = read_frame(&connection.near)?;
            let Some(request) = Request::of(&frame) else { return Err(io::ErrorKind::InvalidData.into()) };
            *locked(&connection.client) = request.client;
            if self.goes_through(connection)? {
                locked(&connection.asked).insert(request.correlation, request.kind);
                (&connection.far).write_all(&frame)?;
            }
        }
    }

    fn answers(&self, connection: &Connection) -> io::Result<()> {
        loop {
            let frame = read_frame(&connection.far)?;
            let correlation = number(&frame, 4).ok_or(io::ErrorKind::InvalidData)?;
            let kind = locked(&connection.asked).remove(&correlation);
            match kind.and_then(|kind| self.swallows(connection, kind)) {
                Some(Then::Closed) => return Ok(()),
                Some(Then::Silent) => connection.lossy.store(true, Ordering::SeqCst),
                None => {}
            }
            if !connection.lossy.load(Ordering::SeqCst) && self.goes_through(connection)? {
                (&connection.near).write_all(&frame)?;
            }
        }
    }

    /// Waits while the line is held, and says whether what was sent on it arrives.
    fn goes_through(&self, connection: &Connection) -> io::Result<bool> {
        let client = locked(&connection.client).clone();
        let mut state = locked(&self.state);
        loop {
            let line = state.lines.get(&client).copied().unwrap_or_default();
            match line {
                _ if state.ended => return Err(io::ErrorKind::ConnectionAborted.into()),
                Line::Whole => return Ok(true),
                Line::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
                Line::HalfOpen => {
                    connection.lossy.store(true, Ordering::SeqCst);
                    return Ok(false);
                }
                Line::Held => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Whether the answer to a request of this kind is to be swallowed, and what then.
    fn swallows(&self, connection: &Connection, kind: i16) -> Option<Then> {
        let client = locked(&connection.client).clone();
        let mut state = locked(&self.state);
        let swallow = state
            .swallows
            .iter_mut()
            .find(|swallow| swallow.times > 0 && swallow.kind == kind && swallow.client == client)?;
        swallow.times -= 1;
        let then = swallow.then;
        state.swallowed += 1;
        Some(then)
    }
}

impl Connection {
    fn close(&self) {
        for stream in [&self.near, &self.far] {
            // Either may be closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// What the beginning of a request tells.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    kind: i16,
    correlation: i32,
    client: String,
}

impl Request {
    fn of(frame: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(i16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        let length = usize::try_from(short(12)?).ok()?;
        let client = String::from_utf8(frame.get(14..14 + length)?.to_vec()).ok()?;
        Some(Self { kind: short(4)?, correlation: number(frame, 8)?, client })
    }
}

fn number(frame: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?))
}

/// A request or an answer, with the four bytes of its length before it.
fn read_frame(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame)?;
    let length = number(&frame, 0).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= FRAME_BYTES_MAX).ok_or(io::ErrorKind::InvalidData)?;
    frame.resize(4 + length, 0);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

#[test]
fn the_beginning_of_a_request_tells_its_kind_and_its_client() {
    let frame = b"\x00\x00\x00\x0d\x00\x1a\x00\x01\x00\x00\x00\x07\x00\x03oneX";
    let request = Request { kind: END_TXN, correlation: 7, client: "one".to_owned() };
    assert_eq!(Request::of(frame), Some(request));
    for length in 0..17 {
        assert_eq!(Request::of(&frame[..length]), None, "{length} bytes");
    }
}
