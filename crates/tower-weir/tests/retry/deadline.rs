//! Deadlines, over all attempts and into each.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Deadline,
    error::{DeadlineExceeded, QueueTimeout},
    observe::Event,
    retry::{Ending, Recorder, ReplayBody, RetryLayer},
};

use crate::support::*;

fn timed(timeout: &str) -> Sent {
    let mut request = grpc();
    let value = timeout.parse().unwrap();
    request.headers_mut().insert("grpc-timeout", value);
    request
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_what_is_left_of_the_grpc_timeout() {
    let (stack, seen) = stack(&RetryLayer::http(), |n| match n {
        0 | 1 => grpc_status(14, Some("300")),
        _ => grpc_status(0, None),
    });
    let start = Instant::now();
    call(&stack, timed("1S")).await.unwrap();
    assert_eq!(seen.headers("grpc-timeout"), ["1S", "700000u", "400000u"]);
    assert_eq!(seen.headers("grpc-previous-rpc-attempts"), ["-", "1", "2"]);
    let deadline = Some(Deadline(start + Duration::from_secs(1)));
    let told = seen.each(|head| head.extensions.get::<Deadline>().copied());
    assert_eq!(told, [deadline; 3]);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_the_deadlines_counts() {
    let second = Duration::from_secs(1);
    for (layer, extension, timeout, expected) in [
        (Some(3), None, "2S", "2S"),
        (Some(2), None, "2S", "2S"),
        (Some(1), None, "2S", "1000000u"),
        (None, Some(1), "1M", "1000000u"),
        (Some(2), Some(1), "3S", "1000000u"),
        (None, Some(90), "1M", "1M"),
        (Some(1), None, "2x", "2x"),
    ] {
        let retry = RetryLayer::http().deadline(layer.map(|n| second * n));
        let (stack, seen) = stack(&retry, |_| grpc_status(0, None));
        let mut request = timed(timeout);
        if let Some(n) = extension {
            let extensions = request.extensions_mut();
            extensions.insert(Deadline(Instant::now() + second * n));
        }
        call(&stack, request).await.unwrap();
        assert_eq!(seen.headers("grpc-timeout"), [expected], "{timeout}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_not_a_grpc_requests_is_left_alone() {
    let (stack, seen) = stack(&RetryLayer::http(), |n| {
        status(if n == 0 { 503 } else { 200 })
    });
    let mut request = get("http://a.test/");
    request
        .headers_mut()
        .insert("grpc-timeout", "1m".parse().unwrap());
    assert_eq!(status_of(&stack, request).await, 200);
    assert_eq!(seen.headers("grpc-timeout"), ["1m", "1m"]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_spans_all_attempts_and_a_wait_that_would_reach_it_is_not_begun() {
    let (stack, seen) = stack(&RetryLayer::http().no_budget(), |_| {
        grpc_status(14, Some("30"))
    });
    let start = Instant::now();
    let answer = call(&stack, timed("100m")).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "14");
    // At 0, 30, 60 and 90; the next would come at 120.
    assert_eq!((seen.count(), start.elapsed()), (4, millis(90)));
}

/// Two attempts: the first is refused at once, the second hangs.
fn hanging() -> impl Service<
    Request<ReplayBody<Full<bytes::Bytes>>>,
    Response = Answer,
    Error = BoxError,
    Future: Send,
> + Clone {
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    service_fn(move |_| {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            if call > 0 {
                std::future::pending::<()>().await;
            }
            Ok(grpc_status(14, Some("40")))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_ends_at_the_deadline() {
    let mut stack = RetryLayer::http().layer(hanging());
    let start = Instant::now();
    let call = stack.ready().await.unwrap().call(timed("100m"));
    assert!(call.await.unwrap_err().is::<DeadlineExceeded>());
    assert_eq!(start.elapsed(), millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_timer_for_the_same_deadline_reads_as_the_deadline() {
    // As tonic's Channel has it: a timer for what the header says.
    let inner = tower::ServiceBuilder::new()
        .layer(tower::timeout::TimeoutLayer::new(millis(60)))
        .service(hanging());
    let mut stack = RetryLayer::http().layer(inner);
    let call = stack.ready().await.unwrap().call(timed("100m"));
    assert!(call.await.unwrap_err().is::<DeadlineExceeded>());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_never_ready_again_does_not_outlast_the_deadline() {
    let mut stack = RetryLayer::http()
        .deadline(millis(700))
        .layer(tower::limit::ConcurrencyLimit::new(hanging(), 1));
    let start = Instant::now();
    let mut other = stack.clone();
    stack.ready().await.unwrap();
    let first = stack.call(grpc());
    // The only slot is the other's from the moment the first attempt ends.
    let second = tokio::spawn(async move { other.ready().await.unwrap().call(grpc()).await });
    assert!(first.await.unwrap_err().is::<DeadlineExceeded>());
    assert_eq!(start.elapsed(), millis(700));
    second.abort();
}

/// Refuses each request, and is ready again only `pause` after it was called.
#[derive(Clone)]
struct Tired {
    pause: Duration,
    ready_at: Option<Instant>,
    said: &'static str,
    sleep: std::sync::Arc<std::sync::Mutex<Option<std::pin::Pin<Box<tokio::time::Sleep>>>>>,
    calls: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Tired {
    fn new(pause: Duration) -> Self {
        Self {
            pause,
            ready_at: None,
            said: "",
            sleep: std::sync::Arc::default(),
            calls: std::sync::Arc::default(),
        }
    }

    fn saying(self, said: &'static str) -> Self {
        Self { said, ..self }
    }

    fn calls(&self) -> usize {
        self.calls.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl<B> Service<Request<B>> for Tired {
    type Response = Answer;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Answer, BoxError>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        let Some(at) = self.ready_at else {
            return std::task::Poll::Ready(Ok(()));
        };
        let mut sleep = self.sleep.lock().unwrap();
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        sleep.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.calls
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.ready_at = Some(Instant::now() + self.pause);
        let said = self.said.to_owned();
        std::future::ready(Ok(status(429).map(|_| said)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_could_be_sent_at_the_deadline_is_not_sent_any_more() {
    for (pause, calls) in [(millis(399), 2), (millis(400), 1), (millis(401), 1)] {
        let layer = RetryLayer::http()
            .max_retries(1)
            .deadline(millis(400))
            .backoff(tower_weir::retry::backoff::Constant::new(millis(100)));
        let client = Tired::new(pause);
        let start = Instant::now();
        let batch = tower_weir::retry::budget::BatchBudget::new();
        let mut request = get("http://a.test/");
        request.extensions_mut().insert(batch.clone());
        let result = layer.layer(client.clone()).oneshot(request).await;
        match calls {
            2 => assert_eq!(result.unwrap().status().as_u16(), 429),
            _ => {
                assert!(result.unwrap_err().is::<DeadlineExceeded>());
                assert_eq!(start.elapsed(), millis(400));
            }
        }
        assert_eq!(
            (client.calls(), batch.spent().retries),
            (calls, calls as u64 - 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_never_ready_again_does_not_outlast_patience() {
    let layer = RetryLayer::http().policy(|policy| {
        policy
            .patience(Duration::from_secs(30))
            .backoff(tower_weir::retry::backoff::Constant::new(millis(100)))
    });
    for said in ["", "come later"] {
        let client = Tired::new(Duration::from_secs(3600)).saying(said);
        let start = Instant::now();
        let recorder = Recorder::new();
        let mut request = get("http://a.test/");
        request.extensions_mut().insert(recorder.clone());
        let result = layer.layer(client.clone()).oneshot(request).await;
        match said {
            // The upstream's answer holds nothing, and was kept.
            "" => assert_eq!(result.unwrap().status().as_u16(), 429),
            _ => {
                let error = result.unwrap_err();
                let timeout = error.downcast_ref::<QueueTimeout>().unwrap();
                assert_eq!(timeout.host(), "a.test");
                assert_eq!(timeout.waited(), millis(29_900));
            }
        }
        assert_eq!(start.elapsed(), Duration::from_secs(30));
        assert_eq!(client.calls(), 1);
        assert_eq!(recorder.ending(), Some(Ending::Exhausted));
    }
}

type Said = fn() -> Result<Answer, BoxError>;

/// Is called once, and then broken.
#[derive(Clone)]
struct Brittle {
    answer: Said,
    broken: bool,
}

impl<B> Service<Request<B>> for Brittle {
    type Response = Answer;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Answer, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(match self.broken {
            true => Err("broken".into()),
            false => Ok(()),
        })
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.broken = true;
        std::future::ready((self.answer)())
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_before_the_retry_leaves_the_caller_the_last_result() {
    let refused = || Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
    let answers: [(Said, &str); 3] = [
        (|| Ok(status(503)), "503"),
        (refused, "connection refused"),
        // An answer with a body is not kept while the request waits.
        (|| Ok(status(503).map(|_| "later".to_owned())), "broken"),
    ];
    for (answer, expected) in answers {
        let broken = false;
        let batch = tower_weir::retry::budget::BatchBudget::new();
        let recorder = Recorder::new();
        let mut request = get("http://a.test/");
        request.extensions_mut().insert(batch.clone());
        request.extensions_mut().insert(recorder.clone());
        let told = Told::default();
        let layer = RetryLayer::http().observe(told.by());
        let stack = layer.layer(Brittle { answer, broken });
        let said = match stack.oneshot(request).await {
            Ok(answer) => answer.status().as_u16().to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
        assert_eq!(batch.spent().retries, 0);
        assert_eq!(recorder.ending(), Some(Ending::Exhausted));
        let last = told.all().pop().unwrap().2;
        assert!(matches!(
            last,
            Event::GaveUp {
                attempts: 1,
                why: Ending::Exhausted,
                ..
            }
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_counts_may_wait_for_the_client_when_patience_is_over() {
    let second = Duration::from_secs(1);
    // A failure after 31 s, then answers after one.
    let client = service_fn({
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        move |_: Request<ReplayBody<Full<bytes::Bytes>>>| {
            let first = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            async move {
                tokio::time::sleep(if first { 31 * second } else { second }).await;
                Ok::<_, BoxError>(status(if first { 500 } else { 200 }))
            }
        }
    });
    let service = tower::ServiceBuilder::new()
        .layer(RetryLayer::http().policy(|policy| {
            policy
                .patience(30 * second)
                .backoff(tower_weir::retry::backoff::Constant::new(millis(100)))
        }))
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .service(client);
    let start = Instant::now();
    let retried = tokio::spawn(service.clone().oneshot(get("http://a.test/")));
    tokio::time::sleep(30 * second).await;
    // Next in line: the client is busy again when the retry is due.
    let other = tokio::spawn(service.oneshot(get("http://a.test/")));
    assert_eq!(other.await.unwrap().unwrap().status(), 200);
    let answer = retried.await.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), start.elapsed()),
        (200, 33 * second)
    );
}
