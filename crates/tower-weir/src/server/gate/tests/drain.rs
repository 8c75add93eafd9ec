//! How soon what is pending is done, as the rejected are told.

use super::*;

/// A server that does `slots` operations at once, each in `took`, with always
/// some that wait; the first begin `apart` from each other. Returns how much too
/// long the estimate is after each of `rounds`, as a part of the true time, in
/// which what is pending then gets done.
fn excess(
    slots: usize,
    backlog: usize,
    took: Duration,
    apart: Duration,
    rounds: usize,
) -> Vec<f64> {
    let start = Instant::now();
    let mut gate = gate(|config| {
        config.limits.throttle_at = slots;
        config.limits.max_delay = Duration::MAX;
    });
    let mut now = start;
    let mut running = Vec::new();
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..slots {
        running.push((runs(&mut gate, RECORD, now), now));
        now += apart;
    }
    for _ in slots..backlog {
        waiting.push_back(waits(&mut gate, RECORD, now));
    }
    let mut excess = Vec::new();
    for _ in 0..rounds {
        // The slots take turns.
        let (key, began) = running.remove(0);
        now = now.max(began + took);
        end(&mut gate, key, began, now);
        let place = waiting.pop_front().unwrap();
        let answer = gate.ask(Ask { now, ..place }, &mut Events::default());
        let Answer::Go(key) = answer else {
            panic!("a slot is free");
        };
        running.push((key, now));
        waiting.push_back(waits(&mut gate, RECORD, now));

        let estimate = gate.drained_in(gate.config.lane_of(RECORD), now);
        // The last in line follows so many whole rounds after one that runs.
        let last = waiting.len() - 1;
        let ahead = running[last % slots].1 + took - now;
        let truth = (ahead + took * (last / slots + 1) as u32).as_secs_f64();
        excess.push(estimate.as_secs_f64() / truth - 1.0);
    }
    excess
}

#[tokio::test(start_paused = true)]
async fn the_measured_drain_is_never_too_short_at_a_constant_rate() {
    for slots in [1, 3, 8, 100] {
        for backlog in [slots + 1, slots + 2, 7 * slots, 1000] {
            for took in [100, 20_000, 3_000_000].map(Duration::from_micros) {
                for apart in [Duration::ZERO, Duration::from_nanos(1), took / slots as u32] {
                    let what = format!("{slots} {backlog} {took:?} {apart:?}");
                    let excess = excess(slots, backlog, took, apart, 40 * slots);
                    let least = excess.iter().copied().fold(f64::MAX, f64::min);
                    assert!(least >= -1e-6, "{what}: {least}");
                    // What runs already has been at it for a while: that part of a
                    // round, and of the next, is what the estimate has to spare.
                    let last = excess[excess.len() - 1];
                    let most = 2.0 / backlog as f64 * slots as f64 + 0.15;
                    assert!(last <= most, "{what}: {last}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_past_is_not_held_against_a_server() {
    let mut gate = gate(|config| config.limits.throttle_at = 10);
    let mut now = Instant::now();
    // One operation of 1 ms a minute says nothing of what the server can do.
    for _ in 0..100 {
        let key = runs(&mut gate, RECORD, now);
        end(&mut gate, key, now, now + Duration::from_millis(1));
        now += Duration::from_secs(60);
    }
    for _ in 0..10 {
        runs(&mut gate, RECORD, now);
    }
    for _ in 10..5000 {
        waits(&mut gate, RECORD, now);
    }
    let refused = rejected(&mut gate, RECORD, 0, now);
    assert_eq!(refused.retry_after(), Some(Duration::from_millis(500)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_nothing_is_given_longer_and_longer() {
    let now = Instant::now();
    let mut gate = gate(|config| {
        config.limits.throttle_at = 1;
        config.limits.reject_at = 3;
    });
    runs(&mut gate, RECORD, now);
    waits(&mut gate, RECORD, now);
    waits(&mut gate, RECORD, now);
    for seconds in [1, 10, 100] {
        let later = now + Duration::from_secs(seconds);
        let refused = rejected(&mut gate, RECORD, 0, later);
        assert_eq!(
            refused.retry_after(),
            Some(Duration::from_secs(3 * seconds))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_was_asked_for_is_not_measured_at_all() {
    let took = Duration::from_millis(100);
    let mut gate = gate(|config| {
        config.limits.throttle_at = 1;
        config.limits.max_delay = Duration::MAX;
    });
    let mut now = Instant::now();
    let mut running = runs(&mut gate, RECORD, now);
    let mut waiting: std::collections::VecDeque<_> =
        (0..120).map(|_| waits(&mut gate, RECORD, now)).collect();
    for _ in 0..100 {
        end(&mut gate, running, now, now + took);
        now += took;
        let place = waiting.pop_front().unwrap();
        running = match gate.ask(Ask { now, ..place }, &mut Events::default()) {
            Answer::Go(key) => key,
            other => panic!("{other:?}"),
        };
    }
    let set = |gate: &mut ServerGate, slots, now| {
        let mut config = gate.config.clone();
        config.limits.throttle_at = slots;
        gate.reconfigure(&config, now, &mut Events::default());
    };
    let lane = gate.config.lane_of(RECORD);
    let before = gate.drained_in(lane, now);
    set(&mut gate, 0, now);
    now += Duration::from_secs(3600);
    set(&mut gate, 1, now);
    assert_eq!(gate.drained_in(lane, now), before);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_forgotten_as_soon_as_anything_else() {
    const SLOTS: usize = 10;
    let took = Duration::from_millis(100);
    let mut gate = gate(|config| {
        config.limits.throttle_at = SLOTS;
        config.limits.max_delay = Duration::MAX;
    });
    let mut now = Instant::now();
    let mut waiting = std::collections::VecDeque::new();
    let mut running: Vec<_> = (0..SLOTS).map(|_| runs(&mut gate, RECORD, now)).collect();
    for _ in 0..1000 {
        waiting.push_back(waits(&mut gate, RECORD, now));
    }
    // 20 s at full speed, an hour in which nothing ends, and 20 s again.
    for round in 0..400 {
        let began = now;
        now += took;
        if round == 200 {
            now += Duration::from_secs(3600);
        }
        for key in std::mem::take(&mut running) {
            end(&mut gate, key, began, now);
            let place = waiting.pop_front().unwrap();
            match gate.ask(Ask { now, ..place }, &mut Events::default()) {
                Answer::Go(key) => running.push(key),
                other => panic!("{other:?}"),
            }
            waiting.push_back(waits(&mut gate, RECORD, now));
        }
    }
    let after = gate
        .drained_in(gate.config.lane_of(RECORD), now)
        .as_secs_f64();
    // 1,010 of them at a hundred a second.
    assert!((10.1..12.0).contains(&after), "{after}");
}

#[tokio::test(start_paused = true)]
async fn bursts_whose_operations_end_nearly_together_are_no_rate() {
    const SLOTS: usize = 8;
    const TOOK: Duration = Duration::from_secs(1);
    let mut gate = gate(|config| config.limits.throttle_at = SLOTS);
    let mut now = Instant::now();
    let nearly = Duration::from_micros(1);
    for _ in 0..20 {
        let mut running: Vec<_> = (0..SLOTS)
            .map(|_| (runs(&mut gate, RECORD, now), now))
            .collect();
        let mut waiting: std::collections::VecDeque<_> =
            (0..SLOTS).map(|_| waits(&mut gate, RECORD, now)).collect();
        now += TOOK;
        while !running.is_empty() {
            for (key, began) in std::mem::take(&mut running) {
                now = now.max(began + TOOK);
                end(&mut gate, key, began, now);
                if let Some(place) = waiting.pop_front() {
                    match gate.ask(Ask { now, ..place }, &mut Events::default()) {
                        Answer::Go(key) => running.push((key, now)),
                        other => panic!("{other:?}"),
                    }
                }
                now += nearly;
            }
        }
    }
    for _ in 0..SLOTS {
        runs(&mut gate, RECORD, now);
    }
    for _ in SLOTS..5000 {
        waits(&mut gate, RECORD, now);
    }
    let after = rejected(&mut gate, RECORD, 0, now).retry_after().unwrap();
    assert!(after >= TOOK * 5000 / SLOTS as u32, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_class_that_waits_for_itself_says_nothing_of_what_the_server_can_do() {
    let mut now = Instant::now();
    let mut gate = gate(|config| {
        config.limits.throttle_at = 10;
        config.limits.max_delay = Duration::MAX;
        let limits = ClassLimits::new().throttle_at(1);
        config.declare(Class::STRUCTURAL, limits);
    });
    runs(&mut gate, Class::STRUCTURAL, now);
    waits(&mut gate, Class::STRUCTURAL, now);
    // A record of 10 ms a second, while a structural operation waits for its class.
    for _ in 0..60 {
        let key = runs(&mut gate, RECORD, now);
        end(&mut gate, key, now, now + Duration::from_millis(10));
        now += Duration::from_secs(1);
    }
    for _ in 0..5 {
        runs(&mut gate, RECORD, now);
    }
    for _ in 0..985 {
        waits(&mut gate, RECORD, now);
    }
    // 990 records, of which 5 run for 10 ms each.
    let after = gate.drained_in(gate.config.lane_of(RECORD), now);
    assert_eq!(after, Duration::from_millis(1980));
}
