use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};

use super::Weir;
use crate::{
    BoxError,
    config::Settings,
    outcome::HttpClassifier,
    retry::{
        ReplayBody, RetryPolicy,
        backoff::Constant,
        budget::{BudgetRule, CostQuota},
    },
};

type Body = Full<Bytes>;

#[test]
fn the_budgets_are_the_admissions_where_the_stack_judges_as_one() {
    let entrusted = |weir: &Weir| weir.retry.entrusted().is_some();
    let own = RetryPolicy::default;
    assert!(entrusted(&Weir::http()));
    assert!(entrusted(&Weir::http().bulk().max_hosts(9).seed(1)));
    assert!(entrusted(&Weir::http().for_host("one").max_retries(1)));
    let mut settings = Settings::default();
    settings.calls.max_hosts = 9;
    assert!(entrusted(&Weir::http().configured(&settings).unwrap()));
    assert!(!entrusted(&Weir::http().retry(|_| own())));
    let whole = Weir::http()
        .retry(|_| own())
        .classify(HttpClassifier::new());
    assert!(entrusted(&whole));
    let budget = CostQuota::default;
    assert!(!entrusted(&Weir::http().budget(budget)));
}

/// Nobody but the request itself keeps the budget of a host then.
#[tokio::test(start_paused = true)]
async fn a_budget_is_not_forgotten_under_a_request_where_the_admission_was_switched_off() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let release = Arc::new(Notify::new());
    let (count, released) = (attempts.clone(), release.clone());
    let inner = service_fn(move |request: Request<ReplayBody<Body>>| {
        let held = request.uri().host() == Some("held.test");
        let number = held.then(|| count.fetch_add(1, Ordering::Relaxed));
        let released = released.clone();
        async move {
            if number == Some(2) {
                released.notified().await;
            }
            Ok::<_, BoxError>(Response::builder().status(503).body(Body::default())?)
        }
    });
    let once = BudgetRule::CostQuota {
        capacity: 5,
        retry_cost: 5,
        timeout_cost: 5,
    };
    let weir = Weir::http()
        .backoff(Constant::new(Duration::from_millis(1)))
        .retry(|policy| policy.max_retries(1).budget_rule(once).unwrap())
        .max_hosts(1);
    weir.handle().registry.tune(|calls| calls.enabled = false);
    let stack = weir.layer(inner);
    let call = |host: &str| {
        let request = Request::get(format!("http://{host}.test/"));
        stack
            .clone()
            .oneshot(request.body(Body::default()).unwrap())
    };
    call("held").await.unwrap();
    let under_way = tokio::spawn(call("held"));
    tokio::task::yield_now().await;
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    for other in ["a", "b", "c"] {
        call(other).await.unwrap();
    }
    release.notify_one();
    under_way.await.unwrap().unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), 3, "its budget is spent");
}
