use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tests::{BoxError, script::Boxed, wait::in_time};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneService};
use tower_weir::{
    Deadline,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, CountRefusals},
    outcome::{Classify, Failure, HttpClassifier, Protocol, Refusal, Verdict},
    retry::{ReplayBody, RetryLayer, backoff::Constant},
};

use super::{
    contract::{Health, Row},
    scenario::Scenario,
};

/// A client, whichever.
pub(crate) type Target = BoxCloneService<Request<Boxed>, Response<Boxed>, BoxError>;

type Answer = Result<Response<()>, BoxError>;

/// Holds what the layers do against what the row says.
pub(crate) async fn check(row: &Row, scenario: &Scenario, method: &Method) -> Result<(), String> {
    let attempts = attempts(scenario, method).await.ok_or("hangs")?;
    if attempts != row.attempts() {
        return Err(format!("{attempts} attempts, not {}", row.attempts()));
    }
    let (verdict, seen) = one_attempt(scenario, method)
        .await
        .ok_or("one attempt hangs")?;
    let expected = match (row.health, scenario.by_status) {
        (Health::Is(expected), None) => expected,
        (Health::ByStatus, Some(Health::Is(expected))) => expected,
        (Health::ByStatus, Some(Health::ByStatus)) => return Ok(()),
        _ => return Err("the scenario is for another row".to_owned()),
    };
    if verdict != expected {
        return Err(format!("the outcome is {verdict:?}, not {expected:?}"));
    }
    if seen != Seen::after(expected) {
        let expected = Seen::after(expected);
        return Err(format!("the layers saw {seen:?}, not {expected:?}"));
    }
    Ok(())
}

/// How often a request is sent that may be retried once.
async fn attempts(scenario: &Scenario, method: &Method) -> Option<usize> {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    let service = ServiceBuilder::new()
        .layer(
            RetryLayer::http()
                .max_retries(1)
                .backoff(Constant::new(Duration::from_millis(1)))
                .deadline(scenario.deadline)
                .map_body(|body: ReplayBody<Boxed>| body.boxed_unsync()),
        )
        .map_request(move |request: Request<Boxed>| {
            count.fetch_add(1, Ordering::Relaxed);
            request
        })
        .layer(AimdConcurrencyLayer::http().attempt_timeout(scenario.attempt_timeout))
        .service((scenario.connect)());
    // what the answer is, the other run looks at
    let sent = in_time(service.oneshot(scenario.request(method))).await;
    sent.map(|_| attempts.load(Ordering::Relaxed))
}

/// What one attempt's outcome is to the public vocabulary, and what it does to
/// layers that each bring out one side of it.
async fn one_attempt(scenario: &Scenario, method: &Method) -> Option<(Verdict, Seen)> {
    let breaker = |config| CircuitBreakerLayer::http().config(config);
    let breakers = [
        breaker(BreakerConfig::default()),
        breaker(BreakerConfig::default().starved_after(Duration::ZERO)),
        breaker(BreakerConfig::default().count_refusals(CountRefusals::Always)),
    ];
    let [usual, starved, strict] = breakers.clone();
    let limiters = [1, 2].map(|limit| AimdConcurrencyLayer::http().initial(limit));
    let [one, two] = limiters.clone();
    let two = two.attempt_timeout(scenario.attempt_timeout);
    let limiters = [one.clone(), two.clone()];
    let service = ServiceBuilder::new()
        .layer(usual)
        .layer(starved)
        .layer(strict)
        .layer(one)
        .layer(two)
        .service((scenario.connect)());
    let mut request = scenario.request(method);
    if let Some(deadline) = scenario.deadline {
        request.extensions_mut().insert(Deadline::after(deadline));
    }
    let protocol = Protocol::of(request.headers());
    let answer = in_time(service.oneshot(request)).await?;
    let classifier = HttpClassifier::new();
    let (answer, trailers) = match answer {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let body = body.collect().await;
            let trailers = body.ok().and_then(|body| body.trailers().cloned());
            (Ok(Response::from_parts(head, ())), trailers)
        }
        Err(error) => (Err(error), None),
    };
    let answer: Answer = answer;
    let head = classifier.classify(protocol, answer.as_ref());
    let outcome = trailers.and_then(|trailers| {
        Classify::<Response<()>>::classify_trailers(&classifier, protocol, &trailers)
    });
    let seen = Seen {
        recorded: breakers.map(|layer| {
            let counts = layer.snapshot()[0].1.counts;
            (counts.calls, counts.failed)
        }),
        limits: limiters.map(|layer| layer.snapshot()[0].1.limit),
    };
    Some((outcome.unwrap_or(head).verdict, seen))
}

/// What the layers are seen to have made of one attempt.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Calls, and failures among them, in the window of a breaker that goes by
    /// the defaults, of one that is starved of successes from the beginning on,
    /// and of one that counts every refusal.
    recorded: [(u64, u64); 3],
    /// The limit of a limiter that began at 1, where a success lets it grow, and
    /// of one that began at 2, where it can shrink.
    limits: [usize; 2],
}

impl Seen {
    fn after(verdict: Verdict) -> Self {
        const NOTHING: (u64, u64) = (0, 0);
        const GOOD: (u64, u64) = (1, 0);
        const BAD: (u64, u64) = (1, 1);
        let recorded = match verdict {
            Verdict::Success => [GOOD; 3],
            Verdict::Failed(_) => [BAD; 3],
            Verdict::Refused(Refusal::Unavailable) => [NOTHING, BAD, BAD],
            Verdict::Refused(Refusal::Throttled | Refusal::RequestTimeout) => {
                [NOTHING, NOTHING, BAD]
            }
            Verdict::Ignored => [NOTHING; 3],
        };
        let limits = match verdict {
            Verdict::Success => [2, 2],
            Verdict::Refused(Refusal::Throttled | Refusal::Unavailable)
            | Verdict::Failed(Failure::Timeout) => [1, 1],
            Verdict::Refused(Refusal::RequestTimeout)
            | Verdict::Failed(Failure::Error)
            | Verdict::Ignored => [1, 2],
        };
        Self { recorded, limits }
    }
}
