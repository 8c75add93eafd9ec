use super::*;

#[test]
fn every_success_adds_a_slot_before_the_first_decrease() {
    let mut driver = Driver::starting_at(10);
    assert_eq!(driver.succeed(10), 20, "one round doubles it");
    assert_eq!(driver.succeed(1_000), 256, "up to the maximum");
}

#[test]
fn it_doubles_again_up_to_nine_tenths_rounded_down() {
    // At 5 in flight the threshold is 4: from 2 the second success brings the
    // limit to 4, and from there it takes four.
    let mut driver = Driver::halving_at(5);
    assert_eq!(driver.refuse(), 2);
    assert_eq!(driver.succeed(2), 4);
    assert_eq!(driver.succeed(9), 4);
    assert_eq!(driver.succeed(1), 5, "the streak of Halve is 10");

    let mut driver = Driver::halving_at(20);
    assert_eq!(driver.refuse(), 10);
    assert_eq!(driver.succeed(8), 18);
    assert_eq!(driver.succeed(17), 18, "then one a round");
    assert_eq!(driver.succeed(1), 19);
}

#[test]
fn above_the_threshold_it_takes_a_streak_and_at_least_a_round() {
    let mut driver = Driver::starting_at(3);
    assert_eq!(driver.refuse(), 2, "threshold 2");
    assert_eq!(driver.succeed(3), 2);
    assert_eq!(driver.succeed(1), 3, "four, although a round is two");

    let mut driver = Driver::starting_at(31);
    assert_eq!(driver.refuse(), 30);
    assert_eq!(driver.succeed(29), 30);
    assert_eq!(
        driver.succeed(1),
        31,
        "a round, although the streak is four"
    );

    let mut driver = Driver::new(&LawConfig {
        streak: Some(7),
        ..config(3, Decrease::Proportional)
    });
    assert_eq!(driver.refuse(), 2);
    assert_eq!(driver.succeed(6), 2);
    assert_eq!(driver.succeed(1), 3);
}

#[test]
fn stragglers_from_before_the_decrease_do_not_raise_the_limit() {
    let mut driver = Driver::starting_at(16);
    let burst = driver.start_full();
    let _ = driver.wait(3).settle(burst, THROTTLED);
    for _ in 0..64 {
        let _ = driver.wait(1).settle(burst, Verdict::Success);
    }
    assert_eq!(driver.law.limit(), 15);
}

#[test]
fn nothing_grows_where_the_limit_is_not_in_the_way() {
    let mut driver = Driver::starting_at(10);
    for _ in 0..2_000 {
        let call = driver.wait(1).start(1);
        let mut sample = driver.wait(100).sample(call, Verdict::Success);
        sample.binding = false;
        let _ = driver.law.settle(&sample);
    }
    assert_eq!(driver.law.limit(), 10);
}

#[test]
fn the_default_wants_a_full_limit_and_someone_waiting_halve_either() {
    let grows = |decrease, in_flight, binding| {
        let mut driver = Driver::new(&config(20, decrease));
        let call = driver.start(in_flight);
        let mut sample = driver.wait(100).sample(call, Verdict::Success);
        sample.binding = binding;
        let _ = driver.law.settle(&sample);
        driver.law.limit() > 20
    };
    assert!(grows(Decrease::Proportional, 18, true));
    assert!(!grows(Decrease::Proportional, 17, true), "slots cool");
    assert!(!grows(Decrease::Proportional, 18, false));
    assert!(grows(Decrease::Halve, 17, true));
    assert!(grows(Decrease::Halve, 18, false));
    assert!(!grows(Decrease::Halve, 17, false));
}
