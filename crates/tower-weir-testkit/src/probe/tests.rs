use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{self, Instant},
};
use tower::ServiceExt;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn echo() -> (Probe<u64, u64>, Handle) {
    service(|request, _| Reply::ok(request).after(SECOND))
}

fn panics(act: impl FnOnce()) -> bool {
    std::panic::catch_unwind(AssertUnwindSafe(act)).is_err()
}

#[tokio::test(start_paused = true)]
async fn a_call_without_readiness_panics_here_and_at_the_handle() {
    let (mut probe, handle) = echo();
    assert!(panics(|| drop(probe.call(1))));
    assert_eq!(handle.counts().violations, 1);
    assert_eq!(handle.counts().calls, 0);
    assert!(panics(|| drop(handle)));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_for_one_instance_and_one_call() {
    let (mut probe, handle) = echo();
    probe.ready().await.unwrap();
    let mut clone = probe.clone();
    assert!(panics(|| drop(clone.call(1))));

    assert_eq!(probe.call(1).await.unwrap(), 1);
    assert!(panics(|| drop(probe.call(2))));
    assert_eq!(handle.counts().violations, 2);
    assert!(panics(|| drop(handle)));
}

#[tokio::test(start_paused = true)]
async fn counts_follow_clones_readiness_and_calls() {
    let (mut probe, handle) = echo();
    let mut clone = probe.clone();
    probe.ready().await.unwrap();
    probe.ready().await.unwrap();
    clone.ready().await.unwrap();
    let counts = handle.counts();
    assert_eq!((counts.instances, counts.clones, counts.ready), (2, 1, 2));

    let (first, second) = (probe.call(1), clone.call(2));
    let counts = handle.counts();
    assert_eq!((counts.ready, counts.calls), (0, 2));
    assert_eq!((counts.in_flight, counts.peak), (2, 2));
    drop(second);
    first.await.unwrap();

    probe.ready().await.unwrap();
    drop((probe, clone));
    let expected = Counts {
        calls: 2,
        peak: 2,
        completed: 1,
        dropped: 1,
        clones: 1,
        ..Counts::default()
    };
    assert_eq!(handle.counts(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_script_says_what_becomes_of_each_call() {
    let (answer, answered) = oneshot::channel();
    let mut answered = Some(answered);
    let (probe, handle) = service(move |(), call| match call {
        0 => Reply::ok("ok"),
        1 => Reply::fail("no").after(SECOND),
        2 => Reply::panic("oh"),
        3 => {
            let answered = answered.take().unwrap();
            Reply::from_future(async { Ok(answered.await?) })
        }
        _ => Reply::hang(),
    });
    let call = || probe.clone().oneshot(());
    assert_eq!(call().await.unwrap(), "ok");

    let began = Instant::now();
    assert_eq!(call().await.unwrap_err().to_string(), "no");
    assert_eq!(began.elapsed(), SECOND);

    assert!(tokio::spawn(call()).await.unwrap_err().is_panic());

    let held = tokio::spawn(call());
    handle.until(|counts| counts.in_flight == 1).await;
    answer.send("at last").unwrap();
    assert_eq!(held.await.unwrap().unwrap(), "at last");

    tokio::select! {
        answer = call() => panic!("{answer:?}"),
        () = time::sleep(3600 * SECOND) => {}
    }
    let counts = handle.counts();
    assert_eq!((counts.completed, counts.dropped), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn readiness_comes_when_told_and_wakes_who_waits() {
    let (mut probe, handle) = echo();
    handle.set_readiness(Readiness::Never);
    let waiting = tokio::spawn(probe.clone().oneshot(7));
    time::sleep(SECOND).await;
    assert_eq!(handle.counts().calls, 0);
    handle.set_readiness(Readiness::Now);
    assert_eq!(waiting.await.unwrap().unwrap(), 7);

    handle.set_readiness(Readiness::After(2));
    for _ in 0..2 {
        let early = poll_at_most(probe.ready(), 2, DropWhen::Waiting).await;
        assert!(early.is_none());
        let ready = poll_at_most(probe.ready(), 1, DropWhen::Waiting).await;
        ready.unwrap().unwrap().call(1).await.unwrap();
    }

    handle.set_readiness(Readiness::Fails("broken"));
    let error = probe.ready().await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
}

#[tokio::test(start_paused = true)]
async fn a_future_is_polled_when_woken_and_no_oftener_than_told() {
    let two_naps = || async {
        time::sleep(SECOND).await;
        time::sleep(SECOND).await;
    };
    for (polls, when, expected, slept) in [
        (0, DropWhen::Waiting, None, 0),
        (1, DropWhen::Waiting, None, 0),
        (1, DropWhen::Woken, None, 1),
        (2, DropWhen::Waiting, None, 1),
        (2, DropWhen::Woken, None, 2),
        (3, DropWhen::Waiting, Some(()), 2),
    ] {
        let began = Instant::now();
        assert_eq!(poll_at_most(two_naps(), polls, when).await, expected);
        let slept = slept * SECOND;
        let late = began.elapsed() - slept;
        // tokio's timers go by milliseconds
        assert!(
            late <= Duration::from_millis(2),
            "{polls} {when:?} {late:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_is_dropped_at_every_point() {
    let (probe, handle) = service(|request: u64, _| Reply::ok(request).after(SECOND));
    handle.set_readiness(Readiness::After(1));
    let mut seen = Vec::new();
    let (output, polls) = drop_everywhere(
        || probe.clone().oneshot(7),
        async |polls, when| {
            seen.push((polls, when));
            let counts = handle.counts();
            assert_eq!(
                (counts.instances, counts.in_flight, counts.ready),
                (1, 0, 0)
            );
        },
    )
    .await;
    // one poll finds it not ready, one calls it, one has the answer
    assert_eq!((output.unwrap(), polls), (7, 3));
    let expected = [
        (0, DropWhen::Waiting),
        (1, DropWhen::Waiting),
        (1, DropWhen::Woken),
        (2, DropWhen::Waiting),
        (2, DropWhen::Woken),
    ];
    assert_eq!(seen, expected);
    assert_eq!((handle.counts().dropped, handle.counts().completed), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_lost_shows_when_woken() {
    let free = Arc::new(AtomicUsize::new(1));
    // a waiter that does not give back what it was granted and never looked at
    let leaky = || {
        let (grant, granted) = oneshot::channel();
        free.fetch_sub(1, Relaxed);
        let granter = Arc::clone(&free);
        tokio::spawn(async move {
            time::sleep(SECOND).await;
            if grant.send(()).is_err() {
                granter.fetch_add(1, Relaxed);
            }
        });
        async {
            granted.await.unwrap();
            free.fetch_add(1, Relaxed);
        }
    };
    let mut leaks = Vec::new();
    let ((), polls) = drop_everywhere(leaky, async |polls, when| {
        time::sleep(2 * SECOND).await;
        if free.swap(1, Relaxed) == 0 {
            leaks.push((polls, when));
        }
    })
    .await;
    assert_eq!((polls, leaks), (2, vec![(1, DropWhen::Woken)]));
}
