//! When nobody needs the body any longer.

use super::*;

fn is_idle(handle: &ReplayHandle, waker: &Waker) -> bool {
    handle.poll_idle(&mut Context::from_waker(waker)).is_ready()
}

#[test]
fn a_body_is_needed_until_its_attempt_has_read_it_to_the_end() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    let (wakes, waker) = Wakes::new();
    feed.data("abc");
    data(&mut first);
    assert!(!is_idle(&handle, &waker));
    feed.end();
    assert!(!is_idle(&handle, &waker), "it has not been told the end");
    assert_eq!(wakes.count(), 0);
    rest(&mut first);
    assert_eq!(wakes.count(), 1);
    assert!(is_idle(&handle, &waker));

    let second = handle.take_over::<()>().unwrap();
    assert!(!is_idle(&handle, &waker), "another one has it");
    drop(first);
    assert!(!is_idle(&handle, &waker), "and keeps it");
    drop(second);
    assert_eq!(wakes.count(), 2);
    assert!(is_idle(&handle, &waker));
}

#[test]
fn a_body_that_fails_or_needs_no_record_is_needed_no_longer() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    feed.error();
    assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(_)))));
    assert!(is_idle(&handle, Waker::noop()));

    let (_first, handle) = ReplayBody::new(Full::<Bytes>::from("whole"), &Account::default());
    assert!(is_idle(&handle, Waker::noop()));
}
