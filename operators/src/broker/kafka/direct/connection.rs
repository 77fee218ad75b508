//! A connection to a broker, on which one question at a time is under way.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, StrBytes};

use super::request::{Ask, Kind};
use crate::broker::kafka::bounded;
use crate::clock::{Clock, Moment, SystemClock};

/// How long a broker may take nothing of what is written.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// No answer to a question of ours is longer: librdkafka's bound, which leaves room for the largest batch.
const ANSWER_BYTES_MAX: usize = 100_000_000;
/// Of what is to come so much room is made at once.
const ROOM_MAX: usize = 4 << 20;
/// A broker closes a connection on which nothing happened for ten minutes; ours are closed before, while nothing is under way.
const IDLE_MAX: Duration = Duration::from_mins(4);

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    client: StrBytes,
    correlation: i32,
    /// Room for the answer, its length included, cleared once.
    arrived: Vec<u8>,
    /// How much of it has come.
    filled: usize,
    /// The last answer's, which is used again once nobody holds a part of it.
    lent: Bytes,
    asked: Option<Kind>,
    used: Moment,
}

impl Connection {
    /// Connects to `host:port` within `wait`.
    ///
    /// # Errors
    ///
    /// If none of its addresses could be reached in time.
    pub(super) fn new(
        address: &str,
        client: &StrBytes,
        clock: &SystemClock,
        wait: Duration,
    ) -> io::Result<Self> {
        let until = clock.now().after(wait);
        let left = || until.since(clock.now()).max(Duration::from_millis(1));
        // Whoever resolves names has bounds of his own, which are long.
        let resolve = {
            let address = address.to_owned();
            move || address.to_socket_addrs()
        };
        let Some(addresses) = bounded::within(left(), resolve)? else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its name was not resolved in time"));
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for address in addresses? {
            match Self::to(address, client, clock, left()) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn to(address: SocketAddr, client: &StrBytes, clock: &SystemClock, wait: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, wait)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_MAX))?;
        Ok(Self {
            stream,
            client: client.clone(),
            correlation: 0,
            arrived: Vec::new(),
            filled: 0,
            lent: Bytes::new(),
            asked: None,
            used: clock.now(),
        })
    }

    /// Whether it may be used: nothing is under way on it, and it was used not long ago.
    pub(super) fn is_fresh(&self, clock: &SystemClock) -> bool {
        self.asked.is_none() && clock.now().since(self.used) < IDLE_MAX
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// If the connection is of no more use. What became of the request is not known.
    pub(super) fn ask<A: Ask>(&mut self, request: &A, clock: &SystemClock) -> io::Result<()> {
        let Kind { key, version } = A::KIND;
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(self.client.clone()));
        let header_version = A::header_version(version);
        let length = header
            .compute_size(header_version)
            .and_then(|size| Ok(size + request.compute_size(version)?))
            .map_err(io::Error::other)?;
        let mut frame = BytesMut::with_capacity(length + 4);
        frame.put_i32(i32::try_from(length).map_err(io::Error::other)?);
        header
            .encode(&mut frame, header_version)
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(io::Error::other)?;
        // Its pages are there already, and hold nothing that has to be cleared.
        if let Ok(room) = std::mem::take(&mut self.lent).try_into_mut()
            && room.capacity() <= ROOM_MAX
        {
            self.arrived = room.into();
        }
        self.asked = Some(A::KIND);
        self.used = clock.now();
        self.stream.write_all(&frame)
    }

    /// The answer to what was asked last, if it comes within `wait`.
    ///
    /// # Errors
    ///
    /// If the connection is of no more use, or what came is no answer to it.
    pub(super) fn answer<A: Ask>(
        &mut self,
        wait: Duration,
        clock: &SystemClock,
    ) -> io::Result<Option<A::Answer>> {
        let until = clock.now().after(wait);
        while self.missing()? > 0 {
            let left = until.since(clock.now());
            if !self.read(left)? && left.is_zero() {
                return Ok(None);
            }
        }
        self.lent = Bytes::from(std::mem::take(&mut self.arrived));
        let mut answer = self.lent.slice(4..self.filled);
        self.filled = 0;
        self.used = clock.now();
        let Some(Kind { version, .. }) = self.asked.take() else {
            return Err(foreign("an answer to nothing"));
        };
        let header =
            ResponseHeader::decode(&mut answer, A::Answer::header_version(version)).map_err(foreign)?;
        if header.correlation_id != self.correlation {
            return Err(foreign("an answer to another question"));
        }
        A::Answer::decode(&mut answer, version).map(Some).map_err(foreign)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`] and [`Self::answer`], and if none came in time.
    pub(super) fn call<A: Ask>(
        &mut self,
        request: &A,
        wait: Duration,
        clock: &SystemClock,
    ) -> io::Result<A::Answer> {
        self.ask(request, clock)?;
        self.answer::<A>(wait, clock)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", wait.as_millis()))
        })
    }

    /// How many bytes of the answer have come.
    pub(super) fn come(&self) -> usize {
        self.filled
    }

    /// How many bytes the answer lacks, as far as that is known.
    fn missing(&self) -> io::Result<usize> {
        let Some(length) = self.arrived[..self.filled].first_chunk::<4>() else { return Ok(4 - self.filled) };
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(foreign)?;
        if length > ANSWER_BYTES_MAX {
            return Err(foreign(format!("an answer of {length} bytes")));
        }
        Ok((length + 4).saturating_sub(self.filled))
    }

    /// Reads something of the answer; whether anything came within `wait`.
    fn read(&mut self, wait: Duration) -> io::Result<bool> {
        let missing = self.missing()?;
        let end = self.filled + missing.min(ROOM_MAX);
        if self.arrived.len() < end {
            self.arrived.resize(end, 0);
        }
        let room = &mut self.arrived[self.filled..end];
        let read = if wait.is_zero() {
            self.stream.set_nonblocking(true)?;
            let read = self.stream.read(room);
            self.stream.set_nonblocking(false)?;
            read
        } else {
            self.stream.set_read_timeout(Some(wait))?;
            self.stream.read(room)
        };
        self.filled += *read.as_ref().unwrap_or(&0);
        match read {
            Ok(0) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker has closed the connection"))
            }
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// What came is not what a broker says.
fn foreign(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse};

    use super::*;

    /// A minute is never over in these tests.
    const LONG: Duration = Duration::from_mins(1);

    /// The answer to the first question of a connection: epoch 8 of producer 7.
    const ANSWER: [u8; 26] = [
        0, 0, 0, 22, // so long is it
        0, 0, 0, 1, 0, // the number of the question
        0, 0, 0, 0, 0, 0, // no pause, no error
        0, 0, 0, 0, 0, 0, 0, 7, 0, 8, 0,
    ];

    /// A broker that reads one question, and then writes these pieces, each a while after the one before.
    fn asked(pieces: Vec<Vec<u8>>) -> (Connection, SystemClock, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let broker = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).unwrap();
            for piece in pieces {
                std::thread::sleep(Duration::from_millis(2));
                stream.write_all(&piece).unwrap();
            }
        });
        let clock = SystemClock::new();
        let client = StrBytes::from_static_str("test");
        let mut connection = Connection::new(&address, &client, &clock, LONG).unwrap();
        connection.ask(&EndTxnRequest::default(), &clock).unwrap();
        (connection, clock, broker)
    }

    fn answered(pieces: Vec<Vec<u8>>) -> io::Result<Option<EndTxnResponse>> {
        let (mut connection, clock, broker) = asked(pieces);
        let answer = connection.answer::<EndTxnRequest>(LONG, &clock);
        broker.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_that_comes_in_pieces_is_waited_for_as_long_as_is_asked() {
        let (mut connection, clock, broker) = asked(ANSWER.iter().map(|byte| vec![*byte]).collect());
        assert!(!connection.is_fresh(&clock));
        let mut looks = 0;
        let answer = loop {
            looks += 1;
            if let Some(answer) = connection.answer::<EndTxnRequest>(Duration::ZERO, &clock).unwrap() {
                break answer;
            }
        };
        assert_eq!((answer.producer_id.0, answer.producer_epoch, answer.error_code), (7, 8, 0));
        assert!(looks > 1 && connection.is_fresh(&clock));
        broker.join().unwrap();
        assert_eq!(answered(vec![ANSWER.to_vec()]).unwrap(), Some(answer));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let with = |at: usize, byte: u8| {
            let mut answer = ANSWER;
            answer[at] = byte;
            vec![answer.to_vec()]
        };
        let kind = |pieces| answered(pieces).unwrap_err().kind();
        assert_eq!(kind(with(0, 0x40)), io::ErrorKind::InvalidData, "a gigabyte is no answer");
        assert_eq!(kind(with(0, 0xff)), io::ErrorKind::InvalidData, "less than nothing is none");
        assert_eq!(kind(with(7, 2)), io::ErrorKind::InvalidData, "it is to another question");
        assert_eq!(kind(with(3, 12)), io::ErrorKind::InvalidData, "it is too short for what it is to");
        assert_eq!(kind(vec![ANSWER[..20].to_vec()]), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(Vec::new()), io::ErrorKind::UnexpectedEof);
    }
}
