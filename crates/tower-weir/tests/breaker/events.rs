//! What the breaker tells its subscribers.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tower_weir::{
    circuit_breaker::{ChangeCause, Control, State, Transition, WhenOpen},
    observe::{Event, Refused},
};

use crate::rig::{Act, HOST, Rig, both, config, pass, seconds};

/// What has been told so far.
fn told(rig: &mut Rig) -> Vec<Event> {
    let mut events = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(notice) = pin!(rig.events.recv()).poll(&mut context) {
        let notice = notice.unwrap();
        assert_eq!(&*notice.host, HOST);
        events.push(notice.event);
    }
    events
}

fn transition(event: Event) -> Transition {
    match event {
        Event::Circuit(transition) => transition,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn subscribers_are_told_of_every_transition() {
    both(config(), WhenOpen::Refuse, |mut rig| async move {
        rig.sent(Act::Status(200)).await;
        pass(seconds(60)).await;
        rig.trip().await;
        pass(seconds(1)).await;
        rig.sent(Act::Status(500)).await;
        pass(seconds(2)).await;
        rig.sent(Act::Status(200)).await;
        rig.sent(Act::Status(200)).await;
        rig.control(Control::ForcedOpen);
        rig.control(Control::Automatic);
        let told = told(&mut rig);
        let told: Vec<_> = told.into_iter().map(transition).collect();
        let moves: Vec<_> = told
            .iter()
            .map(|change| (change.from, change.to, change.cause))
            .collect();
        use State::{Closed, HalfOpen, Open};
        assert_eq!(
            moves,
            [
                (Closed, Open, ChangeCause::FailureRun),
                (Open, HalfOpen, ChangeCause::OpenElapsed),
                (HalfOpen, Open, ChangeCause::ProbeFailed),
                (Open, HalfOpen, ChangeCause::OpenElapsed),
                (HalfOpen, Closed, ChangeCause::ProbesSucceeded),
                (Closed, Open, ChangeCause::Manual),
                (Open, Closed, ChangeCause::Manual),
            ]
        );
        let opened = told[0];
        assert_eq!((opened.counts.calls, opened.counts.failed), (4, 3));
        assert_eq!(opened.counts.failure_rate(), 0.75);
        assert_eq!(opened.open_for, Some(seconds(1)));
        assert_eq!(opened.lasted, seconds(60));
        assert_eq!(told[2].open_for, Some(seconds(2)));
        assert_eq!(told[4].lasted, Duration::ZERO);
        assert_eq!((told[5].open_for, told[6].open_for), (None, None));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn subscribers_are_told_of_every_refusal() {
    both(config(), WhenOpen::Refuse, |mut rig| async move {
        rig.trip().await;
        for _ in 0..3 {
            rig.refused().await;
        }
        let told = told(&mut rig);
        assert_eq!(told.len(), 1 + 3);
        assert_eq!(
            told[1..],
            [(); 3].map(|()| Event::Refused(Refused::CircuitOpen))
        );
    })
    .await;
}
