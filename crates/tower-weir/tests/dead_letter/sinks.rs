//! Sinks that are slow, hang, fail or are full do nothing to the requests.

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};
use tower_weir::{
    BoxError,
    dead_letter::{
        ChannelSink, DeadLetterHandle, DeadLetterLayer, DeadLetterSink, Letter, Loss, sink_fn,
    },
    observe::Event,
    retry::RetryLayer,
};

use crate::support::*;

/// What the upstream takes before it fails.
const SERVICE: Duration = Duration::from_millis(5);

/// What was told of losses, and when.
type Told = Arc<Mutex<Vec<(Duration, Loss, u64)>>>;

/// 1,000 failures a second for three seconds; each takes just what the upstream
/// does.
async fn a_thousand_a_second(dead: DeadLetterLayer) -> (DeadLetterHandle, Told) {
    let told = Told::default();
    let (tell, start) = (told.clone(), Instant::now());
    let dead = dead.observe(move |host, event| {
        if let Event::LettersLost { why, letters, .. } = event {
            assert_eq!(host, "a.test");
            tell.lock().unwrap().push((start.elapsed(), *why, *letters));
        }
    });
    let fails = service_fn(|_: http::Request<_>| async {
        tokio::time::sleep(SERVICE).await;
        Ok::<_, Infallible>(status(500))
    });
    let service = dead.layer(RetryLayer::http().layer(BoxCloneService::new(fails)));
    let mut calls = JoinSet::new();
    for _ in 0..3000 {
        let service = service.clone();
        calls.spawn(async move {
            let start = Instant::now();
            let answer = service.oneshot(post("a batch")).await.unwrap();
            assert_eq!(answer.status(), 500);
            start.elapsed()
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    while let Some(took) = calls.join_next().await {
        assert_eq!(took.unwrap(), SERVICE);
    }
    (dead.handle(), told)
}

async fn a_minute() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

fn total(told: &Told) -> u64 {
    told.lock()
        .unwrap()
        .iter()
        .map(|(_, _, letters)| letters)
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_costs_the_requests_nothing() {
    let dead = DeadLetterLayer::new(sink_fn(|_| pending())).max_pending(100);
    let (handle, told) = a_thousand_a_second(dead).await;
    assert_eq!((handle.pending(), handle.lost().full), (100, 2900));
    assert_eq!(
        told.lock().unwrap()[..],
        [(Duration::from_millis(105), Loss::Full, 1)]
    );
    a_minute().await;
    // 30 s after the first hundred letters had come the sink has had its time.
    assert_eq!((handle.pending(), handle.written()), (0, 0));
    assert_eq!(
        (handle.lost().timed_out, handle.lost().total()),
        (100, 3000)
    );
    let times: Vec<_> = told
        .lock()
        .unwrap()
        .iter()
        .map(|(at, why, letters)| (at.as_secs(), *why, *letters))
        .collect();
    assert_eq!(
        times,
        [
            (0, Loss::Full, 1),
            (10, Loss::Full, 2899),
            (30, Loss::TimedOut, 1),
            (40, Loss::TimedOut, 99)
        ]
    );
    assert_eq!(total(&told), 3000);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_costs_the_requests_nothing() {
    let dead = DeadLetterLayer::new(sink_fn(|_| ready(Err("disk full".into()))));
    let (handle, told) = a_thousand_a_second(dead).await;
    assert_eq!((handle.pending(), handle.lost().failed), (0, 3000));
    a_minute().await;
    let times: Vec<_> = told
        .lock()
        .unwrap()
        .iter()
        .map(|(at, _, letters)| (at.as_secs(), *letters))
        .collect();
    assert_eq!(times, [(0, 1), (10, 2999)]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_full_costs_the_requests_nothing() {
    let (letters, mut received) = tokio::sync::mpsc::channel(10);
    let dead = DeadLetterLayer::new(ChannelSink::new(letters)).max_pending(100);
    let (handle, told) = a_thousand_a_second(dead).await;
    assert_eq!((handle.written(), handle.pending()), (10, 100));
    assert_eq!(handle.lost().full, 2890);
    // Once there is room, what waits is kept.
    for _ in 0..110 {
        next(&mut received).await;
    }
    handle.flush().await.unwrap();
    assert_eq!((handle.written(), handle.pending()), (110, 0));
    a_minute().await;
    assert_eq!(total(&told), 2890);
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_is_waited_for_by_a_flush_and_by_nobody_else() {
    let second = Duration::from_secs(1);
    let dead = DeadLetterLayer::new(sink_fn(move |_| async move {
        tokio::time::sleep(second).await;
        Ok(())
    }));
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    let start = Instant::now();
    call(&service, post("")).await.unwrap();
    assert_eq!(
        (start.elapsed(), dead.handle().pending()),
        (Duration::ZERO, 1)
    );
    dead.handle().flush().await.unwrap();
    assert_eq!((start.elapsed(), dead.handle().written()), (second, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_has_lost_the_letter() {
    let dead = DeadLetterLayer::new(sink_fn(|letter| async move {
        assert!(letter.attempts.is_empty(), "a bug in the sink");
        Ok(())
    }));
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    call(&service, post("")).await.unwrap();
    dead.handle().flush().await.unwrap();
    assert_eq!(
        (dead.handle().lost().failed, dead.handle().written()),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn each_letter_that_is_kept_is_an_event() {
    let (dead, _received) = layer();
    let mut events = dead.subscribe();
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    call(&service, post("")).await.unwrap();
    let notice = events.recv().await.unwrap();
    assert_eq!(&*notice.host, "a.test");
    let Event::DeadLetter { cause, ending } = notice.event else {
        panic!("{notice:?}")
    };
    assert_eq!(cause.unwrap().to_string(), "400");
    assert_eq!(ending, Some(tower_weir::retry::Ending::Done));
}

/// A sink that keeps every letter, and never ends to make them durable.
struct NeverFlushed;

impl DeadLetterSink for NeverFlushed {
    async fn deliver(&self, _: Letter) -> Result<(), BoxError> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), BoxError> {
        pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_flush_has_an_end() {
    let dead = DeadLetterLayer::new(NeverFlushed);
    let start = Instant::now();
    let error = dead.handle().flush().await.unwrap_err();
    assert_eq!(error.to_string(), "the sink was not flushed in time");
    assert_eq!(start.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_changes_no_count_and_holds_nobody_up() {
    for (keeps, expected) in [(true, (1, 0)), (false, (0, 1))] {
        let dead = DeadLetterLayer::new(sink_fn(move |_| {
            ready(keeps.then_some(()).ok_or_else(|| "disk full".into()))
        }));
        let dead = dead.observe(|_, _| panic!("a bug in the observer"));
        let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
        call(&service, post("")).await.unwrap();
        dead.handle().flush().await.unwrap();
        let handle = dead.handle();
        assert_eq!((handle.written(), handle.lost().failed), expected);
    }
}

/// Both the sink and the observer who is told of it.
#[tokio::test(start_paused = true)]
async fn two_panics_do_not_end_the_process() {
    let dead = DeadLetterLayer::new(sink_fn(|letter| async move {
        assert!(letter.attempts.is_empty(), "a bug in the sink");
        Ok(())
    }));
    let dead = dead.observe(|_, _| panic!("a bug in the observer"));
    let service = dead.layer(RetryLayer::http().layer(upstream(|_| status(400))));
    call(&service, post("")).await.unwrap();
    dead.handle().flush().await.unwrap();
    assert_eq!(dead.handle().lost().failed, 1);
}
