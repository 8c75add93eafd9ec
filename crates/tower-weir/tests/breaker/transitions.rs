//! Every transition, through the layers: told step by step, and then again with
//! a straggler from the epoch before, a cancelled call, one that hangs, one that
//! was readied and never made, and a panic.

use std::time::Duration;

use http_body_util::BodyExt;
use tower_weir::circuit_breaker::{BreakerConfig, ChangeCause, Control, State, WhenOpen};

use crate::rig::{Act, Rig, both, config, pass, seconds};

const MOMENT: Duration = Duration::from_millis(1);

async fn refusing<F: Future<Output = ()>>(scenario: impl Fn(Rig) -> F) {
    both(config(), WhenOpen::Refuse, scenario).await;
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_open_it() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(Duration::from_millis(250)).await;
        let open = rig.refused().await;
        assert_eq!(open.host(), "index.test");
        assert_eq!(open.retry_after(), Some(Duration::from_millis(750)));
        assert_eq!(open.open_for(), Duration::from_millis(250));
        assert_eq!(open.cause(), ChangeCause::FailureRun);
        assert_eq!(rig.reached(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure() {
    refusing(|rig| async move {
        rig.sent(Act::Status(500)).await;
        rig.sent(Act::Status(500)).await;
        rig.panics().await;
        assert_eq!(rig.state(), State::Open);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_counts_only_after_ten_seconds() {
    refusing(|rig| async move {
        for _ in 0..3 {
            let call = rig.start(Act::Hang).await;
            pass(seconds(10) - MOMENT).await;
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
        assert_eq!(rig.snapshot().counts.calls, 0);
        for n in 1..=3 {
            assert_eq!(rig.state(), State::Closed);
            let call = rig.start(Act::Hang).await;
            pass(seconds(10)).await;
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
            assert_eq!(rig.snapshot().failure_run, n);
        }
        assert_eq!(rig.state(), State::Open);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_readied_and_never_called_opens_and_holds_nothing() {
    refusing(|rig| async move {
        let readied = rig.readied().await;
        rig.trip().await;
        drop(readied);
        assert_eq!(rig.snapshot().counts.calls, 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_straggler_moves_no_circuit_that_has_opened_since() {
    refusing(|rig| async move {
        let good = rig.start(Act::Late(1, 200)).await;
        let bad = rig.start(Act::Late(1, 500)).await;
        rig.trip().await;
        let before = rig.snapshot();
        pass(seconds(1)).await;
        for call in [good, bad] {
            call.await.unwrap().unwrap();
        }
        let after = rig.snapshot();
        assert_eq!((after.state, after.counts), (State::Open, before.counts));
        assert_eq!(after.since, before.since);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_after_the_open_period_is_the_one_probe() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1) - MOMENT).await;
        rig.refused().await;
        let readied = rig.readied().await;
        pass(MOMENT).await;
        let probe = rig.start(Act::Late(5, 200)).await;
        assert_eq!(rig.state(), State::HalfOpen);
        for _ in 0..3 {
            rig.refused().await;
        }
        assert_eq!(rig.reached(), 4);
        drop(readied);
        pass(seconds(5)).await;
        assert_eq!(probe.await.unwrap().unwrap().status(), 200);
        assert_eq!(rig.state(), State::HalfOpen);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn services_readied_for_a_probe_hold_no_place() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let readied = rig.readied().await;
        assert_eq!(rig.state(), State::Open);
        rig.sent(Act::Status(200)).await;
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::Closed);
        drop(readied);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_straggler_is_no_probe() {
    refusing(|rig| async move {
        let good = rig.start(Act::Late(3, 200)).await;
        let bad = rig.start(Act::Late(3, 500)).await;
        rig.trip().await;
        pass(seconds(1)).await;
        let probe = rig.start(Act::Late(5, 200)).await;
        pass(seconds(2)).await;
        good.await.unwrap().unwrap();
        bad.await.unwrap().unwrap();
        assert_eq!(rig.state(), State::HalfOpen);
        rig.refused().await;
        probe.abort();
        let _ = probe.await;
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::HalfOpen);
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::Closed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_frees_its_place() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        for _ in 0..5 {
            let probe = rig.start(Act::Hang).await;
            rig.refused().await;
            probe.abort();
            assert!(probe.await.unwrap_err().is_cancelled());
            assert_eq!(rig.state(), State::HalfOpen);
        }
        rig.sent(Act::Status(200)).await;
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::Closed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_outlives_its_lease_is_replaced() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let first = rig.start(Act::Late(40, 500)).await;
        pass(seconds(30) - MOMENT).await;
        rig.refused().await;
        pass(MOMENT).await;
        let second = rig.start(Act::Late(20, 200)).await;
        rig.refused().await;
        // The first one's failure comes too late to count.
        pass(seconds(10)).await;
        assert_eq!(first.await.unwrap().unwrap().status(), 500);
        assert_eq!(rig.state(), State::HalfOpen);
        rig.refused().await;
        pass(seconds(10)).await;
        second.await.unwrap().unwrap();
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::Closed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_good_probes_close_it_and_empty_the_window() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::HalfOpen);
        // A server that throttles is alive.
        rig.sent(Act::Status(429)).await;
        let closed = rig.snapshot();
        assert_eq!(closed.state, State::Closed);
        assert_eq!((closed.counts.calls, closed.failure_run), (0, 0));
        // From the beginning: three failures, one second.
        rig.trip().await;
        assert_eq!(rig.refused().await.retry_after(), Some(seconds(1)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_straggler_moves_no_circuit_that_has_closed_since() {
    refusing(|rig| async move {
        let mut stragglers = Vec::new();
        for _ in 0..5 {
            stragglers.push(rig.start(Act::Late(40, 500)).await);
        }
        rig.trip().await;
        pass(seconds(1)).await;
        // A probe, replaced when its lease is over.
        stragglers.push(rig.start(Act::Late(40, 500)).await);
        pass(seconds(30)).await;
        rig.sent(Act::Status(200)).await;
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::Closed);
        for straggler in stragglers {
            assert_eq!(straggler.await.unwrap().unwrap().status(), 500);
        }
        let closed = rig.snapshot();
        assert_eq!(closed.state, State::Closed);
        assert_eq!((closed.counts.calls, closed.failure_run), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_it_for_twice_as_long() {
    refusing(|rig| async move {
        rig.trip().await;
        for period in [1, 2, 4, 4] {
            assert_eq!(rig.refused().await.retry_after(), Some(seconds(period)));
            pass(seconds(period)).await;
            rig.sent(Act::Status(500)).await;
            assert_eq!(rig.state(), State::Open);
        }
        // The cause remains that of the last opening.
        assert_eq!(rig.refused().await.cause(), ChangeCause::ProbeFailed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        rig.panics().await;
        assert_eq!(rig.refused().await.retry_after(), Some(seconds(2)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_given_up_after_ten_seconds_has_failed() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let probe = rig.start(Act::Hang).await;
        pass(seconds(10)).await;
        probe.abort();
        assert!(probe.await.unwrap_err().is_cancelled());
        assert_eq!(rig.refused().await.retry_after(), Some(seconds(2)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_503_fails_a_probe_though_it_opens_nothing_that_has_succeeded() {
    refusing(|rig| async move {
        rig.sent(Act::Status(200)).await;
        for _ in 0..20 {
            rig.sent(Act::Status(503)).await;
        }
        assert_eq!(rig.state(), State::Closed);
        rig.trip().await;
        pass(seconds(1)).await;
        rig.sent(Act::Status(503)).await;
        assert_eq!(rig.state(), State::Open);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hint_lengthens_the_opening() {
    refusing(|rig| async move {
        rig.sent(Act::Status(500)).await;
        rig.sent(Act::Status(500)).await;
        rig.sent(Act::Hint(500, 7)).await;
        assert_eq!(rig.refused().await.retry_after(), Some(seconds(7)));
        pass(seconds(7) - MOMENT).await;
        rig.refused().await;
        pass(MOMENT).await;
        // The failed probe's: longer, shorter than the period, and over the cap.
        for (told, waits) in [(9, 9), (1, 4), (3600, 60)] {
            rig.sent(Act::Hint(500, told)).await;
            assert_eq!(rig.refused().await.retry_after(), Some(seconds(waits)));
            pass(seconds(waits)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_probe_opens_it_for_two_seconds_at_most_or_for_its_hint() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let failed = Act::Status(500);
        let refused = Act::Status(503);
        let hinted = Act::Hint(503, 9);
        for (act, waits) in [
            (failed, 2),
            (failed, 4),
            (refused, 2),
            (refused, 2),
            (hinted, 9),
            (failed, 4),
        ] {
            rig.sent(act).await;
            assert_eq!(rig.refused().await.retry_after(), Some(seconds(waits)));
            pass(seconds(waits)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_with_good_headers_has_succeeded_after_a_second() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let first = rig.call(Act::Stream).await.unwrap();
        rig.refused().await;
        pass(seconds(1) - MOMENT).await;
        rig.refused().await;
        pass(MOMENT).await;
        let second = rig.call(Act::Stream).await.unwrap();
        rig.refused().await;
        pass(seconds(1)).await;
        rig.sent(Act::Status(200)).await;
        assert_eq!(rig.state(), State::Closed);
        // What becomes of the bodies is of no more interest.
        drop((first, second));
        assert_eq!(rig.state(), State::Closed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_body_breaks_off_has_failed() {
    refusing(|rig| async move {
        rig.trip().await;
        pass(seconds(1)).await;
        let response = rig.call(Act::Break).await.unwrap();
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(rig.refused().await.retry_after(), Some(seconds(2)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_holds_it_by_hand_decides_until_it_is_reset() {
    refusing(|rig| async move {
        rig.sent(Act::Status(200)).await;
        rig.control(Control::ForcedOpen);
        pass(seconds(3600)).await;
        let held = rig.refused().await;
        assert_eq!(
            (held.retry_after(), held.cause()),
            (None, ChangeCause::Manual)
        );
        rig.control(Control::ForcedClosed);
        for _ in 0..10 {
            rig.sent(Act::Status(500)).await;
        }
        rig.control(Control::MetricsOnly);
        for _ in 0..10 {
            rig.sent(Act::Status(500)).await;
        }
        assert_eq!(rig.snapshot().counts.failed, 10);
        assert_eq!(rig.snapshot().exceeded, Some(ChangeCause::FailureRun));
        let straggler = rig.start(Act::Late(1, 500)).await;
        rig.control(Control::Automatic);
        pass(seconds(1)).await;
        straggler.await.unwrap().unwrap();
        assert_eq!(rig.snapshot().counts.calls, 0);
        rig.trip().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_opens_it_at_the_hundredth_call() {
    both(
        BreakerConfig::default(),
        WhenOpen::Refuse,
        |rig| async move {
            for n in 0..99 {
                rig.sent(Act::Status(if n % 6 == 0 { 500 } else { 200 }))
                    .await;
            }
            // 17 of 99 failed, and one is wanted that makes it a hundred.
            assert_eq!(rig.state(), State::Closed);
            rig.sent(Act::Status(200)).await;
            let open = rig.snapshot();
            assert_eq!(
                (open.state, open.opened_by),
                (State::Open, Some(ChangeCause::FailureRate))
            );
            assert_eq!((open.counts.calls, open.counts.failed), (100, 17));
        },
    )
    .await;
}
