use super::*;

/// One call after the other, as an upstream with ten calls a second answers a
/// client that sends as it can.
fn seconds_of_a_quota(driver: &mut Driver, refusal: Verdict, seconds: usize) {
    for _ in 0..seconds {
        let next = driver.now + ms(800);
        while driver.now < next {
            let call = driver.start(1);
            let cool = driver.wait(2).settle(call, refusal).cool;
            driver.now += cool;
        }
        for _ in 0..10 {
            let call = driver.start(1);
            let _ = driver.wait(20).settle(call, Verdict::Success);
        }
    }
}

#[test]
fn calls_are_spaced_out_where_one_slot_is_too_many() {
    let mut driver = Driver::starting_at(1);
    seconds_of_a_quota(&mut driver, THROTTLED, 3);
    assert_eq!(driver.law.spacing(), Duration::ZERO);
    seconds_of_a_quota(&mut driver, THROTTLED, 1);
    let spacing = driver.law.spacing();
    assert!((ms(90)..ms(160)).contains(&spacing), "{spacing:?}");
    let limit = driver.law.limit();
    assert_eq!(driver.succeed(10), limit, "and slots do not grow meanwhile");
}

#[test]
fn an_upstream_that_is_down_at_times_is_not_taken_for_a_quota() {
    let mut driver = Driver::starting_at(1);
    seconds_of_a_quota(&mut driver, UNAVAILABLE, 20);
    assert_eq!(driver.law.spacing(), Duration::ZERO);
}
