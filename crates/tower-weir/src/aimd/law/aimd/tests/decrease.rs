use super::*;

#[test]
fn a_new_overload_takes_one_slot_or_half() {
    let mut driver = Driver::starting_at(10);
    assert_eq!(driver.refuse(), 9);
    let mut driver = Driver::halving_at(11);
    assert_eq!(driver.refuse(), 5);
}

#[test]
fn refusals_of_one_burst_are_one_overload_and_cost_at_most_half() {
    let mut driver = Driver::starting_at(10);
    let burst = driver.start_full();
    let mut limits = Vec::new();
    for _ in 0..10 {
        let _ = driver.wait(1).settle(burst, THROTTLED);
        limits.push(driver.law.limit());
    }
    assert_eq!(limits, [9, 8, 7, 6, 5, 5, 5, 5, 5, 5]);

    let mut driver = Driver::halving_at(10);
    let burst = driver.start_full();
    for _ in 0..10 {
        let _ = driver.wait(1).settle(burst, THROTTLED);
        assert_eq!(driver.law.limit(), 5);
    }
}

#[test]
fn a_call_granted_at_the_instant_of_the_decrease_belongs_to_the_old_limit() {
    let mut driver = Driver::halving_at(16);
    let first = driver.start_full();
    let _ = driver.wait(3).settle(first, THROTTLED);
    let at_once = driver.start_full();
    let _ = driver.wait(3).settle(at_once, THROTTLED);
    assert_eq!(driver.law.limit(), 8);
    assert_eq!(driver.refuse(), 4, "one that started later counts");
}

#[test]
fn the_overload_is_measured_by_what_was_in_flight() {
    let mut driver = Driver::starting_at(100);
    let call = driver.start(20);
    let mut sample = driver.wait(3).sample(call, THROTTLED);
    sample.in_flight = 12;
    let _ = driver.law.settle(&sample);
    assert_eq!(
        driver.law.limit(),
        19,
        "the count at the start is the larger"
    );

    let mut driver = Driver::starting_at(100);
    let call = driver.start(12);
    let mut sample = driver.wait(3).sample(call, THROTTLED);
    sample.in_flight = 20;
    let _ = driver.law.settle(&sample);
    assert_eq!(driver.law.limit(), 19, "the count now is the larger");

    let mut driver = Driver::starting_at(10);
    let call = driver.start(40);
    let _ = driver.wait(3).settle(call, THROTTLED);
    assert_eq!(driver.law.limit(), 9, "never more than the limit");
}

#[test]
fn an_outage_leaves_what_was_known_before() {
    let mut driver = Driver::starting_at(41);
    assert_eq!(driver.refuse(), 40);
    driver.succeed(1);
    let mut limits = vec![driver.refuse()];
    let ceiling = driver.law.ceiling();
    while driver.law.limit() > 1 {
        let burst = driver.wait(1).start_full();
        for _ in 0..burst.in_flight {
            let _ = driver.wait(1).settle(burst, UNAVAILABLE);
        }
        limits.push(driver.law.limit());
    }
    assert_eq!(limits, [39, 19, 9, 4, 2, 1]);
    for _ in 0..50 {
        assert_eq!(driver.refuse(), 1);
    }
    assert_eq!(driver.law.ceiling(), ceiling);
    // The threshold is that of the first refusal in the outage: 0.9 * 40.
    assert_eq!(driver.succeed(35), 36);
    assert_eq!(driver.succeed(35), 36);
    assert_eq!(driver.succeed(1), 37);
}

#[test]
fn at_the_least_limit_an_overload_after_a_success_halves_the_threshold() {
    let mut driver = Driver::halving_at(2);
    assert_eq!(driver.refuse(), 1);
    assert_eq!(driver.law.ceiling(), Some(2));
    driver.law.threshold = Some(12);
    driver.succeed(1);
    driver.law.limit = 1;
    let _ = driver.refuse();
    let _ = driver.refuse();
    assert_eq!(driver.law.limit(), 1);
    assert_eq!(
        driver.law.threshold,
        Some(6),
        "once: the second had no success before it"
    );
    assert_eq!(driver.law.ceiling(), Some(2));
    for _ in 0..4 {
        driver.law.limit = 1;
        driver.succeed(1);
        driver.law.limit = 1;
        driver.refuse();
    }
    assert_eq!(driver.law.threshold, Some(1), "not below 1");
}

#[test]
fn a_timeout_gives_one_slot_back_and_an_epoch_of_them_at_most_half() {
    for mut driver in [Driver::starting_at(10), Driver::halving_at(10)] {
        let burst = driver.start_full();
        let mut limits = Vec::new();
        for _ in 0..7 {
            let decision = driver.wait(100).settle(burst, TIMEOUT);
            assert_eq!(decision.cool, Duration::ZERO);
            limits.push(driver.law.limit());
        }
        assert_eq!(limits, [9, 8, 7, 6, 5, 5, 5]);
        assert_eq!(driver.law.ceiling(), Some(10));
    }
}

#[test]
fn a_least_limit_above_one_is_where_an_outage_ends() {
    let mut config = config(16, Decrease::Proportional);
    config.min = 6;
    let mut driver = Driver::new(&config);
    let mut limits = Vec::new();
    for _ in 0..3 {
        let burst = driver.wait(1).start_full();
        for _ in 0..burst.in_flight {
            let _ = driver.wait(1).settle(burst, UNAVAILABLE);
        }
        limits.push(driver.law.limit());
    }
    assert_eq!(limits, [8, 6, 6]);
}
