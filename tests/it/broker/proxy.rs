//! A proxy before a broker: it holds, cuts and swallows the connections of one client, or the answers to one kind of its requests.
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
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Kinds of requests, by Kafka's numbers: records, offsets are announced, a transaction is ended, and the offsets themselves.
pub(crate) const PRODUCE: i16 = 0;
pub(crate) const ADD_OFFSETS_TO_TXN: i16 = 25;
pub(crate) const END_TXN: i16 = 26;
pub(crate) const TXN_OFFSET_COMMIT: i16 = 28;

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

/// What happens to a single request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// It is done, and its answer is lost with the connection.
    CutAnswer,
    /// It is done, and neither its answer nor anything else ever comes on the connection again, which stays open.
    SwallowAnswer,
    /// It never reaches the broker. The answer is this error of Kafka's; only for kinds whose answer says nothing else.
    Refuse(i16),
    /// Its connection is cut, and it reaches the broker [when it is delivered](Proxy::deliver).
    Delay,
}

/// A trick that is played on the next `times` requests of one kind, of one client.
#[derive(Clone, Debug)]
struct Planned {
    client: String,
    kind: i16,
    times: usize,
    trick: Trick,
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
    planned: Vec<Planned>,
    connections: Vec<Arc<Connection>>,
    delayed: Vec<Delayed>,
    ended: bool,
}

/// A request that has not reached its node.
struct Delayed {
    client: String,
    frame: Vec<u8>,
    node: SocketAddr,
}

/// A connection of a client, and that to the node behind it.
struct Connection {
    near: TcpStream,
    far: TcpStream,
    /// Known with the first request.
    client: Mutex<String>,
    /// The tricks played on requests without an answer yet, by correlation id.
    asked: Mutex<BTreeMap<i32, Option<Trick>>>,
    /// Held while an answer is written: the proxy has some of its own.
    answering: Mutex<()>,
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
        for connection in state.connections.iter().filter(|connection| *locked(&connection.client) == client)
        {
            let is_lost = connection.lossy.load(Ordering::SeqCst) && line != Line::HalfOpen;
            if line == Line::Cut || is_lost {
                connection.close();
            }
        }
        self.shared.changed.notify_all();
    }

    /// The line of this client is whole, and no further trick is played on it.
    pub(crate) fn mend(&self, client: &str) {
        locked(&self.shared.state).planned.retain(|planned| planned.client != client);
        self.set(client, Line::Whole);
    }

    /// Plays a trick on the next so many requests of this kind, of this client.
    pub(crate) fn play(&self, client: &str, kind: i16, times: usize, trick: Trick) {
        let planned = Planned { client: client.to_owned(), kind, times, trick };
        locked(&self.shared.state).planned.push(planned);
    }

    /// Delivers what was delayed of this client, and returns the error code of each answer.
    pub(crate) fn deliver(&self, client: &str) -> Vec<i16> {
        let mut state = locked(&self.shared.state);
        let (due, kept) = std::mem::take(&mut state.delayed).into_iter().partition(|it| it.client == client);
        state.delayed = kept;
        drop(state);
        let deliver = |late: Delayed| {
            let node = TcpStream::connect(late.node).unwrap();
            (&node).write_all(&late.frame).unwrap();
            let at = Request::of(&late.frame).unwrap().error_at();
            let answer = read_frame(&node).unwrap();
            i16::from_be_bytes(answer[at..at + 2].try_into().unwrap())
        };
        Vec::into_iter(due).map(deliver).collect()
    }

    /// Tricks that are planned for this client and were not played yet.
    pub(crate) fn left(&self, client: &str) -> usize {
        let state = locked(&self.shared.state);
        state.planned.iter().filter(|planned| planned.client == client).map(|planned| planned.times).sum()
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
        let connection = Connection {
            near,
            far,
            client: Mutex::default(),
            asked: Mutex::default(),
            answering: Mutex::default(),
            lossy: false.into(),
        };
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
            locked(&connection.client).clone_from(&request.client);
            if !self.goes_through(connection)? {
                continue;
            }
            match self.trick(&request) {
                Some(Trick::Refuse(code)) => connection.answer(&request.refusal(code))?,
                Some(Trick::Delay) => {
                    let node = connection.far.peer_addr()?;
                    locked(&self.state).delayed.push(Delayed { client: request.client, frame, node });
                    return Ok(());
                }
                trick => {
                    locked(&connection.asked).insert(request.correlation, trick);
                    (&connection.far).write_all(&frame)?;
                }
            }
        }
    }

    fn answers(&self, connection: &Connection) -> io::Result<()> {
        loop {
            let frame = read_frame(&connection.far)?;
            let correlation = number(&frame, 4).ok_or(io::ErrorKind::InvalidData)?;
            match locked(&connection.asked).remove(&correlation).flatten() {
                Some(Trick::CutAnswer) => return Ok(()),
                Some(Trick::SwallowAnswer) => connection.lossy.store(true, Ordering::SeqCst),
                Some(Trick::Refuse(_) | Trick::Delay) | None => {}
            }
            if !connection.lossy.load(Ordering::SeqCst) && self.goes_through(connection)? {
                connection.answer(&frame)?;
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

    /// The trick that is to be played on this request.
    fn trick(&self, request: &Request) -> Option<Trick> {
        let is_meant = |planned: &&mut Planned| {
            planned.times > 0 && planned.kind == request.kind && planned.client == request.client
        };
        let mut state = locked(&self.state);
        let planned = state.planned.iter_mut().find(is_meant)?;
        planned.times -= 1;
        Some(planned.trick)
    }
}

impl Connection {
    fn answer(&self, frame: &[u8]) -> io::Result<()> {
        let _one_at_a_time = locked(&self.answering);
        (&self.near).write_all(frame)
    }

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
    version: i16,
    correlation: i32,
    client: String,
}

impl Request {
    fn of(frame: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(i16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        let length = usize::try_from(short(12)?).ok()?;
        let client = String::from_utf8(frame.get(14..14 + length)?.to_vec()).ok()?;
        Some(Self { kind: short(4)?, version: short(6)?, correlation: number(frame, 8)?, client })
    }

    /// Whether head and body of the answer each end with what later versions may add: from version 3 on, of the kinds here.
    fn is_flexible(&self) -> bool {
        self.version >= 3
    }

    /// Where the error is in the answer: behind its length, its number, and a pause.
    fn error_at(&self) -> usize {
        if self.is_flexible() { 13 } else { 12 }
    }

    /// An answer that is a pause of no time, and an error. Since version 5 the end of a transaction says who the producer is from now on.
    fn refusal(&self, code: i16) -> Vec<u8> {
        let nothing_added: &[u8] = if self.is_flexible() { &[0] } else { &[] };
        let nobody: &[u8] = if self.kind == END_TXN && self.version >= 5 { &[0xff; 10] } else { &[] };
        let parts = [
            &self.correlation.to_be_bytes()[..],
            nothing_added,
            &[0; 4],
            &code.to_be_bytes(),
            nobody,
            nothing_added,
        ];
        let body = parts.concat();
        [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
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
    let request = Request { kind: END_TXN, version: 1, correlation: 7, client: "one".to_owned() };
    assert_eq!(Request::of(frame), Some(request));
    for length in 0..17 {
        assert_eq!(Request::of(&frame[..length]), None, "{length} bytes");
    }
}
