mod drain;

use super::*;
use crate::{
    admit::gate::Load,
    outcome::Outcome,
    server::{ClassLimits, Reason, Rejected, Rejections},
};

const RECORD: Class = Class::RECORD;

fn gate(change: impl FnOnce(&mut AdmissionConfig)) -> ServerGate {
    let mut config = AdmissionConfig::default();
    change(&mut config);
    ServerGate::open(&config, &"".into(), 1, Instant::now())
}

fn ask(gate: &ServerGate, class: Class, bytes: u64, now: Instant) -> Ask {
    Ask {
        now,
        weight: class.weight(),
        crowded: false,
        load: Load {
            lane: gate.config.lane_of(class),
            bytes,
            frees: class.frees(),
        },
        place: None,
    }
}

/// What becomes of a newcomer, if nobody else is in its way.
#[derive(Debug)]
enum Fate {
    Runs(Key),
    Waits(Ask),
    Rejected(Rejected),
}

fn come(gate: &mut ServerGate, class: Class, bytes: u64, now: Instant) -> Fate {
    let ask = ask(gate, class, bytes, now);
    let events = &mut Events::default();
    if let Some(key) = gate.admit(&ask) {
        return Fate::Runs(key);
    }
    if let Some(error) = gate.rejects(&ask, events) {
        return Fate::Rejected(*error.downcast().unwrap());
    }
    match gate.ask(ask, events) {
        Answer::Go(key) => Fate::Runs(key),
        Answer::Wait => {
            let place = gate.queue(&ask, events).place;
            Fate::Waits(Ask { place, ..ask })
        }
        Answer::Refuse(error) => panic!("{error}"),
    }
}

fn runs(gate: &mut ServerGate, class: Class, now: Instant) -> Key {
    match come(gate, class, 0, now) {
        Fate::Runs(key) => key,
        other => panic!("{other:?}"),
    }
}

fn waits(gate: &mut ServerGate, class: Class, now: Instant) -> Ask {
    match come(gate, class, 0, now) {
        Fate::Waits(ask) => ask,
        other => panic!("{other:?}"),
    }
}

fn rejected(gate: &mut ServerGate, class: Class, bytes: u64, now: Instant) -> Rejected {
    match come(gate, class, bytes, now) {
        Fate::Rejected(rejected) => rejected,
        other => panic!("{other:?}"),
    }
}

fn end(gate: &mut ServerGate, key: Key, started: Instant, now: Instant) {
    let end = End {
        started,
        now,
        rtt: now - started,
        how: How::Outcome(Outcome::success()),
    };
    gate.settle(key, &end, &mut Events::default());
}

fn counts(gate: &mut ServerGate, class: Class) -> (usize, usize, u64) {
    let snapshot = gate.snapshot("".into(), Instant::now());
    let class = snapshot.class(class.name()).unwrap();
    (class.pending, class.delayed, class.rejected.total())
}

#[tokio::test(start_paused = true)]
async fn a_hundred_run_the_next_waits_and_the_one_after_five_thousand_is_rejected() {
    let (mut gate, now) = (gate(|_| {}), Instant::now());
    for _ in 0..100 {
        runs(&mut gate, RECORD, now);
    }
    for _ in 100..5000 {
        waits(&mut gate, RECORD, now);
    }
    let rejected = rejected(&mut gate, RECORD, 0, now);
    assert_eq!(rejected.reason(), Reason::TooManyJobs);
    assert_eq!(counts(&mut gate, RECORD), (5000, 4900, 1));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_ends_at_once_says_how_long_its_class_takes() {
    let (mut gate, now) = (gate(|_| {}), Instant::now());
    let heads = Heads::new(Since(now));
    let mut ends_after = |class, millis| {
        let head = now + Duration::from_millis(millis);
        let key = runs(&mut gate, class, now);
        heads.set(key.place(), head);
        assert_eq!(gate.settle_quietly(key, &heads, head), Some(true));
        assert_eq!(heads.get(key.place()), None);
        let own = gate.lane(gate.config.lane_of(class)).service.get();
        (gate.service.get(), own)
    };
    let millis = |millis| Some(Duration::from_millis(millis));
    assert_eq!(ends_after(RECORD, 900), (millis(900), millis(900)));
    assert_eq!(ends_after(RECORD, 100), (millis(800), millis(800)));
    for _ in 0..200 {
        ends_after(RECORD, 100);
    }
    // However many others there were, the first of its class is known.
    let (_, own) = ends_after(Class::STRUCTURAL, 10_000);
    assert_eq!(own, millis(10_000));
}

#[tokio::test(start_paused = true)]
async fn none_begins_later_than_its_delay_allows() {
    let (mut gate, now) = (gate(|config| config.limits.throttle_at = 1), Instant::now());
    let first = runs(&mut gate, RECORD, now);
    let [late, next] = [(); 2].map(|()| waits(&mut gate, RECORD, now));
    let until = now + Duration::from_secs(30);
    end(&mut gate, first, now, until);
    let events = &mut Events::default();
    // Its task was not run in time, so that it has not left by itself.
    let after = until + Duration::from_nanos(1);
    match gate.ask(Ask { now: after, ..late }, events) {
        Answer::Refuse(error) => {
            let rejected: &Rejected = error.downcast_ref().unwrap();
            assert_eq!(rejected.reason(), Reason::TooManyJobs);
        }
        other => panic!("{other:?}"),
    }
    gate.leave(late.place.unwrap(), after);
    let answer = gate.ask(Ask { now: until, ..next }, events);
    assert!(matches!(answer, Answer::Go(_)), "{answer:?}");
    assert_eq!(counts(&mut gate, RECORD), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_class_waits_and_is_rejected_by_limits_of_its_own() {
    let now = Instant::now();
    let mut gate = gate(|config| {
        let limits = ClassLimits::new().throttle_at(2).reject_at(3);
        config.declare(Class::STRUCTURAL, limits);
    });
    let first = runs(&mut gate, Class::STRUCTURAL, now);
    runs(&mut gate, Class::STRUCTURAL, now);
    let lane = gate.config.lane_of(Class::STRUCTURAL);
    assert!(gate.is_blocked(lane));
    waits(&mut gate, Class::STRUCTURAL, now);
    let refused = rejected(&mut gate, Class::STRUCTURAL, 0, now);
    assert_eq!(refused.class(), "structural");
    runs(&mut gate, RECORD, now);
    end(&mut gate, first, now, now);
    assert!(!gate.is_blocked(lane));
    assert_eq!(counts(&mut gate, Class::STRUCTURAL), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn weights_count_and_one_heavier_than_all_runs_alone() {
    let now = Instant::now();
    let mut gate = gate(|config| config.limits.throttle_at = 8);
    let ten = std::num::NonZeroUsize::new(10).unwrap();
    let heavy = RECORD.weighing(ten);
    let alone = runs(&mut gate, heavy, now);
    let place = waits(&mut gate, RECORD, now);
    end(&mut gate, alone, now, now);
    let answer = gate.ask(place, &mut Events::default());
    assert!(matches!(answer, Answer::Go(_)));
    waits(&mut gate, heavy, now);
    assert_eq!(gate.snapshot("".into(), now).weight, 11);
}

#[tokio::test(start_paused = true)]
async fn bytes_age_and_storage_are_reasons_too() {
    let start = Instant::now();
    let mut gate = gate(|config| {
        config.limits.max_bytes = Some(100);
        config.limits.max_age = Some(Duration::from_secs(60));
    });
    // One of any size is let through.
    let Fate::Runs(large) = come(&mut gate, RECORD, 1000, start) else {
        panic!("a single one must run");
    };
    let refused = rejected(&mut gate, RECORD, 1, start);
    assert_eq!(refused.reason(), Reason::QueueTooLarge);
    end(&mut gate, large, start, start);
    runs(&mut gate, RECORD, start);
    assert!(matches!(come(&mut gate, RECORD, 100, start), Fate::Runs(_)));
    let refused = rejected(&mut gate, RECORD, 1, start);
    assert_eq!(refused.reason(), Reason::QueueTooLarge);

    let minute = start + Duration::from_secs(60);
    runs(&mut gate, Class::STRUCTURAL, minute);
    let later = minute + Duration::from_millis(1);
    let refused = rejected(&mut gate, Class::STRUCTURAL, 0, later);
    assert_eq!(refused.reason(), Reason::OldJobs);

    let mut config = gate.config.clone();
    config.storage = 0.95;
    gate.reconfigure(&config, later, &mut Events::default());
    let refused = rejected(&mut gate, RECORD, 0, start);
    assert_eq!(refused.reason(), Reason::StorageFull);
    assert_eq!(refused.retry_after(), None);
    runs(&mut gate, RECORD.freeing(), start);
    runs(&mut gate, Class::STRUCTURAL.freeing(), start);
    let snapshot = gate.snapshot("".into(), later);
    let rejected = Rejections {
        queue_too_large: 2,
        storage_full: 1,
        ..Rejections::default()
    };
    assert_eq!(snapshot.class("record").unwrap().rejected, rejected);
    assert_eq!(snapshot.class("structural").unwrap().rejected.old_jobs, 1);
    let oldest = snapshot.class("record").unwrap().oldest;
    assert_eq!(oldest, Some(later - start));
    assert_eq!(snapshot.class("record").unwrap().bytes, 100);
}

#[tokio::test(start_paused = true)]
async fn limits_of_zero_are_limits() {
    let now = Instant::now();
    let mut paused = gate(|config| config.limits.throttle_at = 0);
    waits(&mut paused, RECORD, now);
    waits(&mut paused, Class::STRUCTURAL, now);
    let mut blocked = gate(|config| config.declare(RECORD, ClassLimits::new().throttle_at(0)));
    waits(&mut blocked, RECORD, now);
    runs(&mut blocked, Class::STRUCTURAL, now);
    let mut shut = gate(|config| config.limits.reject_at = 0);
    rejected(&mut shut, RECORD, 0, now);
    let mut shut = gate(|config| config.declare(RECORD, ClassLimits::new().reject_at(0)));
    rejected(&mut shut, RECORD, 0, now);
    runs(&mut shut, Class::STRUCTURAL, now);
}

#[tokio::test(start_paused = true)]
async fn light_classes_go_first() {
    let config = {
        let mut config = AdmissionConfig::default();
        let two = std::num::NonZeroUsize::new(2).unwrap();
        config.declare(Class::new("late"), ClassLimits::new());
        config.declare(Class::new("import").weighing(two), ClassLimits::new());
        config
    };
    let order = ["record", "late", "import", "structural"];
    let gate = ServerGate::open(&config, &"".into(), 1, Instant::now());
    let snapshot = gate.snapshot("".into(), Instant::now());
    let classes: Vec<_> = snapshot.classes.iter().map(|class| class.class).collect();
    assert_eq!(classes, order);
    // One that was not declared is a record.
    let record = config.lane_of(RECORD);
    assert_eq!(config.lane_of(Class::new("unheard of")), record);
}

#[tokio::test(start_paused = true)]
async fn weights_and_sizes_may_be_as_great_as_numbers_are() {
    let now = Instant::now();
    let all = RECORD.weighing(std::num::NonZeroUsize::MAX);
    for limit in [1, 5000, usize::MAX] {
        let mut gate = gate(|config| {
            config.limits.throttle_at = limit;
            config.limits.reject_at = limit;
        });
        for _ in 0..30 {
            let first = runs(&mut gate, all, now);
            rejected(&mut gate, RECORD, 0, now);
            rejected(&mut gate, all, 0, now);
            end(&mut gate, first, now, now);
        }
        let key = runs(&mut gate, RECORD, now);
        end(&mut gate, key, now, now);
    }
    let mut gate = gate(|config| config.limits.throttle_at = 1);
    let Fate::Runs(first) = come(&mut gate, RECORD, u64::MAX, now) else {
        panic!("there is room");
    };
    let Fate::Waits(second) = come(&mut gate, RECORD, u64::MAX, now) else {
        panic!("there is none");
    };
    let snapshot = gate.snapshot("".into(), now);
    assert_eq!(snapshot.class("record").unwrap().bytes, u64::MAX);
    gate.leave(second.place.unwrap(), now);
    end(&mut gate, first, now, now);
    let snapshot = gate.snapshot("".into(), now);
    assert_eq!(snapshot.class("record").unwrap().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn every_unread_body_is_over_when_it_has_been_held_for_long_enough() {
    const HOLD: Duration = Duration::from_secs(1);
    const COUNT: usize = 500;
    let begin = Instant::now();
    let mut gate = gate(|config| {
        config.max_hold = HOLD;
        config.limits.throttle_at = 10 * COUNT;
        config.declare(Class::STRUCTURAL, ClassLimits::new());
    });
    let heads = Heads::new(gate.since);
    let mut expected = std::collections::BTreeMap::new();
    for n in 0..COUNT as u64 {
        let class = if n % 7 == 0 {
            Class::STRUCTURAL
        } else {
            RECORD
        };
        let came = begin + Duration::from_millis(n);
        let key = runs(&mut gate, class, came);
        // One in ten has no head.
        if n % 10 > 0 {
            let head = came + Duration::from_millis(n * 7919 % 1500);
            heads.set(key.place(), head);
            expected.insert((head + HOLD, key.place()), key);
        }
    }
    let last = begin + 10 * HOLD;
    while let Some(now) = gate.overdue_at().filter(|now| *now < last) {
        for (key, end) in gate.overdue(&heads, now) {
            assert_eq!(end.now, now);
            assert_eq!(expected.remove(&(now, key.place())), Some(key));
            gate.settle(key, &end, &mut Events::default());
        }
        assert!(gate.overdue_at().is_none_or(|next| next > now));
    }
    assert!(expected.is_empty(), "{expected:?}");
    assert_eq!(gate.snapshot("".into(), last).pending(), COUNT / 10);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_is_found_whichever_ends_first() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut gate = gate(|config| config.limits.max_age = Some(Duration::from_secs(10)));
    let mut keys = vec![];
    for second in 0..5 {
        keys.push(runs(&mut gate, RECORD, at(second)));
    }
    let oldest = |gate: &mut ServerGate, now| {
        let snapshot = gate.snapshot("".into(), now);
        snapshot.class("record").unwrap().oldest
    };
    let ages = |gate: &mut ServerGate, now: Instant| match come(gate, RECORD, 0, now) {
        Fate::Rejected(rejected) => Some(rejected.why),
        Fate::Runs(key) => {
            end(gate, key, now, now);
            None
        }
        Fate::Waits(ask) => panic!("{ask:?}"),
    };
    let limit = Duration::from_secs(10);
    for (ended, left) in [(0, 1), (3, 1), (1, 2), (2, 4)] {
        end(&mut gate, keys[ended], at(0), at(9));
        let age = Duration::from_secs(9 - left);
        assert_eq!(oldest(&mut gate, at(9)), Some(age));
        // On its limit it is not over it.
        assert_eq!(ages(&mut gate, at(left + 10)), None);
        let late = at(left + 10) + Duration::from_nanos(1);
        let oldest = limit + Duration::from_nanos(1);
        assert_eq!(ages(&mut gate, late), Some(Why::Age { oldest, limit }));
    }
    end(&mut gate, keys[4], at(0), at(9));
    assert_eq!(oldest(&mut gate, at(9)), None);
    assert_eq!(ages(&mut gate, at(100)), None);
}

#[tokio::test(start_paused = true)]
async fn threads_may_tell_of_their_ends_in_another_order_than_these_came() {
    let start = Instant::now();
    let mut gate = gate(|config| config.limits.throttle_at = 8);
    let running: Vec<_> = (0..8).map(|_| runs(&mut gate, RECORD, start)).collect();
    for _ in 0..8 {
        waits(&mut gate, RECORD, start);
    }
    // Each has read the clock before it waited for the lock.
    for (key, millis) in running.into_iter().zip([1, 3, 2, 9, 8, 7, 6, 5]) {
        end(&mut gate, key, start, start + Duration::from_millis(millis));
    }
    let refused = gate.drained_in(gate.config.lane_of(RECORD), start);
    assert!(refused > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn whoever_may_wait_for_ever_is_never_late() {
    let start = Instant::now();
    let most = [
        Duration::MAX,
        Duration::from_millis(u64::MAX),
        Duration::from_secs(1 << 55),
        Duration::from_nanos(u64::MAX),
    ];
    for max_delay in most {
        let mut gate = gate(|config| {
            config.limits.throttle_at = 1;
            config.limits.max_delay = max_delay;
        });
        let now = start + Duration::from_secs(1);
        let first = runs(&mut gate, RECORD, now);
        let next = waits(&mut gate, RECORD, now);
        let now = now + Duration::from_secs(1);
        end(&mut gate, first, start, now);
        let answer = gate.ask(Ask { now, ..next }, &mut Events::default());
        assert!(matches!(answer, Answer::Go(_)), "{max_delay:?} {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_that_are_set_later_count_what_came_before() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut gate = gate(|config| config.limits.throttle_at = 3);
    let set = |gate: &mut ServerGate, change: &dyn Fn(&mut AdmissionConfig)| {
        let mut config = gate.config.clone();
        change(&mut config);
        gate.reconfigure(&config, start, &mut Events::default());
    };
    let sized = |gate: &mut ServerGate, second| match come(gate, RECORD, 40, at(second)) {
        Fate::Runs(key) => key,
        Fate::Waits(ask) => ask.place.unwrap(),
        Fate::Rejected(rejected) => panic!("{rejected}"),
    };
    let bytes = |gate: &mut ServerGate, pending| {
        let why = rejected(gate, RECORD, 21, at(4)).why;
        assert_eq!(
            why,
            Why::Bytes {
                pending,
                limit: 100
            }
        );
        let snapshot = gate.snapshot("".into(), at(4));
        assert_eq!(snapshot.class("record").unwrap().bytes, pending);
    };
    let keys = [0, 1, 2, 3].map(|second| sized(&mut gate, second));
    set(&mut gate, &|config| config.limits.max_bytes = Some(100));
    bytes(&mut gate, 160);
    end(&mut gate, keys[0], start, at(4));
    // The storage keeps the gate strict while sizes are not limited.
    set(&mut gate, &|config| {
        config.limits.max_bytes = None;
        config.storage = 1.0;
    });
    end(&mut gate, keys[2], start, at(4));
    set(&mut gate, &|config| config.storage = 0.0);
    gate.leave(keys[3], at(4));
    let others = [sized(&mut gate, 4), sized(&mut gate, 4)];
    set(&mut gate, &|config| config.limits.max_bytes = Some(100));
    bytes(&mut gate, 120);
    end(&mut gate, others[0], start, at(4));
    bytes(&mut gate, 80);

    let limit = Duration::from_secs(2);
    set(&mut gate, &|config| {
        config.limits.max_bytes = None;
        config.limits.max_age = Some(limit);
    });
    let oldest = Duration::from_secs(3);
    let refused = rejected(&mut gate, RECORD, 0, at(4));
    assert_eq!(refused.why, Why::Age { oldest, limit });
    end(&mut gate, keys[1], start, at(4));
    runs(&mut gate, RECORD, at(6));
    set(&mut gate, &|config| config.limits.max_age = None);
    runs(&mut gate, RECORD, at(7));
    end(&mut gate, others[1], start, at(7));
    set(&mut gate, &|config| config.limits.max_age = Some(limit));
    // The next has come at 6.
    runs(&mut gate, RECORD, at(8));
    let oldest = Duration::from_secs(3);
    let refused = rejected(&mut gate, RECORD, 0, at(9));
    assert_eq!(refused.why, Why::Age { oldest, limit });
}

#[tokio::test(start_paused = true)]
async fn the_many_are_looked_at_seldom_whatever_is_held_among_them() {
    const HOLD: Duration = Duration::from_secs(1);
    const COUNT: usize = 500;
    let begin = Instant::now();
    let mut gate = gate(|config| {
        config.max_hold = HOLD;
        config.limits.throttle_at = COUNT;
    });
    let heads = Heads::new(gate.since);
    for n in 0..COUNT as u32 {
        let at = begin + n * HOLD / COUNT as u32;
        heads.set(runs(&mut gate, RECORD, at).place(), at);
    }
    for _ in 0..COUNT {
        waits(&mut gate, RECORD, begin + HOLD / 2);
    }
    let (mut found, mut looks) = (0, 0);
    while found < COUNT {
        let again = gate.soon.again;
        let now = gate.overdue_at().unwrap();
        for (key, end) in gate.overdue(&heads, now) {
            heads.take(key.place());
            gate.settle(key, &end, &mut Events::default());
            found += 1;
        }
        looks += usize::from(gate.soon.again != again);
    }
    assert!((8..=9).contains(&looks), "{looks}");
    // Those that are delayed hold no body.
    if let Some(now) = gate.overdue_at() {
        assert!(gate.overdue(&heads, now).is_empty());
    }
    assert_eq!(gate.overdue_at(), None);
}
