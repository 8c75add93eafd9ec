//! Retries, breaker and limiter together in front of a server that is full, or
//! dead.

use std::ops::RangeInclusive;

use tower_weir::circuit_breaker::ChangeCause;

use crate::{
    crowd::{DEFAULT, Full, LITERAL, OFF, Work, outage},
    rig::seconds,
    server::{Answer, Does},
};

const MINUTE: Work = Work::For(seconds(60));

/// Seeds that no rule was chosen by. 1 to 3 were used when the first were; 101 to
/// 130 and 1001 to 1200 when refused probes got a cap of their own.
const HELD_OUT: RangeInclusive<u64> = 2001..=2012;

#[tokio::test(start_paused = true)]
async fn throttling_that_the_limiter_handles_opens_nothing_and_costs_nothing() {
    for (full, requests) in Full::ALL.into_iter().zip([200, 2_400, 12_000]) {
        for work in [MINUTE, Work::Requests(requests)] {
            let run = |breaker| full.run(Answer::Throttled, work, breaker, 1);
            let (without, with) = (run(OFF).await, run(DEFAULT).await);
            assert_eq!(with.openings, []);
            assert!(with.goodput() >= 0.98 * without.goodput(), "{with:?}");
            assert_eq!(with.refused, 0);
            if let Work::Requests(_) = work {
                assert_eq!((with.done, with.lost()), (without.done, 0));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_by_503_costs_a_crowd_a_tenth_at_most() {
    for requests in [150, 200] {
        for seed in HELD_OUT {
            let work = Work::Requests(requests);
            let run = |breaker| Full::Crowd.run(Answer::Unavailable, work, breaker, seed);
            let (without, with) = (run(OFF).await, run(DEFAULT).await);
            assert_eq!((with.done, with.lost()), (16 * requests, 0));
            let cost = with.wall.as_secs_f64() / without.wall.as_secs_f64() - 1.0;
            assert!(cost <= 0.1, "{requests} requests, seed {seed}: {cost}");
            // Clients who starve each other look dead to each other.
            assert!(!with.openings.is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_by_503_costs_a_crowd_that_does_not_wait_two_percent_at_most() {
    for seed in HELD_OUT {
        let run = |breaker| Full::Crowd.run(Answer::Unavailable, MINUTE, breaker, seed);
        let (without, with) = (run(OFF).await, run(DEFAULT).await);
        let share = with.goodput() / without.goodput();
        assert!(share >= 0.98, "seed {seed}: {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_by_503_costs_who_has_the_server_alone_nothing() {
    for (full, requests) in [(Full::Alone, 2_400), (Full::Step, 12_000)] {
        for work in [MINUTE, Work::Requests(requests)] {
            let run = |breaker| full.run(Answer::Unavailable, work, breaker, 1);
            let (without, with) = (run(OFF).await, run(DEFAULT).await);
            assert_eq!(with.openings, []);
            assert!(with.goodput() >= 0.98 * without.goodput(), "{with:?}");
            if let Work::Requests(_) = work {
                assert_eq!((with.done, with.lost()), (requests, 0));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_literal_rule_refuses_most_of_what_the_limiter_would_get_through() {
    let run = |work, breaker| Full::Crowd.run(Answer::Throttled, work, breaker, 1);
    let usual = run(MINUTE, DEFAULT).await;
    let literal = run(MINUTE, LITERAL).await;
    assert!(usual.lost() * 4 < usual.done, "{usual:?}");
    assert!(literal.openings.len() >= 16, "{literal:?}");
    assert!(literal.refused > literal.done * 4, "{literal:?}");
    // A run that waits for its circuits gets everything done all the same.
    let bulk = run(Work::Requests(200), LITERAL).await;
    assert_eq!((bulk.done, bulk.lost()), (16 * 200, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_opens_it_however_it_shows() {
    let dead = [
        // What it does, when that opens the circuit, and the longest open periods.
        (Does::Answers(Answer::Broken), seconds(3), [15, 5]),
        (Does::Answers(Answer::Unavailable), seconds(15), [2, 2]),
        (Does::Hangs, seconds(15), [15, 5]),
    ];
    for (does, within, caps) in dead {
        for (bulk, cap) in [false, true].into_iter().zip(caps) {
            let (report, server) = outage(does, bulk).await;
            let (opened, cause) = report.openings[0];
            assert!(opened <= seconds(20) + within, "{report:?}");
            assert_ne!(cause, ChangeCause::ProbeFailed);
            // From then on there are only probes, each of which opened it again.
            let reopened = &report.openings[1..];
            assert!(
                reopened
                    .iter()
                    .all(|(_, cause)| *cause == ChangeCause::ProbeFailed)
            );
            let outage = opened..seconds(60);
            let attempts = server.attempts().into_iter();
            let probes = attempts.filter(|at| *at > opened && outage.contains(at));
            let probes = probes.count();
            assert_eq!(probes, reopened.len(), "{report:?}");
            assert!(probes as u64 <= (seconds(60) - opened).as_secs());
            // Found again within one open period of its return, and the time of
            // a probe that was under way, and closed for good.
            let period = seconds(cap).mul_f64(1.2) + seconds(2);
            let [closed] = report.closings[..] else {
                panic!("{report:?}");
            };
            assert!(closed <= seconds(60) + period + seconds(1), "{report:?}");
            if bulk {
                assert_eq!(report.refused, 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_run_loses_nothing_to_a_server_that_answers_503_and_nothing_else() {
    let (report, _) = outage(Does::Answers(Answer::Unavailable), true).await;
    assert_eq!(report.lost(), 0, "{report:?}");
}
