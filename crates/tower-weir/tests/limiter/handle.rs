//! What the handle tells and changes.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use tower::{Layer, ServiceExt};
use tower_weir::{
    BoxError,
    aimd::{
        AimdConcurrencyLayer,
        law::{ChangeCause, Decision, LimitLaw, Sample},
    },
    error::ShuttingDown,
    observe::Event,
    outcome::{ErrorsFail, Verdict},
};

use crate::rig::{Call, Client, ask, call, client, host};

fn poll(call: &mut std::pin::Pin<Box<Call>>) -> Poll<crate::rig::Reply> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Calls that have been polled once.
fn begun(
    client: &mut Client,
    calls: usize,
) -> Vec<(tokio::sync::oneshot::Sender<u16>, std::pin::Pin<Box<Call>>)> {
    let begin = |_| {
        let (tell, call) = call(client, "a");
        let mut call = Box::pin(call);
        assert!(poll(&mut call).is_pending());
        (tell, call)
    };
    (0..calls).map(begin).collect()
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_sees_each_change_of_the_limit_and_its_cause() {
    let layer = AimdConcurrencyLayer::http();
    let handle = layer.handle();
    let mut notices = handle.subscribe();
    let mut client = client(&layer);
    let mut calls = begun(&mut client, 10);
    for (tell, mut call) in calls.drain(..3) {
        tell.send(429).unwrap();
        assert!(poll(&mut call).is_ready());
    }
    handle.update(|law| law.max = 4);
    drop(calls);
    drop(client);
    drop((handle, layer));
    let mut changes = Vec::new();
    while let Some(notice) = notices.recv().await {
        assert_eq!(&*notice.host, "a");
        if let Event::Limit { change, .. } = notice.event {
            changes.push((change.before, change.after, change.cause));
        }
    }
    let refused = ChangeCause::Refused;
    assert_eq!(
        changes,
        [
            (10, 9, refused),
            (9, 8, refused),
            (8, 7, refused),
            (7, 4, ChangeCause::Settings),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lower_ceiling_holds_at_once_and_takes_slots_back_as_calls_end() {
    let layer = AimdConcurrencyLayer::http();
    let handle = layer.handle();
    let mut client = client(&layer);
    let running = begun(&mut client, 10);
    let mut waiting = begun(&mut client, 2);
    let state = || {
        let host = host(&handle, "a");
        (host.limit, host.in_flight, host.waiting)
    };
    handle.update(|law| law.max = 3);
    assert_eq!(state(), (3, 10, 2));
    for (ended, (tell, mut call)) in running.into_iter().enumerate() {
        tell.send(200).unwrap();
        assert!(poll(&mut call).is_ready());
        let granted = (ended + 1).saturating_sub(7).min(2);
        assert_eq!(state(), (3, 9 - ended + granted, 2 - granted));
    }
    for (tell, call) in &mut waiting {
        assert!(poll(call).is_pending(), "it is sent now");
        assert!(!tell.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_admits_no_more_and_waits_for_the_last_body_of_every_host() {
    let layer = AimdConcurrencyLayer::http().fixed(1);
    let handle = layer.handle();
    let mut client = client(&layer);
    let a = ask(&mut client, "a", 200).await.unwrap();
    let b = ask(&mut client, "b", 200).await.unwrap();
    let mut drain = pin!(handle.drain());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(drain.as_mut().poll(&mut cx).is_pending());
    for name in ["a", "new"] {
        let (_tell, call) = call(&mut client, name);
        let refused = call.await.unwrap_err();
        assert_eq!(refused.downcast_ref::<ShuttingDown>().unwrap().host(), name);
    }
    drop(a);
    assert!(drain.as_mut().poll(&mut cx).is_pending());
    drop(b);
    assert!(drain.poll(&mut cx).is_ready());
    handle.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_setter_makes_fresh_state_and_a_clone_does_not() {
    let layer = AimdConcurrencyLayer::http();
    let mut client = client(&layer);
    drop(ask(&mut client, "a", 429).await.unwrap());
    assert_eq!(host(&layer.clone().handle(), "a").limit, 1);
    let set = layer.clone().max_waiting(5);
    assert_eq!(set.snapshot(), []);
    let mut apart = crate::rig::client(&set);
    drop(ask(&mut apart, "a", 200).await.unwrap());
    assert_eq!(host(&set.handle(), "a").limit, 10);
    assert_eq!(host(&layer.handle(), "a").limit, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hosts_first_throttle_is_told_once_also_after_it_was_forgotten() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let told = log.clone();
    let layer = AimdConcurrencyLayer::http()
        .max_hosts(1)
        .observe(move |host, event| {
            if let Event::FirstThrottle { .. } = event {
                told.lock().unwrap().push(host.to_owned());
            }
        });
    let mut client = client(&layer);
    for name in ["a", "b", "a", "b"] {
        drop(ask(&mut client, name, 200).await.unwrap());
        for _ in 0..2 {
            drop(ask(&mut client, name, 429).await.unwrap());
        }
    }
    assert_eq!(*log.lock().unwrap(), ["a", "b"]);
}

/// What is true of a fixed limit is true of it after an update, too.
#[tokio::test(start_paused = true)]
async fn an_update_moves_a_fixed_limit_only_by_its_maximum() {
    let layer = AimdConcurrencyLayer::http().fixed(4);
    let handle = layer.handle();
    let mut client = client(&layer);
    drop(ask(&mut client, "a", 200).await.unwrap());
    handle.update(|law| law.streak = Some(5));
    assert_eq!(host(&handle, "a").limit, 4);
    handle.update(|law| law.max = 8);
    assert_eq!(host(&handle, "a").limit, 8);
    drop(ask(&mut client, "b", 200).await.unwrap());
    assert_eq!(host(&handle, "b").limit, 8, "a host that came later");
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_at_once_the_later_holds_for_all_hosts() {
    let handle = Arc::new(std::sync::OnceLock::<tower_weir::aimd::AimdHandle>::new());
    // While the first change is on its way to b, another is made.
    let layer = AimdConcurrencyLayer::http().observe({
        let handle = handle.clone();
        move |_, event| {
            if let (Event::Limit { change, .. }, Some(handle)) = (event, handle.get())
                && change.before == 10
                && change.after == 5
            {
                handle.update(|law| law.min = 3);
                handle.update(|law| law.max = 3);
            }
        }
    });
    handle.set(layer.handle()).unwrap();
    let mut client = client(&layer);
    let calls = ["a", "b"].map(|host| call(&mut client, host));
    layer.handle().update(|law| (law.min, law.max) = (5, 5));
    for (host, snapshot) in layer.handle().snapshot() {
        assert_eq!(snapshot.limit, 3, "{host}");
    }
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_no_longer_than_max_hold_for_a_body_that_nobody_reads() {
    let layer = AimdConcurrencyLayer::http().max_hold(Duration::from_secs(5));
    let handle = layer.handle();
    let mut client = client(&layer);
    let start = Instant::now();
    let unread = ask(&mut client, "a", 200).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = ask(&mut client, "b", 200).await.unwrap();
    let drained = timeout_at(start + Duration::from_secs(60), handle.drain()).await;
    assert!(drained.is_ok(), "it hangs");
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    drop((unread, later));
}

#[tokio::test(start_paused = true)]
async fn a_body_past_max_hold_is_not_in_flight_whether_anybody_calls_or_not() {
    let layer = AimdConcurrencyLayer::http().max_hold(Duration::from_secs(5));
    let handle = layer.handle();
    let mut client = client(&layer);
    let unread = ask(&mut client, "a", 200).await.unwrap();
    assert_eq!(host(&handle, "a").in_flight, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(host(&handle, "a").in_flight, 0);
    drop(unread);
    assert_eq!(host(&handle, "a").in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_heeds_the_max_hold_of_what_is_answered_meanwhile() {
    let layer = AimdConcurrencyLayer::http().max_hold(Duration::from_secs(5));
    let handle = layer.handle();
    let mut client = client(&layer);
    drop(ask(&mut client, "quiet", 200).await.unwrap());
    let (tell, call) = call(&mut client, "a");
    let start = Instant::now();
    let late = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        tell.send(200).unwrap();
        call.await.unwrap()
    };
    let drains = async { tokio::join!(handle.drain(), handle.drain()) };
    let both = async { tokio::join!(late, drains) };
    let (unread, _) = timeout_at(start + Duration::from_secs(60), both)
        .await
        .expect("it hangs");
    assert_eq!(start.elapsed(), Duration::from_secs(8));
    drop(unread);
}
#[tokio::test(start_paused = true)]
async fn bodies_that_nobody_reads_do_not_make_the_limit_grow() {
    let layer = AimdConcurrencyLayer::http().max_hold(Duration::from_secs(5));
    let handle = layer.handle();
    let mut client = client(&layer);
    let mut unread = Vec::new();
    for _ in 0..200 {
        // Five at a time have their slots, of ten.
        unread.push(ask(&mut client, "a", 200).await.unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(host(&handle, "a").limit, 10);
}

/// A limit of 1, by a law that panics at a refusal.
#[derive(Debug)]
struct Panics;

impl LimitLaw for Panics {
    fn limit(&self) -> usize {
        1
    }

    fn settle(&mut self, sample: &Sample) -> Decision {
        assert_eq!(sample.verdict, Verdict::Success, "as it is meant to");
        Decision::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_law_that_panics_costs_no_slot() {
    let layer = AimdConcurrencyLayer::http().law(|_| Panics);
    let handle = layer.handle();
    let mut client = client(&layer);
    let (tell, refused) = call(&mut client, "a");
    tell.send(429).unwrap();
    assert!(tokio::spawn(refused).await.unwrap_err().is_panic());
    assert_eq!(host(&handle, "a").in_flight, 0);
    drop(ask(&mut client, "a", 200).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_law_that_panics_holds_up_nobody_who_waits() {
    let layer = AimdConcurrencyLayer::http().law(|_| Panics);
    let mut client = client(&layer);
    let (tell, refused) = call(&mut client, "a");
    let (good, waits) = call(&mut client, "a");
    good.send(200).unwrap();
    let waits = tokio::spawn(waits);
    tokio::task::yield_now().await;
    let began = Instant::now();
    tell.send(429).unwrap();
    assert!(tokio::spawn(refused).await.unwrap_err().is_panic());
    drop(waits.await.unwrap().unwrap());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// Two slots, by a law that panics the first time that a call ends.
#[derive(Debug, Default)]
struct PanicsAtFirst(bool);

impl LimitLaw for PanicsAtFirst {
    fn limit(&self) -> usize {
        2
    }

    fn settle(&mut self, _: &Sample) -> Decision {
        assert!(std::mem::replace(&mut self.0, true), "as it is meant to");
        Decision::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_head_makes_a_law_panic_ends_once() {
    let layer = AimdConcurrencyLayer::http().law(|_| PanicsAtFirst::default());
    let handle = layer.handle();
    let mut client = client(&layer);
    let unread = ask(&mut client, "a", 200).await.unwrap();
    let mut begun = begun(&mut client, 1);
    let (tell, second) = begun.remove(0);
    let (good, third) = call(&mut client, "a");
    good.send(200).unwrap();
    let third = tokio::spawn(third);
    // With its head all slots are bodies', and the first one gives its slot up.
    tokio::time::sleep(Duration::from_secs(7)).await;
    tell.send(200).unwrap();
    assert!(tokio::spawn(second).await.unwrap_err().is_panic());
    let third = third.await.unwrap().unwrap();
    drop((unread, third));
    tokio::time::sleep(Duration::from_secs(31)).await;
    drop(ask(&mut client, "a", 200).await.unwrap());
    assert_eq!(host(&handle, "a").in_flight, 0);
    let soon = Instant::now() + Duration::from_secs(1);
    timeout_at(soon, handle.drain()).await.expect("it hangs");
}

#[tokio::test(start_paused = true)]
async fn a_law_that_panics_over_an_old_body_costs_the_next_call_no_slot() {
    let layer = AimdConcurrencyLayer::http().law(|_| PanicsAtFirst::default());
    let layer = layer.max_hold(Duration::from_secs(5));
    let handle = layer.handle();
    let mut client = client(&layer);
    let _unread = ask(&mut client, "a", 200).await.unwrap();
    let (tell, second) = begun(&mut client, 1).remove(0);
    // Who ends then sees first to the body whose time is up.
    tokio::time::sleep(Duration::from_secs(7)).await;
    tell.send(429).unwrap();
    assert!(tokio::spawn(second).await.unwrap_err().is_panic());
    assert_eq!(host(&handle, "a").in_flight, 0);
}

/// It panics with whatever ends.
#[derive(Debug)]
struct PanicsAlways;

impl LimitLaw for PanicsAlways {
    fn limit(&self) -> usize {
        1
    }

    fn settle(&mut self, _: &Sample) -> Decision {
        panic!("as it is meant to")
    }
}

#[tokio::test(start_paused = true)]
async fn a_law_that_panics_with_the_call_itself_costs_no_slot() {
    let layer = AimdConcurrencyLayer::new(ErrorsFail).law(|_| PanicsAlways);
    let handle = layer.handle();
    let service = tower::service_fn(|by_itself: bool| async move {
        assert!(!by_itself, "as it is meant to");
        Ok::<_, BoxError>(())
    });
    for by_itself in [true, false] {
        let call = layer.layer(service).oneshot(by_itself);
        assert!(tokio::spawn(call).await.unwrap_err().is_panic());
        assert_eq!(host(&handle, "").in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_law_that_panics_holds_up_no_drain() {
    let layer = AimdConcurrencyLayer::http().law(|_| Panics);
    let handle = layer.handle();
    let (tell, refused) = call(&mut client(&layer), "a");
    let drain = tokio::spawn(async move { handle.drain().await });
    tokio::task::yield_now().await;
    tell.send(429).unwrap();
    assert!(tokio::spawn(refused).await.unwrap_err().is_panic());
    let soon = Instant::now() + Duration::from_secs(1);
    timeout_at(soon, drain).await.expect("it hangs").unwrap();
}
