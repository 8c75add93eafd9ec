use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use cpu_time::ProcessTime;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tower::{Layer, Service, ServiceExt};

use crate::{
    measure::{Effort, Spread, bounded, single_thread},
    report::{Line, Report},
    subjects::{Page, web_stack},
};

/// So many requests are made in a round, or as many as are in flight times
/// eight.
const REQUESTS: usize = 2048;

/// What one round found out.
struct Round {
    per_second: f64,
    /// Processor time of client and server for a request, in nanoseconds.
    burnt: f64,
    latencies: Vec<Duration>,
}

/// A client and a server on the loopback, bare and with the stack, in turns:
/// requests per second and latencies, and the processor time that a request
/// takes of client and server together.
///
/// # Errors
///
/// Those of the output, or of a listening socket.
pub fn http<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    let server = serve()?;
    for version in [1, 2] {
        for in_flight in [1, 32, 256] {
            compare(report, effort, server, version, in_flight)?;
        }
    }
    Ok(())
}

fn compare<W: Write>(
    report: &mut Report<W>,
    effort: &Effort,
    server: SocketAddr,
    version: u8,
    in_flight: usize,
) -> io::Result<()> {
    let runtime = single_thread();
    let names =
        ["bare", "weir: stack"].map(|name| format!("HTTP/{version} {name}, {in_flight} in flight"));
    let bare = client(version);
    let stacked = web_stack().ceiling(512).layer(client(version));
    let mut rounds = [Vec::new(), Vec::new()];
    // The first round opens the connections.
    for turn in 0..=effort.rounds {
        for step in 0..2 {
            let which = (turn + step) % 2;
            let round = match which {
                0 => bounded(&runtime, load(bare.clone(), server, in_flight)),
                _ => bounded(&runtime, load(stacked.clone(), server, in_flight)),
            };
            match round {
                Ok(round) if turn > 0 => rounds[which].push(round),
                Ok(_) => {}
                Err(error) => {
                    return report.line(Line::new("http", &names[which]).with("error", error));
                }
            }
        }
    }
    let median = |values: &mut dyn Iterator<Item = f64>| Spread::of(&values.collect::<Vec<_>>());
    let [ref bare, ref stacked] = rounds;
    let ratios = |of: fn(&Round) -> f64| {
        median(
            &mut bare
                .iter()
                .zip(stacked)
                .map(|(bare, stacked)| of(stacked) / of(bare)),
        )
    };
    let (throughput, burnt) = (
        ratios(|round| round.per_second),
        ratios(|round| round.burnt),
    );
    for (name, rounds) in names.iter().zip(&rounds) {
        let mut latencies: Vec<_> = rounds
            .iter()
            .flat_map(|round| round.latencies.iter().copied())
            .collect();
        latencies.sort_unstable();
        let at = |part: f64| {
            let index = (latencies.len().saturating_sub(1)) as f64 * part;
            latencies
                .get(index as usize)
                .map(|latency| latency.as_micros() as u64)
        };
        let per_second = median(&mut rounds.iter().map(|round| round.per_second));
        let mut line = Line::new("http", name)
            .with("per_second", per_second.map(|spread| spread.median.round()))
            .with("p50_us", at(0.5))
            .with("p99_us", at(0.99));
        line.nanos = median(&mut rounds.iter().map(|round| round.burnt));
        if name.contains("weir") {
            let three =
                |spread: Option<Spread>| spread.map(|spread| (spread.median * 1e3).round() / 1e3);
            line = line
                .with("throughput_over_bare", three(throughput))
                .with("cpu_over_bare", three(burnt));
        }
        report.line(line)?;
    }
    Ok(())
}

fn client<B>(version: u8) -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .http2_only(version == 2)
        .build(connector)
}

/// `in_flight` tasks that make requests one after the other.
async fn load<S, B>(service: S, server: SocketAddr, in_flight: usize) -> Result<Round, String>
where
    S: Service<Request<Page>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: fmt::Debug + Send,
    B: Body<Data = Bytes> + Send,
    B::Error: fmt::Debug,
{
    let each = (REQUESTS / in_flight).max(8);
    let (start, burnt) = (Instant::now(), ProcessTime::now());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let mut service = service.clone();
        let request = crate::subjects::request(&server.to_string());
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(each);
            for _ in 0..each {
                let start = Instant::now();
                let ready = service
                    .ready()
                    .await
                    .map_err(|error| format!("{error:?}"))?;
                let response = ready
                    .call(request.clone())
                    .await
                    .map_err(|error| format!("{error:?}"))?;
                let page = response.into_body().collect().await;
                page.map_err(|error| format!("{error:?}"))?;
                latencies.push(start.elapsed());
            }
            Ok::<_, String>(latencies)
        });
    }
    let mut latencies = Vec::with_capacity(each * in_flight);
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done.map_err(|error| error.to_string())??);
    }
    let requests = latencies.len() as f64;
    Ok(Round {
        per_second: requests / start.elapsed().as_secs_f64(),
        burnt: burnt.elapsed().as_secs_f64() * 1e9 / requests,
        latencies,
    })
}

/// A server of both versions, on a thread of its own for as long as the program
/// runs.
fn serve() -> io::Result<SocketAddr> {
    let (told, address) = mpsc::sync_channel(1);
    thread::spawn(move || {
        single_thread().block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let _ = told.send(listener.local_addr()?);
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(async move {
                    let answer = hyper::service::service_fn(answer);
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            #[allow(unreachable_code, reason = "it names the type of the errors above")]
            Ok::<(), io::Error>(())
        })
    });
    address.recv().map_err(io::Error::other)
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Page>, Infallible> {
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(Bytes::from_static(b"{}"))))
}
