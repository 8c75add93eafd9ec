//! A seed replays a whole run: 10,000 requests through the stack and a real
//! HTTP/1 client to servers that throttle, break and die, on paused time.
#![cfg(all(feature = "weir", feature = "hyper"))]

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::{self, Write as _},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, rt, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use tokio::{
    io::DuplexStream,
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Service, ServiceBuilder};
use tower_weir::{BoxError, Weir, retry::Retried};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

const REQUESTS: usize = 10_000;
const CLIENTS: u64 = 64;
const HOSTS: usize = 4;
const SLOTS: usize = 6;

/// Everything that happened, in its order, a line each.
#[derive(Clone)]
struct Trace {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    fn line(&self, line: fmt::Arguments<'_>) {
        let at = self.start.elapsed().as_micros();
        self.lines.lock().unwrap().push(format!("{at} {line}"));
    }
}

/// What the layers tell of retries, limits and circuits.
impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_weir")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.line(format_args!("event{}", fields.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A connection within the process.
struct Pipe(TokioIo<DuplexStream>);

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl rt::Read for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl rt::Write for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One host's server: it has so many slots, and a seed for its moods.
struct Server {
    name: usize,
    busy: AtomicUsize,
    random: Mutex<Xoshiro256PlusPlus>,
    trace: Trace,
}

impl Server {
    async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, BoxError> {
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.answer(request, busy).await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        let status = answer.as_ref().map(Response::status).ok();
        let name = self.name;
        self.trace.line(format_args!("server {name} {status:?}"));
        answer
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        busy: usize,
    ) -> Result<Response<Full<Bytes>>, BoxError> {
        let (mood, millis) = {
            let mut random = self.random.lock().unwrap();
            (random.random_range(0..1000), random.random_range(5..40))
        };
        let sent = request.into_body().collect().await?.to_bytes();
        let now = self.trace.start.elapsed();
        let dead =
            self.name == 2 && (Duration::from_secs(3)..Duration::from_secs(9)).contains(&now);
        let response = Response::builder();
        if dead || busy > SLOTS {
            sleep(Duration::from_millis(1)).await;
            let status = if dead {
                StatusCode::BAD_GATEWAY
            } else {
                StatusCode::TOO_MANY_REQUESTS
            };
            return Ok(response.status(status).body(Full::default())?);
        }
        sleep(Duration::from_millis(millis)).await;
        match mood {
            // The connection is closed instead of an answer.
            0..10 => Err("a bad mood".into()),
            10..20 => Ok(response.status(500).body("broken".into())?),
            20..25 => Ok(response
                .status(503)
                .header("retry-after", "1")
                .body(Full::default())?),
            _ => Ok(response.body(Full::new(sent))?),
        }
    }
}

/// Connects to the server that the URI names.
#[derive(Clone)]
struct Connector(Arc<HashMap<String, Arc<Server>>>);

impl Service<Uri> for Connector {
    type Response = Pipe;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Pipe, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (near, far) = tokio::io::duplex(4096);
        let server = self.0[uri.host().unwrap_or_default()].clone();
        let service = service_fn(move |request| server.clone().serve(request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(far), service));
        std::future::ready(Ok(Pipe(TokioIo::new(near))))
    }
}

async fn simulate(seed: u64, trace: Trace) {
    let server = |name| {
        let server = Server {
            name,
            busy: AtomicUsize::new(0),
            random: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(seed * 1000 + name as u64)),
            trace: trace.clone(),
        };
        (format!("host-{name}"), Arc::new(server))
    };
    let servers = Connector(Arc::new((0..HOSTS).map(server).collect()));
    let client = Client::builder(TokioExecutor::new()).build(servers);
    let weir = Weir::http().seed(seed).any_method();
    let service = ServiceBuilder::new().layer(weir.clone()).service(client);
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (mut service, next, trace) = (service.clone(), next.clone(), trace.clone());
        let mut random = Xoshiro256PlusPlus::seed_from_u64(!(seed * 1000 + number));
        clients.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= REQUESTS {
                    return;
                }
                sleep(Duration::from_millis(random.random_range(0..80))).await;
                let host = random.random_range(0..HOSTS);
                let body = Full::new(Bytes::from(vec![b'v'; random.random_range(1..9000)]));
                let request = Request::post(format!("http://host-{host}/")).body(body);
                match service.call(request.unwrap()).await {
                    Ok(answer) => {
                        let (head, body) = answer.into_parts();
                        let read = body.collect().await.map(|body| body.to_bytes().len());
                        let attempts = head.extensions.get::<Retried>().map(|r| r.attempts);
                        let status = head.status;
                        trace.line(format_args!("{n} {host} {status} {read:?} {attempts:?}"));
                    }
                    Err(error) => trace.line(format_args!("{n} {host} {error}")),
                }
            }
        });
    }
    clients.join_all().await;
    for host in weir.snapshot() {
        let slots = host.limiter.unwrap();
        assert_eq!((slots.in_flight, host.waiting), (0, 0), "{}", host.host);
    }
}

fn run(seed: u64) -> Vec<String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let trace = Trace {
            start: Instant::now(),
            lines: Arc::default(),
        };
        let _told = tracing::subscriber::set_default(trace.clone());
        simulate(seed, trace.clone()).await;
        std::mem::take(&mut *trace.lines.lock().unwrap())
    })
}

#[test]
fn one_seed_gives_one_trace_and_another_another() {
    let first = run(1);
    let count = |what: &str| first.iter().filter(|line| line.contains(what)).count();
    // All of it took place: answers, throttling, retries, an opened circuit.
    let answers = first
        .iter()
        .filter(|line| !line.contains(" event ") && !line.contains(" server "));
    assert_eq!(answers.count(), REQUESTS);
    for what in [
        "429",
        "502",
        "503",
        "retrying",
        "concurrency limit changed",
        "circuit opened",
        "circuit open for host-2",
        "Some(2)",
        "to=\"closed\"",
    ] {
        assert!(count(what) > 0, "no {what}");
    }
    let again = run(1);
    for (n, (one, two)) in first.iter().zip(&again).enumerate() {
        assert_eq!(one, two, "line {n}");
    }
    assert_eq!(first.len(), again.len());
    assert_ne!(first, run(2));
}
