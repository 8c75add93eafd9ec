use super::*;

#[test]
fn a_refused_slot_cools_for_about_a_round_trip() {
    let mut seen = Vec::new();
    for _ in 0..200 {
        let mut driver = Driver::starting_at(10);
        driver.law = Aimd::new(&LawConfig::default(), seen.len() as u64);
        driver.succeed(1);
        let call = driver.wait(1).start_full();
        seen.push(driver.wait(3).settle(call, THROTTLED).cool);
    }
    assert!(seen.iter().all(|cool| (ms(47)..ms(147)).contains(cool)));
    assert!(seen.iter().any(|cool| *cool < ms(57)));
    assert!(seen.iter().any(|cool| *cool > ms(137)));
}

#[test]
fn a_refusal_that_came_late_needs_no_cooling() {
    let mut driver = Driver::starting_at(10);
    driver.succeed(1);
    let call = driver.wait(1).start_full();
    assert_eq!(
        driver.wait(150).settle(call, THROTTLED).cool,
        Duration::ZERO
    );
}

#[test]
fn only_successes_move_the_smoothed_round_trip() {
    let mut driver = Driver::starting_at(10);
    assert_eq!(driver.law.srtt(), None);
    driver.succeed(1);
    assert_eq!(driver.law.srtt(), Some(ms(100)));
    let call = driver.wait(1).start_full();
    let _ = driver.wait(200).settle(call, Verdict::Success);
    assert_eq!(driver.law.srtt(), Some(ms(110)));
    for verdict in [THROTTLED, TIMEOUT, Verdict::Ignored] {
        let call = driver.wait(1).start_full();
        let _ = driver.wait(900).settle(call, verdict);
    }
    assert_eq!(driver.law.srtt(), Some(ms(110)));
}

/// Asserts how long slots cool at a limit of 1, apart from the random factor.
fn assert_cools(driver: &mut Driver, verdict: Verdict, expected_ms: &[f64]) {
    for expected in expected_ms {
        let call = driver.wait(1).start_full();
        let cool = driver.wait(1).settle(call, verdict).cool;
        let total = cool.as_secs_f64() * 1e3 + 1.0;
        assert!(
            (0.5 * expected..=1.5 * expected).contains(&total),
            "{total} ms for {expected}"
        );
    }
}

fn always_one() -> Driver {
    let mut config = config(1, Decrease::Proportional);
    config.max = 1;
    Driver::new(&config)
}

#[test]
fn at_the_least_limit_cooling_doubles_up_to_a_bound() {
    let doubling = [20.0, 40.0, 80.0, 160.0, 320.0];
    for verdict in [UNAVAILABLE, THROTTLED] {
        let mut driver = always_one();
        assert_cools(&mut driver, verdict, &doubling);
        assert_cools(&mut driver, verdict, &[450.0, 450.0]);
    }
    for (rtt, verdict, expected) in [
        (
            100,
            THROTTLED,
            [100.0, 200.0, 400.0, 800.0, 1_200.0, 1_200.0],
        ),
        (100, UNAVAILABLE, [100.0, 200.0, 400.0, 450.0, 450.0, 450.0]),
        (1_000, THROTTLED, [1e3, 2e3, 4e3, 8e3, 12e3, 12e3]),
        (3_000, THROTTLED, [3e3, 6e3, 12e3, 24e3, 30e3, 30e3]),
        (1_000, UNAVAILABLE, [1e3, 2e3, 4e3, 4e3, 4e3, 4e3]),
    ] {
        let mut driver = always_one();
        let call = driver.start_full();
        let _ = driver.wait(rtt).settle(call, Verdict::Success);
        assert_cools(&mut driver, verdict, &expected);
    }
}

/// It knows nothing of the round trip, so the time itself is the measure.
#[test]
fn a_client_that_never_had_a_slot_waits_an_eighth_of_the_time_so_far() {
    let mut driver = always_one();
    assert_cools(&mut driver, THROTTLED, &[20.0, 40.0, 80.0, 160.0, 320.0]);
    assert_cools(&mut driver, THROTTLED, &[450.0; 10]);
    for (seconds, expected) in [(8, 1_000.0), (32, 5_000.0), (80, 15_000.0), (900, 30_000.0)] {
        driver.wait(seconds * 1_000);
        assert_cools(&mut driver, THROTTLED, &[expected]);
    }
    driver.succeed(1);
    assert_cools(&mut driver, THROTTLED, &[1_200.0]);
}

#[test]
fn above_the_least_limit_cooling_does_not_double() {
    let mut driver = Driver::starting_at(64);
    assert_cools(&mut driver, THROTTLED, &[20.0; 5]);
}

#[test]
fn each_success_takes_one_refusal_off_the_doubling() {
    for (successes, next) in [(1, 1_200.0), (2, 800.0), (3, 400.0), (4, 200.0), (5, 100.0)] {
        let mut driver = always_one();
        assert_cools(
            &mut driver,
            THROTTLED,
            &[20.0, 40.0, 80.0, 160.0, 320.0, 450.0],
        );
        driver.succeed(successes);
        assert_cools(&mut driver, THROTTLED, &[next]);
    }
}

#[test]
fn a_hint_pauses_only_at_the_least_limit_after_a_decrease_without_success() {
    let hinted = |driver: &mut Driver, hint: u64| {
        let call = driver.wait(1).start_full();
        let mut sample = driver.wait(3).sample(call, UNAVAILABLE);
        sample.hint = Some(Duration::from_secs(hint));
        driver.law.settle(&sample).pause
    };
    let mut driver = Driver::halving_at(4);
    assert_eq!(hinted(&mut driver, 2), None, "at 4");
    assert_eq!(hinted(&mut driver, 2), None, "at 2");
    let pause = hinted(&mut driver, 2).expect("at 1");
    assert!((Duration::from_secs(2)..Duration::from_millis(2_200)).contains(&pause));
    assert_eq!(hinted(&mut driver, 600), Some(Duration::from_secs(60)));
    driver.succeed(1);
    driver.law.limit = 1;
    assert_eq!(hinted(&mut driver, 2), None, "it still works");
    assert!(hinted(&mut driver, 2).is_some(), "it no longer does");
    let call = driver.wait(1).start_full();
    assert_eq!(
        driver.wait(3).settle(call, UNAVAILABLE).pause,
        None,
        "no hint"
    );

    let mut driver = Driver::starting_at(1);
    assert_eq!(hinted(&mut driver, 2), None, "the very first call");
}

/// The cooling after each of so many successes that is not zero, by its number.
fn left_to_others(driver: &mut Driver, successes: usize) -> Vec<usize> {
    let mut left = Vec::new();
    for number in 1..=successes {
        let cool = driver.call(Verdict::Success).cool;
        if cool.is_zero() {
            continue;
        }
        assert!((ms(100)..ms(300)).contains(&cool), "{cool:?}");
        left.push(number);
    }
    left
}

#[test]
fn a_client_whose_slot_others_want_leaves_it_to_them_now_and_then() {
    let mut driver = always_one();
    assert_eq!(left_to_others(&mut driver, 500), [0; 0], "nobody does");
    let _ = driver.call(THROTTLED);
    assert_eq!(left_to_others(&mut driver, 500), [64, 128], "no longer");
    let _ = driver.call(THROTTLED);
    assert_eq!(left_to_others(&mut driver, 60), [0; 0]);
    let _ = driver.call(THROTTLED);
    assert_eq!(left_to_others(&mut driver, 100), [64]);
    let _ = driver.call(UNAVAILABLE);
    assert_eq!(left_to_others(&mut driver, 500), [28], "no sign of others");
}

#[test]
fn above_the_least_limit_every_slot_is_used_again_at_once() {
    let mut driver = always_one();
    let _ = driver.call(THROTTLED);
    driver.law.limit = 2;
    assert_eq!(left_to_others(&mut driver, 500), [0; 0]);
}
