//! Closures that change a running layer's settings: they are the user's code, and
//! may use the handle, panic or take their time.
#![cfg(all(feature = "weir", feature = "server"))]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    time::Duration,
};

use http::{Request, Response};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer},
    retry::{ReplayBody, RetryLayer},
    server::AdmissionLayer,
};

/// Does it on a thread of its own, which must come to an end.
fn done<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = mpsc::channel();
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let _runtime = runtime.enter();
        done.send(what())
    });
    let done = is_done.recv_timeout(Duration::from_secs(10));
    done.expect("it is stuck")
}

#[tokio::test]
async fn a_change_may_use_the_handle() {
    let limiter = AimdConcurrencyLayer::http();
    let handle = limiter.handle();
    done(move || {
        handle.update(|law| {
            handle.update(|law| law.min = 2);
            law.max = 5 + handle.snapshot().len();
        });
        // Where both set the same, the one around the other has the last word.
        handle.update(|law| assert_eq!((law.min, law.max), (1, 5)));
    });

    let breaker = CircuitBreakerLayer::http();
    let handle = breaker.handle();
    done(move || {
        handle.update(|config| {
            handle.update(|config| config.min_calls(7));
            handle.force_open("a");
            config.min_calls(9)
        });
        handle.update(|config| {
            assert_eq!(config, BreakerConfig::default().min_calls(9));
            config
        });
    });

    let retry = RetryLayer::http();
    let handle = retry.handle();
    done(move || {
        handle.update(|policy| {
            handle.update(|policy| policy.max_retries(8));
            policy.max_retries(9)
        });
    });
    assert!(format!("{retry:?}").contains("max_retries: Some(9)"));

    let admission = AdmissionLayer::new();
    let handle = admission.handle();
    done(move || {
        handle.update(|config| {
            handle.report_storage(0.5);
            config.limits.throttle_at = 5 + handle.snapshot().len();
            assert_eq!(handle.storage(), 0.5);
        });
        assert_eq!(handle.storage(), 0.5);
    });
    assert!(format!("{admission:?}").contains("throttle_at: 5"));
}

#[tokio::test]
async fn a_stacks_changes_within_each_other_are_all_made() {
    let stack = Weir::http();
    let handle = stack.handle();
    let other = handle.clone();
    done(move || {
        handle.update_limiter(|law| {
            handle.update_breaker(|config| {
                handle.update_retry(|policy| policy.max_retries(9));
                config.min_calls(77)
            });
            law.max = 7;
        });
    });
    assert!(format!("{stack:?}").contains("max_retries: Some(9)"));
    other.update_limiter(|law| assert_eq!(law.max, 7));
    other.update_breaker(|config| {
        assert_eq!(config, BreakerConfig::default().min_calls(77));
        config
    });
}

#[tokio::test]
async fn calls_go_on_while_a_change_is_made() {
    let stack = Weir::http();
    let handle = stack.handle();
    let client = stack.layer(service_fn(|_: Request<ReplayBody<String>>| async {
        Ok::<_, BoxError>(Response::new(String::new()))
    }));
    let (inside, is_inside) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let changes = std::thread::spawn(move || {
        handle.update_retry(|policy| {
            inside.send(()).unwrap();
            may_go.recv().unwrap();
            policy
        });
        handle.update_limiter(|_| {
            inside.send(()).unwrap();
            may_go.recv().unwrap();
        });
    });
    for host in ["a", "b"] {
        is_inside.recv().unwrap();
        // Neither the policy nor the new host's limiter is behind what the
        // closure holds.
        let (client, runtime) = (client.clone(), Handle::current());
        let request = Request::get(format!("http://{host}.test"));
        let request = request.body(String::new()).unwrap();
        let call = tokio::task::spawn_blocking(move || runtime.block_on(client.oneshot(request)));
        timeout_at(Instant::now() + Duration::from_secs(10), call)
            .await
            .expect("the call is stuck")
            .unwrap()
            .unwrap();
        go.send(()).unwrap();
    }
    changes.join().unwrap();
}

#[tokio::test]
async fn a_change_that_panics_is_none_and_the_next_is_made() {
    let stack = Weir::http();
    let handle = stack.handle();
    let panics = |change: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(change)).is_err());
    };
    panics(&|| {
        handle.update_limiter(|law| {
            law.max = 3;
            panic!("no")
        });
    });
    panics(&|| handle.update_breaker(|_| panic!("no")));
    panics(&|| handle.update_retry(|_| panic!("no")));
    let other = handle.clone();
    let max = done(move || {
        let mut max = 0;
        other.update_limiter(|law| {
            max = law.max;
            law.max = 4;
        });
        other.update_retry(|policy| policy.max_retries(9));
        max
    });
    assert_eq!(max, 256);
    assert!(format!("{stack:?}").contains("max_retries: Some(9)"));
}

#[tokio::test]
async fn no_change_of_many_threads_is_lost() {
    let stack = Weir::http();
    let handle = stack.handle();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    handle.update_limiter(|law| law.max += 1);
                }
            });
        }
    });
    handle.update_limiter(|law| assert_eq!(law.max, 256 + 1000));
}
