//! Servers with one fault each.
//!
//! A [`Server`] meets every request with its [`Fault`], over HTTP/1 and HTTP/2
//! (by prior knowledge, told apart by the first octets) on one port of the
//! loopback. The bytes are written by hand, since no well-behaved server sends
//! most of them. A server may have its fault for the first requests only
//! ([`Server::start_for`]) or until it is told otherwise ([`Server::heal`]).
//! After that it answers 200; over HTTP/2 with an empty gRPC message and
//! `grpc-status: 0`, so that the same answer is good for a gRPC client.
//!
//! ```
//! use tower_weir_testkit::fault::{Fault, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let server = Server::start_for(Fault::CloseBeforeResponse, 2).await?;
//! println!("the first two requests to {} get no answer", server.url());
//! # Ok(())
//! # }
//! ```

mod http1;
mod http2;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use h2::Reason;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

use crate::net::{self, Port};

/// What goes wrong.
///
/// Over HTTP/1 a fault comes once the whole request has been read. Over HTTP/2
/// it comes at the request's headers, so that it also meets a call whose body
/// never ends; the two faults of the response's body come after the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing listens: connects are refused. The kernel does it, so it is not
    /// counted, and it ends only with [`Server::heal`].
    Refused,
    /// The connection is reset as soon as it is accepted. It is counted by
    /// connections. What a client makes of it depends on how far it is then: a
    /// connect error (mostly, when the server has a thread of its own), a request
    /// that was never sent, or a connection lost under it.
    ResetOnAccept,
    /// The request is read and the connection closed in order (FIN).
    CloseBeforeResponse,
    /// The request is read and the connection reset (RST).
    ResetBeforeResponse,
    /// The answer is not HTTP.
    GarbageHead,
    /// HTTP/2: GOAWAY with this code, naming a last stream below the request's
    /// (RFC 9113 section 6.8). Over HTTP/1 the answer is 505.
    GoAway(Reason),
    /// HTTP/2: RST_STREAM with this code (RFC 9113 section 6.4). Over HTTP/1
    /// the answer is 505.
    ResetStream(Reason),
    /// The request is read and never answered.
    Hang,
    /// A good answer whose ten octets of body come one at a time, each after
    /// this gap. The connection does nothing else meanwhile.
    SlowBody(Duration),
    /// A good answer that announces ten octets of body, of which five come
    /// before the connection is closed in order.
    CloseMidBody,
}

/// A server with a fault, on a port of the loopback. Dropping it stops it and
/// cuts its connections.
#[derive(Debug)]
pub struct Server {
    port: Port,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl Server {
    /// Starts a server that has its fault until [`Server::heal`].
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(fault: Fault) -> io::Result<Self> {
        Self::start_for(fault, u64::MAX).await
    }

    /// Starts a server that has its fault for the first `times` requests (or
    /// connections, for [`Fault::ResetOnAccept`]).
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start_for(fault: Fault, times: u64) -> io::Result<Self> {
        let server = Self {
            port: Port::reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?,
            shared: Arc::new(Shared {
                fault,
                left: Mutex::new(times),
                connections: watch::Sender::new(0),
                requests: watch::Sender::new(0),
            }),
            tasks: Mutex::new(JoinSet::new()),
        };
        if fault != Fault::Refused {
            server.listen()?;
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The address as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        *self.shared.connections.borrow()
    }

    /// Requests seen so far: over HTTP/1 those read whole, over HTTP/2 those
    /// whose headers have been read.
    pub fn requests(&self) -> u64 {
        *self.shared.requests.borrow()
    }

    /// Waits until `count` connections have been accepted.
    pub async fn connections_reach(&self, count: u64) {
        reach(&self.shared.connections, count).await;
    }

    /// Waits until `count` requests have been seen.
    pub async fn requests_reach(&self, count: u64) {
        reach(&self.shared.requests, count).await;
    }

    /// Ends the fault: later requests get good answers.
    ///
    /// # Errors
    /// When a server that refused connections cannot listen.
    pub fn heal(&self) -> io::Result<()> {
        *lock(&self.shared.left) = 0;
        let refusing = lock(&self.tasks).is_empty();
        if refusing { self.listen() } else { Ok(()) }
    }

    fn listen(&self) -> io::Result<()> {
        let listener = self.port.listen()?;
        let shared = Arc::clone(&self.shared);
        lock(&self.tasks).spawn(net::serve(listener, move |stream| {
            let shared = Arc::clone(&shared);
            async move {
                // how a connection ends is the client's to judge
                let _ = shared.connection(stream).await;
            }
        }));
        Ok(())
    }
}

#[derive(Debug)]
struct Shared {
    fault: Fault,
    left: Mutex<u64>,
    connections: watch::Sender<u64>,
    requests: watch::Sender<u64>,
}

impl Shared {
    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.connections.send_modify(|count| *count += 1);
        if self.fault == Fault::ResetOnAccept && self.strikes() {
            return reset(&stream);
        }
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().await?.starts_with(b"PRI") {
            http2::serve(stream, self).await
        } else {
            http1::serve(stream, self).await
        }
    }

    /// Counts a request and tells what it meets: `None` is a good answer.
    fn request(&self) -> Option<Fault> {
        self.requests.send_modify(|count| *count += 1);
        (self.fault != Fault::ResetOnAccept && self.strikes()).then_some(self.fault)
    }

    fn strikes(&self) -> bool {
        let mut left = lock(&self.left);
        match *left {
            0 => false,
            u64::MAX => true,
            _ => {
                *left -= 1;
                true
            }
        }
    }
}

async fn reach(counter: &watch::Sender<u64>, count: u64) {
    let mut counter = counter.subscribe();
    // the sender is borrowed, so it cannot be gone
    let _ = counter.wait_for(|seen| *seen >= count).await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the close that follows a reset.
fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()
}

/// Closes in order: what still arrives is read, since closing with unread data
/// sends a reset instead of a FIN.
async fn close(mut stream: BufReader<TcpStream>) -> io::Result<()> {
    stream.shutdown().await?;
    let mut scrap = [0; 4096];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}
