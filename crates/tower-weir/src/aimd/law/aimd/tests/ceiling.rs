use super::*;

#[test]
fn steps_onto_a_known_ceiling_become_rarer() {
    let mut driver = Driver::starting_at(21);
    assert_eq!(driver.refuse(), 20);
    for rounds in [1, 2, 4, 8, 8] {
        assert_eq!(driver.succeed(20 * rounds - 1), 20, "{rounds} rounds");
        assert_eq!(driver.succeed(1), 21);
        assert_eq!(driver.refuse(), 20);
    }
}

#[test]
fn a_refusal_that_no_step_of_ours_brought_on_ends_the_back_off() {
    let mut driver = Driver::starting_at(21);
    driver.refuse();
    for rounds in [1, 2, 4] {
        driver.succeed(20 * rounds);
        driver.refuse();
    }
    // The factor is 8. 100 successes later somebody else fills the server.
    driver.succeed(100);
    assert_eq!(driver.refuse(), 19);
    assert_eq!(driver.succeed(18), 19);
    assert_eq!(driver.succeed(1), 20, "one round");
}

#[test]
fn a_refusal_far_from_the_ceiling_forgets_the_back_off() {
    let mut driver = Driver::starting_at(41);
    driver.refuse();
    for rounds in [1, 2, 4] {
        driver.succeed(40 * rounds);
        driver.refuse();
    }
    driver.succeed(1);
    let call = driver.wait(1).start(20);
    let _ = driver.wait(3).settle(call, THROTTLED);
    assert_eq!(driver.law.limit(), 19);
    assert_eq!(driver.law.ceiling(), Some(20));
    assert_eq!(driver.succeed(18), 19);
    assert_eq!(driver.succeed(1), 20, "one round, not eight");
}

#[test]
fn three_unopposed_steps_above_the_ceiling_forget_it() {
    let mut driver = Driver::starting_at(11);
    assert_eq!(driver.refuse(), 10);
    assert_eq!(driver.succeed(10), 11, "the ceiling itself");
    assert_eq!(driver.succeed(11), 12);
    assert_eq!(driver.succeed(12), 13);
    assert_eq!(driver.law.ceiling(), Some(11));
    assert_eq!(driver.succeed(13), 14);
    assert_eq!(driver.law.ceiling(), None);
    assert_eq!(driver.succeed(14), 28, "doubling");
}

#[test]
fn the_step_beyond_the_ceiling_is_as_rare_as_the_one_onto_it() {
    let mut driver = Driver::starting_at(21);
    driver.refuse();
    driver.succeed(20);
    driver.refuse();
    assert_eq!(driver.succeed(40), 21, "the ceiling, unopposed this time");
    assert_eq!(driver.succeed(41), 21);
    assert_eq!(driver.succeed(1), 22);
}

#[test]
fn one_slot_more_is_near_a_small_ceiling() {
    let mut driver = Driver::starting_at(3);
    assert_eq!(driver.refuse(), 2);
    assert_eq!(driver.succeed(4), 3);
    assert_eq!(driver.succeed(4), 4);
    assert_eq!(driver.refuse(), 3);
    assert_eq!(driver.succeed(7), 3, "twice the streak of four");
    assert_eq!(driver.succeed(1), 4);
}
