//! Many hosts, and few of them remembered.

use std::time::Duration;

use tower_weir::aimd::AimdConcurrencyLayer;

use crate::rig::{ask, call, client, host};

const MAX: usize = 256;

#[tokio::test(start_paused = true)]
async fn ten_thousand_hosts_in_rotation_keep_those_in_use_and_no_more_than_the_maximum() {
    let layer = AimdConcurrencyLayer::http().max_hosts(MAX);
    let handle = layer.handle();
    let mut client = client(&layer);
    let busy = ["busy-1", "busy-2", "busy-3"];
    let mut calls = Vec::new();
    for name in busy {
        calls.push(call(&mut client, name));
        // The refusal of one of two calls lowers the limit from 10 to 1.
        drop(ask(&mut client, name, 429).await.unwrap());
        calls.push(call(&mut client, name));
    }
    for round in 0..2 {
        for number in 0..10_000 {
            let name = format!("host-{number}");
            drop(ask(&mut client, &name, 200).await.unwrap());
            if number % 100 == 0 || round == 1 && number > 9_900 {
                assert!(handle.snapshot().len() <= MAX);
            }
        }
    }
    assert_eq!(handle.snapshot().len(), MAX);
    for name in busy {
        let state = host(&handle, name);
        assert_eq!((state.limit, state.in_flight, state.waiting), (1, 1, 1));
    }
    for (tell, call) in calls {
        tell.send(200).unwrap();
        drop(call.await.unwrap());
    }
    for name in busy {
        let state = host(&handle, name);
        assert_eq!((state.in_flight, state.waiting), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_in_use_may_be_more_than_the_maximum_until_they_are_done() {
    let layer = AimdConcurrencyLayer::http().max_hosts(MAX);
    let handle = layer.handle();
    let mut client = client(&layer);
    let calls: Vec<_> = (0..300)
        .map(|number| call(&mut client, &format!("host-{number}")))
        .collect();
    assert_eq!(handle.snapshot().len(), 300);
    for (tell, call) in calls {
        tell.send(200).unwrap();
        drop(call.await.unwrap());
    }
    drop(ask(&mut client, "one-more", 200).await.unwrap());
    assert_eq!(handle.snapshot().len(), MAX);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_host_begins_anew() {
    let layer = AimdConcurrencyLayer::http().max_hosts(1);
    let handle = layer.handle();
    let mut client = client(&layer);
    drop(ask(&mut client, "a", 429).await.unwrap());
    assert_eq!(host(&handle, "a").limit, 1);
    drop(ask(&mut client, "b", 200).await.unwrap());
    drop(ask(&mut client, "a", 200).await.unwrap());
    assert_eq!(host(&handle, "a").limit, 10);
}

#[tokio::test(start_paused = true)]
async fn a_new_host_takes_the_place_of_the_one_that_was_last_used_the_longest_ago() {
    let layer = AimdConcurrencyLayer::http().max_hosts(3);
    let handle = layer.handle();
    let mut client = client(&layer);
    drop(ask(&mut client, "a", 429).await.unwrap());
    for name in ["b", "c", "a", "b", "c"] {
        drop(ask(&mut client, name, 200).await.unwrap());
    }
    // No host has been new since, and only this one is in use.
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(ask(&mut client, "a", 200).await.unwrap());
    }
    drop(ask(&mut client, "c", 200).await.unwrap());
    drop(ask(&mut client, "new", 200).await.unwrap());
    let known: Vec<_> = handle
        .snapshot()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(known, ["a", "c", "new"].map(Into::into));
}
