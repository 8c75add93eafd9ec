use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use axum::{Extension, Router, extract::Request, middleware, response::Response, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};
use tower_weir::server::{AdmissionLayer, Delayed};

use super::served::CONNECTIONS;
use crate::{
    measure::{Effort, single_thread},
    report::{Line, Report},
};

/// How long it is loaded in a round.
const ROUND: Duration = Duration::from_millis(500);

const REQUEST: &[u8] =
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// What an operation takes in the overload, how many run at once and are
/// pending, and how long they are delayed.
const WORK: Duration = Duration::from_millis(100);
const RUNNING: usize = 16;
const PENDING: usize = 128;
const MAX_DELAY: Duration = Duration::from_millis(500);

/// An axum server on a thread of its own, for as long as the program runs.
struct Served {
    addr: SocketAddr,
}

impl Served {
    fn new<F>(serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>>,
    {
        let (told, address) = mpsc::sync_channel(1);
        thread::spawn(move || {
            single_thread().block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
                let _ = told.send(listener.local_addr()?);
                serve(listener).await
            })
        });
        let addr = address.recv().map_err(io::Error::other)?;
        Ok(Self { addr })
    }

    async fn connect(&self) -> io::Result<Vec<TcpStream>> {
        let mut streams = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(self.addr).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        Ok(streams)
    }
}

/// What a connection has been answered.
#[derive(Default)]
struct Answers {
    accepted: Vec<Duration>,
    rejected: usize,
}

/// One request after the other, until the time is over.
async fn ask(mut stream: TcpStream, until: Instant) -> io::Result<(TcpStream, Answers)> {
    let mut answers = Answers::default();
    let mut buffer = vec![0; 4096];
    while Instant::now() < until {
        let start = Instant::now();
        stream.write_all(REQUEST).await?;
        // An answer is far smaller than what is read at once.
        let length = stream.read(&mut buffer).await?;
        match buffer[..length].get(9..12) {
            Some(b"200") => answers.accepted.push(start.elapsed()),
            Some(b"429") => answers.rejected += 1,
            _ => {
                let answer = String::from_utf8_lossy(&buffer[..length]);
                return Err(io::Error::other(answer.into_owned()));
            }
        }
    }
    Ok((stream, answers))
}

async fn load(streams: Vec<TcpStream>, time: Duration) -> io::Result<(Vec<TcpStream>, Answers)> {
    let until = Instant::now() + time;
    let mut tasks: JoinSet<_> = streams
        .into_iter()
        .map(|stream| ask(stream, until))
        .collect();
    let (mut streams, mut all) = (Vec::new(), Answers::default());
    while let Some(done) = tasks.join_next().await {
        let (stream, answers) = done.map_err(io::Error::other)??;
        streams.push(stream);
        all.accepted.extend(answers.accepted);
        all.rejected += answers.rejected;
    }
    Ok((streams, all))
}

/// What the server itself has seen of an operation that it has accepted.
#[derive(Clone, Copy)]
struct Seen {
    delay: Duration,
    /// In the handler, by its own clock.
    service: Duration,
    /// From the request's head to the response's.
    whole: Duration,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    fn note(&self, seen: Seen) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells the delay and how long the handler really took: a timer of 100 ms on a busy
/// thread takes longer.
async fn work(
    delayed: Option<Extension<Delayed>>,
) -> (Extension<(Duration, Duration)>, &'static str) {
    let start = Instant::now();
    sleep(WORK).await;
    let delay = delayed.map_or(Duration::ZERO, |delayed| delayed.0.0);
    (Extension((delay, start.elapsed())), "stored")
}

async fn watch(log: Log, request: Request, next: middleware::Next) -> Response {
    let start = Instant::now();
    let response = next.run(request).await;
    let whole = start.elapsed();
    if let Some((delay, service)) = response.extensions().get().copied() {
        log.note(Seen {
            delay,
            service,
            whole,
        });
    }
    response
}

/// An axum server with admission that 256 connections send more than it can do, for
/// half a second a round.
///
/// # Errors
///
/// Those of the output, or of the sockets.
pub fn server<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    let log = Log::default();
    let layer = AdmissionLayer::new()
        .throttle_at(RUNNING)
        .reject_at(PENDING)
        .max_delay(MAX_DELAY);
    let watched = {
        let log = log.clone();
        middleware::from_fn(move |request, next| watch(log.clone(), request, next))
    };
    let routes = Router::new().route("/", post(work));
    let routes = routes.layer(layer).layer(watched);
    let before = resident();
    let served = Served::new(async |listener| axum::serve(listener, routes).await)?;
    let time = ROUND * u32::try_from(effort.rounds).unwrap_or(u32::MAX);
    let name = "axum, 256 connections: weir: overload";
    let found = single_thread().block_on(async {
        let streams = served.connect().await?;
        let (streams, _) = load(streams, time / 4).await?;
        log.take();
        let begun = resident();
        let (streams, mut answers) = load(streams, time / 2).await?;
        let half = resident();
        let (streams, more) = load(streams, time / 2).await?;
        answers.accepted.extend(more.accepted);
        answers.rejected += more.rejected;
        let end = resident();
        drop(streams);
        io::Result::Ok((answers, [before, begun, half, end]))
    });
    let (answers, resident) = match found {
        Ok(found) => found,
        Err(error) => {
            return report.line(Line::new("server", name).with("error", error.to_string()));
        }
    };
    let seen = log.take();
    let of = |time: fn(&Seen) -> Duration| seen.iter().map(time).collect();
    let mut line = Line::new("server", name)
        .with("accepted", answers.accepted.len())
        .with("rejected", answers.rejected)
        .with("max_delay_ms", MAX_DELAY.as_millis() as u64);
    for (what, mut times) in [
        ("delay", of(|seen| seen.delay)),
        ("service", of(|seen| seen.service)),
        ("in_server", of(|seen| seen.whole)),
        // The bound, for each with its own service; and what came on top of that.
        ("bound", of(|seen| MAX_DELAY + seen.service)),
        (
            "beyond_bound",
            of(|seen| seen.whole.saturating_sub(MAX_DELAY + seen.service)),
        ),
        (
            "beyond_delay_and_service",
            of(|seen| seen.whole.saturating_sub(seen.delay + seen.service)),
        ),
        ("at_client", answers.accepted),
    ] {
        times.sort_unstable();
        for (name, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let at = (times.len().saturating_sub(1)) as f64 * part;
            let time = times
                .get(at as usize)
                .map(|time| time.as_micros() as f64 / 1e3);
            line = line.with(&format!("{what}_{name}_ms"), time);
        }
    }
    let moments = ["before", "loaded", "half_way", "at_the_end"];
    for (moment, kib) in moments.into_iter().zip(resident) {
        line = line.with(&format!("resident_kib_{moment}"), kib);
    }
    report.line(line)
}

/// The memory that the process has, with its load generator; `None` where the
/// system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
