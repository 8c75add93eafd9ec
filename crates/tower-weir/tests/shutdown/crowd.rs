//! Many callers on several threads, and a shutdown at any moment of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{BoxError, error::ShuttingDown, shutdown::Shutdown};

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
        assert_eq!(told(&heard.cut), drained.cut, "{round}");
        assert_eq!(told(&heard.refused), end.refused, "{round}");
        assert!(told(&heard.well) >= drained.finished, "{round}");
        let all = told(&heard.well) + told(&heard.refused) + told(&heard.cut);
        assert_eq!((all, shutdown.in_flight()), (64, 0), "{round}");
    }
}
