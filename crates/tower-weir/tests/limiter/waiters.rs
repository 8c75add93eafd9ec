//! A hundred thousand waiters: what grants, cancels and a drain cost is counted
//! in wakes and polls, exactly.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use tokio::task::unconstrained;
use tower_weir::{
    aimd::{AimdConcurrencyLayer, LimiterSnapshot},
    error::ShuttingDown,
};

use crate::rig::{Call, Crowd, call, client, host, secs};

const CROWD: usize = 100_000;

/// One slot, which a call has, and all the others behind it.
struct Queue {
    layer: AimdConcurrencyLayer,
    first: (tokio::sync::oneshot::Sender<u16>, Call),
    crowd: Crowd,
}

impl Queue {
    fn new() -> Self {
        let layer = AimdConcurrencyLayer::http()
            .fixed(1)
            .max_waiting(CROWD)
            .queue_timeout(secs(600));
        let mut client = client(&layer);
        let first = call(&mut client, "a");
        let crowd = Crowd::waiting(&mut client, CROWD);
        let queue = Self {
            layer,
            first,
            crowd,
        };
        assert_eq!(queue.host().waiting, CROWD);
        queue
    }

    fn host(&self) -> LimiterSnapshot {
        host(&self.layer.handle(), "a")
    }
}

// Each test runs unconstrained: the timers of so many waiters would use up the
// task's budget, and a timer without budget wakes its task at once.

#[tokio::test(start_paused = true)]
async fn a_waiter_is_woken_for_its_turn_in_its_order_and_once_to_mind_the_clock() {
    unconstrained(async {
        let mut queue = Queue::new();
        let (tell, first) = queue.first;
        tell.send(200).unwrap();
        drop(first.await.unwrap());
        for turn in 0..CROWD {
            let replies = queue.crowd.run();
            assert_eq!(replies.len(), 1, "one slot, one reply");
            assert_eq!(replies[0].0, turn);
            // The reply's body gives the slot back.
            drop(replies);
        }
        // Once for its turn, and once before that (but for the first) to mind
        // the moment at which the slot of a reply ahead is free at the latest.
        // Two mind it: the last takes over from the one before it.
        assert_eq!(queue.crowd.wakes, 2 * CROWD);
        assert_eq!(queue.crowd.polls, CROWD + queue.crowd.wakes);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_wakes_as_many_as_it_admits() {
    unconstrained(async {
        let mut queue = Queue::new();
        queue.layer.handle().update(|law| law.max = 1001);
        let replies = queue.crowd.run();
        // And the first two of the others, to mind the clock.
        assert_eq!((replies.len(), queue.crowd.wakes), (1000, 1002));
        assert_eq!(queue.crowd.polls, CROWD + 1002);
        let host = queue.host();
        assert_eq!((host.in_flight, host.waiting), (1001, CROWD - 1000));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_wakes_nobody() {
    unconstrained(async {
        let mut queue = Queue::new();
        // From both ends and out of the middle.
        let (even, odd) = (0..CROWD).partition::<Vec<_>, _>(|number| number % 2 == 0);
        for number in even.into_iter().chain(odd.into_iter().rev()) {
            queue.crowd.cancel(number);
        }
        assert_eq!(queue.crowd.next_woken(), None);
        assert_eq!((queue.host().waiting, queue.host().in_flight), (0, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_wants_is_passed_on_once_each() {
    unconstrained(async {
        let mut queue = Queue::new();
        let (tell, first) = queue.first;
        tell.send(200).unwrap();
        drop(first.await.unwrap());
        for turn in 0..CROWD {
            assert_eq!(queue.crowd.next_woken(), Some(turn));
            queue.crowd.cancel(turn);
        }
        assert_eq!(queue.crowd.next_woken(), None);
        let host = host(&queue.layer.handle(), "a");
        assert_eq!((host.waiting, host.in_flight), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_waiter_minds_the_clock_whoever_leaves() {
    unconstrained(async {
        let mut queue = Queue::new();
        let (tell, first) = queue.first;
        tell.send(200).unwrap();
        // Its body is kept: the slot is free after `max_hold`.
        let kept = first.await.unwrap();
        let minding = queue.crowd.next_woken();
        assert_eq!(minding, Some(0), "the first sets its timer to that moment");
        for number in 0..CROWD - 1 {
            queue.crowd.cancel(number);
        }
        // Each was the first in its turn; none was woken twice.
        let woken = std::iter::from_fn(|| queue.crowd.next_woken());
        assert!(woken.eq(1..CROWD));
        let before = tokio::time::Instant::now();
        assert!(queue.crowd.poll(CROWD - 1).is_none());
        tokio::time::sleep(secs(31)).await;
        assert_eq!(queue.crowd.run().len(), 1);
        assert_eq!(before.elapsed(), secs(31));
        drop(kept);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_each_waiter_once_and_ends_with_the_last_call() {
    unconstrained(async {
        let mut queue = Queue::new();
        let (tell, first) = queue.first;
        let handle = queue.layer.handle();
        let mut drain = pin!(handle.drain());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(drain.as_mut().poll(&mut cx).is_pending());
        let replies = queue.crowd.run();
        assert_eq!((replies.len(), queue.crowd.wakes), (CROWD, CROWD));
        assert_eq!(queue.crowd.polls, 2 * CROWD);
        for (_, reply) in replies {
            let refused = reply.unwrap_err();
            assert_eq!(refused.downcast_ref::<ShuttingDown>().unwrap().host(), "a");
        }

        tell.send(200).unwrap();
        let last = first.await.unwrap();
        assert!(
            drain.as_mut().poll(&mut cx).is_pending(),
            "its body is open"
        );
        drop(last);
        assert_eq!(drain.poll(&mut cx), Poll::Ready(()));
    })
    .await;
}

/// A caller who makes all calls before it polls one, as `join_all` does.
#[tokio::test(start_paused = true)]
async fn calls_that_nobody_polls_yet_are_not_searched_again_and_again() {
    unconstrained(async {
        let layer = AimdConcurrencyLayer::http().fixed(1).max_waiting(CROWD);
        let mut client = client(&layer);
        let (tell, first) = call(&mut client, "a");
        tell.send(200).unwrap();
        let kept = first.await.unwrap();
        let calls: Vec<_> = (0..CROWD).map(|_| call(&mut client, "a")).collect();
        assert_eq!(host(&layer.handle(), "a").waiting, CROWD);
        drop((kept, calls));
        assert_eq!(host(&layer.handle(), "a").waiting, 0);
    })
    .await;
}

#[test]
fn a_waiting_call_is_as_small_as_documented() {
    let request = size_of::<http::Request<tokio::sync::oneshot::Receiver<u16>>>();
    let own = size_of::<Call>() - request;
    assert!(own <= 248, "{own} bytes besides the request");
}
