//! Gates that keep lanes apart and places for those who wait.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Answer, Ask, End, Gate, Load, Queued, sealed::Sealed};
use crate::{
    BoxError,
    admit::{
        count::Count,
        entry::Entry,
        knobs::Knobs,
        list::{Key, List},
        permit::Permit,
        settings::Settings,
        waiter::{Entered, Patience, Waiter, Wish, enter},
    },
    alarm::Alarm,
    deadline::far,
    observe::{Events, Seam},
    shutdown::Member,
};

/// So many slots for each of two lanes, and places for all who wait.
struct Lanes {
    free: [usize; 2],
    places: List<()>,
}

impl Sealed for Lanes {}

impl Gate for Lanes {
    type Config = [usize; 2];
    type Ticket = usize;

    fn open(free: &[usize; 2], _: &Arc<str>, _: u64, _: Instant) -> Self {
        Self {
            free: *free,
            places: List::new(1),
        }
    }

    fn ask(&mut self, ask: Ask, _: &mut Events) -> Answer<usize> {
        let lane = ask.load.lane;
        if self.free[lane] == 0 {
            return Answer::Wait;
        }
        self.free[lane] -= 1;
        if let Some(place) = ask.place {
            self.places.remove(place);
        }
        Answer::Go(lane)
    }

    fn refuses(&self, _: Instant) -> Option<BoxError> {
        None
    }

    fn is_shut(&self, _: Instant) -> bool {
        false
    }

    fn settle(&mut self, lane: usize, _: &End, _: &mut Events) {
        self.free[lane] += 1;
    }

    fn next_event(&self, _: usize, _: Instant) -> Option<Instant> {
        None
    }

    fn reconfigure(&mut self, _: &[usize; 2], _: Instant, _: &mut Events) {}

    fn closed_until(&self, _: Instant) -> Option<Instant> {
        None
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn srtt(&self) -> Option<Duration> {
        None
    }

    fn hold(&self, _: usize) -> Option<Duration> {
        None
    }

    fn lanes(&self) -> usize {
        2
    }

    fn is_blocked(&self, lane: usize) -> bool {
        self.free[lane] == 0
    }

    fn rejects(&mut self, ask: &Ask, _: &mut Events) -> Option<BoxError> {
        (ask.load.bytes > 9).then(|| "too large".into())
    }

    fn queue(&mut self, ask: &Ask, _: &mut Events) -> Queued {
        Queued {
            place: Some(self.places.push_back(0, ())),
            until: Some(far(ask.now, Duration::from_secs(5))),
        }
    }

    fn leave(&mut self, place: Key, _: Instant) {
        self.places.remove(place);
    }

    fn lose_patience(&mut self, place: Key, _: Instant) -> Option<BoxError> {
        self.places.get(place).map(|()| "too late".into())
    }
}

fn entry(free: [usize; 2]) -> Arc<Entry<Lanes>> {
    let name: Arc<str> = "".into();
    let gate = Lanes::open(&free, &name, 0, Instant::now());
    let (seam, drained) = (Seam::default(), Arc::new(Notify::new()));
    let knobs = Arc::new(Knobs::of(&Settings::default()));
    Arc::new(Entry::new(name, gate, seam, drained, knobs, false))
}

fn come(entry: &Arc<Entry<Lanes>>, lane: usize, bytes: u64) -> Result<Entered<Lanes>, BoxError> {
    let now = Instant::now();
    let load = Load {
        lane,
        bytes,
        frees: false,
    };
    let wish = Wish {
        patience: Patience {
            until: far(now, Duration::MAX),
            deadline: None,
        },
        weight: 1,
        load,
    };
    enter(entry, now, wish, || Count::default().enter(1))
}

fn admitted(entry: &Arc<Entry<Lanes>>, lane: usize) -> Permit<Lanes> {
    match come(entry, lane, 0).unwrap() {
        Entered::Admitted(permit) => permit,
        Entered::Waiting(_) => panic!("it waits"),
    }
}

fn waiting(entry: &Arc<Entry<Lanes>>, lane: usize) -> Waiter<Lanes> {
    match come(entry, lane, 0).unwrap() {
        Entered::Admitted(_) => panic!("it was admitted"),
        Entered::Waiting(waiter) => waiter,
    }
}

fn look(waiter: &mut Waiter<Lanes>) -> Poll<Result<Permit<Lanes>, BoxError>> {
    waiter.poll(
        pin!(Alarm::new()).as_mut(),
        &mut Context::from_waker(Waker::noop()),
    )
}

fn places(entry: &Entry<Lanes>) -> usize {
    entry.inspect(|gate, _| gate.places.len())
}

#[tokio::test(start_paused = true)]
async fn a_blocked_lane_holds_nobody_up_and_keeps_its_turn() {
    let entry = entry([1, 1]);
    let expensive = admitted(&entry, 0);
    let mut next = waiting(&entry, 0);
    let cheap = admitted(&entry, 1);
    let mut last = waiting(&entry, 1);
    assert!(look(&mut next).is_pending());
    drop(cheap);
    assert!(look(&mut next).is_pending());
    assert!(look(&mut last).is_ready());
    drop(expensive);
    assert!(look(&mut next).is_ready());
    assert_eq!(places(&entry), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_gives_the_place_back() {
    let entry = entry([1, 0]);
    let running = admitted(&entry, 0);
    let (gone, mut late) = (waiting(&entry, 0), waiting(&entry, 1));
    let (granted, mut drained) = (waiting(&entry, 0), waiting(&entry, 1));
    assert_eq!(places(&entry), 4);
    drop(gone);
    assert_eq!(places(&entry), 3);
    drop(running);
    assert_eq!(places(&entry), 2);
    drop(granted);
    tokio::time::advance(Duration::from_secs(5)).await;
    let Poll::Ready(Err(error)) = look(&mut late) else {
        panic!("it waits for too long");
    };
    assert_eq!(error.to_string(), "too late");
    assert_eq!(places(&entry), 1);
    // Those of a blocked lane too.
    assert_eq!(entry.close(), 1);
    assert!(look(&mut drained).is_ready());
    assert_eq!(places(&entry), 0);
    assert!(entry.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn a_gate_can_reject_a_newcomer_for_what_it_is() {
    let entry = entry([1, 1]);
    assert!(come(&entry, 0, 10).is_err());
    assert_eq!(places(&entry), 0);
    drop(admitted(&entry, 0));
}
