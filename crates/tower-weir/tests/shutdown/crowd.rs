//! Many callers on several threads, and a shutdown at any moment of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::{AbortHandle, JoinHandle};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    BoxError, Weir, aimd::AimdConcurrencyLayer, error::ShuttingDown, outcome::ErrorsFail,
    retry::backoff::Constant, shutdown::Shutdown,
};

#[derive(Default)]
struct Heard {
    well: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

/// Every call is counted once, whatever it meets: what the callers heard is what
/// the report says, and none is left waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_lost_or_counted_twice() {
    for round in 0..200u32 {
        let shutdown = Shutdown::new();
        // One in eight never answers.
        let upstream = service_fn(move |n: u32| async move {
            for _ in 0..n % 5 {
                tokio::task::yield_now().await;
            }
            if n % 8 == 7 {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(())
        });
        let service = shutdown.layer().layer(upstream);
        let heard = Arc::new(Heard::default());
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..64 {
            let (mut service, heard) = (service.clone(), heard.clone());
            callers.spawn(async move {
                let count = match service.ready().await.unwrap().call(n + round).await {
                    Ok(()) => &heard.well,
                    Err(error) => match error.downcast_ref::<ShuttingDown>() {
                        Some(down) if down.is_cut() => &heard.cut,
                        Some(_) => &heard.refused,
                        None => panic!("{error}"),
                    },
                };
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        for _ in 0..round % 50 {
            tokio::task::yield_now().await;
        }
        let drained = shutdown.drain(Duration::from_millis(1)).await;
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let end = shutdown.drain(Duration::ZERO).await;
        // Whose answer came as it was counted as cut was given it.
        assert!(told(&heard.cut) <= drained.cut, "{round}");
        assert_eq!(told(&heard.refused), end.refused, "{round}");
        assert!(told(&heard.well) >= drained.finished, "{round}");
        let all = told(&heard.well) + told(&heard.refused) + told(&heard.cut);
        assert_eq!((all, shutdown.in_flight()), (64, 0), "{round}");
    }
}

/// What the upstream does once the shutdown has begun: one in eight hangs.
async fn some_time(begins: &Shutdown, n: u32) {
    begins.begun().await;
    for _ in 0..n % 5 {
        tokio::task::yield_now().await;
    }
    if n % 8 == 7 {
        std::future::pending::<()>().await;
    }
}

/// Calls that are all counted.
async fn all_in<S>(shutdown: &Shutdown, service: &S, round: u32) -> Vec<JoinHandle<Answer<S>>>
where
    S: Service<u32, Error = BoxError> + Clone + Send + 'static,
    S::Response: Send,
    S::Future: Send,
{
    let call = |n| tokio::spawn(service.clone().oneshot(n + round));
    let callers: Vec<_> = (0..64).map(call).collect();
    while shutdown.in_flight() < callers.len() {
        tokio::task::yield_now().await;
    }
    callers
}

type Answer<S> = Result<<S as Service<u32>>::Response, BoxError>;

async fn a_third_leaves(callers: Vec<AbortHandle>) {
    for caller in callers.iter().step_by(3) {
        caller.abort();
        tokio::task::yield_now().await;
    }
}

/// The report has every request that was in flight when it began exactly once:
/// one that answers, one in a queue, one that is cut, and any of them whose
/// caller goes away meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_in_flight_at_the_beginning_is_what_the_report_says() {
    for round in 0..200u32 {
        let shutdown = Shutdown::new();
        let begins = shutdown.clone();
        let upstream = service_fn(move |n: u32| {
            let begins = begins.clone();
            async move {
                some_time(&begins, n).await;
                Ok::<_, BoxError>(())
            }
        });
        let limiter = AimdConcurrencyLayer::new(ErrorsFail).fixed(16);
        let service = shutdown
            .layer()
            .layer(limiter.shutdown(&shutdown).layer(upstream));
        let callers = all_in(&shutdown, &service, round).await;
        let abort: Vec<_> = callers.iter().map(JoinHandle::abort_handle).collect();
        shutdown.begin();
        let leaves = tokio::spawn(a_third_leaves(abort));
        let drained = shutdown.drain(Duration::from_millis(1)).await;
        leaves.await.unwrap();
        let ended = drained.finished + drained.queued + drained.backoffs + drained.cancelled;
        let all = ended + drained.cut;
        assert_eq!(all, 64, "{round}: {drained}");
        for caller in callers {
            drop(caller.await);
        }
        assert_eq!(shutdown.in_flight(), 0, "{round}");
    }
}

/// The same of a whole stack: one that answers, one that waits to be sent again,
/// one in the queue, one that hangs, and any of them whose caller goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stacks_report_has_each_request_once_too() {
    for round in 0..200u32 {
        let shutdown = Shutdown::new();
        let begins = shutdown.clone();
        let upstream = service_fn(move |n: u32| {
            let begins = begins.clone();
            async move {
                if n.is_multiple_of(3) {
                    return Err(BoxError::from("again"));
                }
                some_time(&begins, n).await;
                Ok(())
            }
        });
        let stack = Weir::new(ErrorsFail)
            .any_method()
            .backoff(Constant::new(Duration::from_secs(60)))
            .breaker_enabled(false)
            .limiter(|law| (law.initial, law.max) = (16, 16))
            .shutdown(&shutdown);
        let service = stack.layer(upstream);
        let callers = all_in(&shutdown, &service, round).await;
        let abort: Vec<_> = callers.iter().map(JoinHandle::abort_handle).collect();
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        shutdown.begin();
        let leaves = tokio::spawn(a_third_leaves(abort));
        let grace = Duration::from_millis(u64::from(round % 3));
        let (one, two) = tokio::join!(shutdown.drain(grace), shutdown.drain(2 * grace));
        leaves.await.unwrap();
        for drained in [one, two] {
            let ended = drained.finished + drained.queued + drained.backoffs + drained.cancelled;
            assert_eq!(ended + drained.cut, 64, "{round}: {drained}");
        }
        for caller in callers {
            drop(caller.await);
        }
        assert_eq!(shutdown.in_flight(), 0, "{round}");
    }
}
