//! How long a circuit stays open, and that nothing old gets through to it.

use std::time::Duration;

use super::{FAILED, Rig, SECOND, SUCCESS};
use crate::circuit_breaker::{
    BreakerConfig, ChangeCause, OpenFor, Probes, Ratio, State, Transition,
    state::{End, Room, Wait},
};
use crate::outcome::{Failure, Verdict};

fn no_jitter() -> BreakerConfig {
    let open_for = OpenFor::new(SECOND, 15 * SECOND).unwrap().jitter(None);
    BreakerConfig::default().open_for(open_for)
}

fn failed_with(hint: Duration) -> End {
    End::Outcome(Verdict::Failed(Failure::Error), Some(hint))
}

fn trip_with(rig: &mut Rig, hint: Duration) -> Transition {
    let trip = |rig: &mut Rig| (0..100).find_map(|_| rig.call(failed_with(hint)));
    trip(rig).expect("100 failures open it")
}

/// Fails one probe after another, and tells how long each opening was.
fn openings(rig: &mut Rig, count: usize) -> Vec<Duration> {
    let mut opened = rig.trip();
    let mut periods = Vec::new();
    loop {
        let period = opened.open_for.expect("it opened");
        periods.push(period);
        if periods.len() == count {
            return periods;
        }
        rig.wait(period);
        opened = rig.call(FAILED).expect("a failed probe reopens");
        assert_eq!((opened.from, opened.to), (State::HalfOpen, State::Open));
        assert_eq!(opened.cause, ChangeCause::ProbeFailed);
        assert_eq!((opened.counts.calls, opened.counts.failed), (1, 1));
    }
}

fn close(rig: &mut Rig) {
    rig.elapse();
    assert_eq!(rig.call(SUCCESS), None);
    rig.call(SUCCESS).expect("two good probes close it");
}

#[test]
fn doubles_up_to_its_cap_and_starts_over_once_closed() {
    let mut rig = Rig::new(no_jitter());
    let expected = [1, 2, 4, 8, 15, 15].map(Duration::from_secs);
    assert_eq!(openings(&mut rig, 6), expected);
    close(&mut rig);
    assert_eq!(openings(&mut rig, 3), expected[..3]);
}

#[test]
fn the_bulk_preset_stops_at_five_seconds() {
    let bulk = BreakerConfig::bulk();
    for (period, nominal) in openings(&mut Rig::new(bulk), 6)
        .iter()
        .zip([1, 2, 4, 5, 5, 5])
    {
        let factor = period.as_secs_f64() / f64::from(nominal);
        assert!((0.8..=1.2).contains(&factor), "{period:?} for {nominal}");
    }
}

#[test]
fn jitter_is_bounded_seeded_and_not_always_the_same() {
    let run = |seed| openings(&mut Rig::seeded(BreakerConfig::default(), seed), 6);
    assert_eq!(run(1), run(1));
    let mut firsts: Vec<_> = (0..100).map(|seed| run(seed)[0]).collect();
    firsts.sort();
    firsts.dedup();
    assert_eq!(firsts.len(), 100);
    assert!(firsts[0] >= Duration::from_millis(800));
    assert!(firsts[99] <= Duration::from_millis(1_200));
    assert!(firsts[99] - firsts[0] > Duration::from_millis(300));
}

#[test]
fn refuses_to_the_last_moment_and_then_takes_one_probe() {
    let mut rig = Rig::new(no_jitter());
    rig.trip();
    assert_eq!(rig.refused(), Some(SECOND));
    rig.wait(SECOND - Duration::from_nanos(1));
    assert_eq!(rig.refused(), Some(Duration::from_nanos(1)));
    assert_eq!(
        rig.circuit.retry_after(rig.now),
        Some(Duration::from_nanos(1))
    );
    rig.wait(Duration::from_nanos(1));
    assert_eq!(rig.circuit.retry_after(rig.now), None);

    let admitted = rig.circuit.admit(rig.now).unwrap();
    assert!(admitted.ticket.is_probe());
    let moved = admitted.transition.expect("half-open");
    assert_eq!((moved.from, moved.to), (State::Open, State::HalfOpen));
    assert_eq!(moved.cause, ChangeCause::OpenElapsed);
    assert_eq!((moved.open_for, moved.lasted), (None, SECOND));
    assert_eq!(rig.refused(), Some(30 * SECOND));
}

#[test]
fn a_peek_takes_nothing_however_often() {
    let mut rig = Rig::new(no_jitter().probes(Probes::all(3).in_flight(2)));
    assert_eq!(rig.room(), Room::All);
    rig.trip();
    let until = Some(rig.now + SECOND);
    assert_eq!(rig.room(), Room::Full(Wait { until }));
    rig.elapse();
    for _ in 0..100 {
        assert_eq!(rig.room(), Room::Probes(2));
        assert_eq!(rig.state(), State::Open);
    }
    rig.probe();
    assert_eq!(rig.room(), Room::Probes(1));
    rig.probe();
    let until = Some(rig.now + 30 * SECOND);
    assert_eq!(rig.room(), Room::Full(Wait { until }));
}

#[test]
fn a_hint_lengthens_the_opening_up_to_its_cap() {
    for (hint, open_for) in [
        (Duration::ZERO, SECOND),
        (SECOND / 2, SECOND),
        (7 * SECOND, 7 * SECOND),
        (60 * SECOND, 60 * SECOND),
        (86_400 * SECOND, 60 * SECOND),
        (Duration::MAX, 60 * SECOND),
    ] {
        let mut rig = Rig::new(no_jitter());
        let opened = trip_with(&mut rig, hint);
        assert_eq!(opened.open_for, Some(open_for), "{hint:?}");
        assert_eq!(rig.refused(), Some(open_for));
    }
    let mut deaf = Rig::new(no_jitter().hint_cap(Duration::ZERO));
    assert_eq!(trip_with(&mut deaf, 7 * SECOND).open_for, Some(SECOND));
}

#[test]
fn a_hint_is_not_jittered() {
    for seed in 0..100 {
        let mut rig = Rig::seeded(BreakerConfig::default(), seed);
        assert_eq!(trip_with(&mut rig, 7 * SECOND).open_for, Some(7 * SECOND));
    }
}

#[test]
fn only_the_response_that_opens_is_asked_for_its_hint() {
    let mut rig = Rig::new(no_jitter());
    for _ in 0..99 {
        assert_eq!(rig.call(failed_with(50 * SECOND)), None);
    }
    let opened = rig.call(FAILED).expect("100 failures");
    assert_eq!(opened.open_for, Some(SECOND));
}

#[test]
fn a_hint_on_a_failed_probe_lengthens_its_opening_and_not_the_next() {
    let mut rig = Rig::new(no_jitter());
    rig.trip();
    rig.elapse();
    let opened = rig.call(failed_with(20 * SECOND)).expect("reopened");
    assert_eq!(opened.open_for, Some(20 * SECOND));
    rig.elapse();
    let opened = rig.call(FAILED).expect("reopened");
    assert_eq!(opened.open_for, Some(4 * SECOND));
}

#[test]
fn the_longest_hint_among_failed_probes_counts_from_when_it_came() {
    let half = Ratio::new(0.5).unwrap();
    let mut rig = Rig::new(no_jitter().probes(Probes::ratio(4, half).in_flight(4)));
    rig.trip();
    rig.elapse();
    let probes = [rig.probe(), rig.probe(), rig.probe()];
    assert_eq!(rig.settle(probes[0], failed_with(20 * SECOND)), None);
    rig.wait(5 * SECOND);
    assert_eq!(rig.settle(probes[1], failed_with(10 * SECOND)), None);
    let opened = rig.settle(probes[2], FAILED).expect("3 of 4 failed");
    assert_eq!(opened.open_for, Some(15 * SECOND));
}

#[test]
fn stragglers_move_nothing_in_any_later_state() {
    let ends = [
        SUCCESS,
        FAILED,
        failed_with(SECOND),
        End::Panicked,
        End::Cancelled,
    ];
    let mut rig = Rig::new(no_jitter());
    // Twice as many as it takes to open, or to close.
    let stragglers: Vec<_> = (0..200).map(|_| rig.admit()).collect();
    let disturb = |rig: &mut Rig| {
        let before = (
            rig.circuit.snapshot(rig.now),
            rig.circuit.epoch(),
            rig.room(),
        );
        for ticket in &stragglers {
            for end in ends {
                let moved = rig.circuit.settle(*ticket, end, 60 * SECOND, rig.now);
                assert_eq!(moved, None);
            }
        }
        let after = (
            rig.circuit.snapshot(rig.now),
            rig.circuit.epoch(),
            rig.room(),
        );
        assert_eq!(before, after);
    };
    rig.trip();
    disturb(&mut rig);
    rig.elapse();
    disturb(&mut rig);
    let probe = rig.probe();
    disturb(&mut rig);
    rig.settle(probe, FAILED).expect("reopened");
    disturb(&mut rig);
    rig.elapse();
    rig.call(SUCCESS);
    disturb(&mut rig);
    rig.call(SUCCESS).expect("closed");
    disturb(&mut rig);
    assert_eq!(rig.circuit.snapshot(rig.now).counts.calls, 0);
}
