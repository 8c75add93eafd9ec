//! Everything at once, on four threads and by the real clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};
use tower_weir::{BoxError, Weir, aimd::AimdConcurrencyLayer, circuit_breaker::State};

use crate::support::{Chunks, End, get_from, ms, secs, within};

const HOSTS: usize = 8;
const LIMIT: usize = 3;
/// So much is served at least, however long a busy machine takes.
const ENOUGH: usize = 1000;

type Served = Arc<AtomicUsize>;

/// What is at work for one host, and the most there ever was.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

struct Entered(Arc<Gauge>);

impl Gauge {
    fn enter(self: &Arc<Self>) -> Entered {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        Entered(self.clone())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves in up to 300 us, sometimes fails, sometimes hangs for longer than
/// the attempt's timeout.
async fn serve<B>(
    request: Request<B>,
    gauges: Arc<Vec<Arc<Gauge>>>,
    served: Served,
) -> Result<Response<Chunks>, BoxError> {
    let port = request.uri().port_u16().unwrap_or_default();
    let entered = gauges[usize::from(port)].enter();
    let mut random: SmallRng = rand::make_rng();
    match random.random_range(0..20) {
        0 => return Err("broken".into()),
        1 => sleep(ms(50)).await,
        2..6 => tokio::task::yield_now().await,
        _ => sleep(Duration::from_micros(random.random_range(1..300))).await,
    }
    drop(entered);
    served.fetch_add(1, Ordering::Relaxed);
    let frames = random.random_range(0..2);
    Ok(Response::new(Chunks::new(frames, ms(0), End::Clean)))
}

/// Calls random hosts until the time is up and much was served, giving up at
/// random moments.
async fn client<S, B>(mut service: S, number: u64, until: Instant, served: Served) -> usize
where
    S: Service<Request<Chunks>, Response = Response<B>, Error = BoxError> + Clone,
    B: http_body::Body<Error = BoxError>,
{
    let mut random = SmallRng::seed_from_u64(number);
    let mut done = 0;
    let goes_on = |now| {
        let some_left = served.load(Ordering::Relaxed) < ENOUGH;
        now < until || some_left && now < until + secs(60)
    };
    while goes_on(Instant::now()) {
        let host = random.random_range(0..HOSTS);
        if random.random_bool(0.2) {
            service = service.clone();
        }
        let call = service.call(get_from(&format!("http://host:{host}/")));
        let patience = match random.random_range(0..4) {
            0 => Duration::ZERO,
            1 => Duration::from_micros(random.random_range(0..2000)),
            _ => secs(5),
        };
        let body = random.random_bool(0.8);
        let whole = within(patience, async {
            let answer = call.await?;
            if body {
                answer.into_body().collect().await?;
            }
            Ok::<_, BoxError>(())
        });
        done += usize::from(whole.await.is_some());
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fixed_limit_is_never_exceeded_and_everything_returns() {
    let layer = AimdConcurrencyLayer::http()
        .fixed(LIMIT)
        .max_hosts(4)
        .attempt_timeout(ms(5));
    let gauges: Arc<Vec<_>> = Arc::new((0..HOSTS).map(|_| Arc::default()).collect());
    let served = Served::default();
    let (inside, count) = (gauges.clone(), served.clone());
    let service = layer.layer(tower::service_fn(move |request: Request<Chunks>| {
        serve(request, inside.clone(), count.clone())
    }));
    let until = Instant::now() + Duration::from_millis(800);
    let clients = (0..64).map(|n| tokio::spawn(client(service.clone(), n, until, served.clone())));
    let mut done = 0;
    for client in clients.collect::<Vec<_>>() {
        done += client.await.unwrap();
    }
    for gauge in gauges.iter() {
        assert_eq!(gauge.now.load(Ordering::SeqCst), 0);
        let peak = gauge.peak.load(Ordering::SeqCst);
        assert!(peak <= LIMIT, "{peak} at once");
        assert_eq!(
            peak, LIMIT,
            "the limit was never reached: nothing was tested"
        );
    }
    for (host, now) in layer.snapshot() {
        assert_eq!(
            (now.in_flight, now.cooling, now.waiting),
            (0, 0, 0),
            "{host}"
        );
    }
    assert!(served.load(Ordering::Relaxed) >= ENOUGH);
    assert!(done >= ENOUGH / 5, "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stack_comes_to_rest_after_a_storm() {
    let weir = Weir::http()
        .attempt_timeout(ms(5))
        .queue_timeout(ms(20))
        .limiter(|law| law.max = LIMIT)
        .backoff(tower_weir::retry::backoff::DecorrelatedJitter::new(ms(1), ms(3)).unwrap());
    let gauges: Arc<Vec<_>> = Arc::new((0..HOSTS).map(|_| Arc::default()).collect());
    let served = Served::default();
    let (inside, count) = (gauges.clone(), served.clone());
    let service = weir.layer(tower::service_fn(move |request| {
        serve(request, inside.clone(), count.clone())
    }));
    let until = Instant::now() + Duration::from_millis(800);
    let clients = (0..64).map(|n| tokio::spawn(client(service.clone(), n, until, served.clone())));
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    for gauge in gauges.iter() {
        assert_eq!(gauge.now.load(Ordering::SeqCst), 0);
    }
    assert!(served.load(Ordering::Relaxed) >= ENOUGH);
    let hosts = weir.snapshot();
    assert_eq!(hosts.len(), HOSTS);
    for host in hosts {
        let slots = host.limiter.unwrap();
        assert_eq!((slots.in_flight, host.waiting), (0, 0), "{}", host.host);
        // No probe is missing either: a half-open circuit has room for one.
        let circuit = host.circuit.unwrap();
        if circuit.state == State::HalfOpen {
            assert_eq!(circuit.retry_after, None, "{}", host.host);
        }
    }
}
