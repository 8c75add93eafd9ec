//! When nobody needs the body any longer.

use super::*;

fn take(handle: &ReplayHandle, waker: &Waker) -> Option<ReplayBody<()>> {
    let polled = handle.poll_take_idle(&mut Context::from_waker(waker));
    match polled {
        Poll::Ready(body) => Some(body.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn a_body_is_needed_until_its_attempt_has_read_it_to_the_end() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    let (wakes, waker) = Wakes::new();
    feed.data("abc");
    data(&mut first);
    assert!(take(&handle, &waker).is_none());
    feed.end();
    assert!(
        take(&handle, &waker).is_none(),
        "it has not been told the end"
    );
    assert_eq!(wakes.count(), 0);
    rest(&mut first);
    assert_eq!(wakes.count(), 1);
    let second = take(&handle, &waker).unwrap();
    assert!(take(&handle, &waker).is_none(), "another one has it");
    drop(first);
    assert!(take(&handle, &waker).is_none(), "and keeps it");
    drop(second);
    assert_eq!(wakes.count(), 2);
    assert!(take(&handle, &waker).is_some());
}

#[test]
fn all_who_wait_for_a_body_get_it_one_after_the_other() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    let ((one, one_waker), (two, two_waker)) = (Wakes::new(), Wakes::new());
    assert!(take(&handle, &one_waker).is_none());
    assert!(take(&handle, &two_waker).is_none());
    feed.data("abc");
    feed.end();
    rest(&mut first);
    assert_eq!((one.count(), two.count()), (1, 1));
    let mut second = take(&handle, &two_waker).unwrap();
    assert!(take(&handle, &one_waker).is_none());
    assert_eq!(rest(&mut second).0, b"abc");
    assert_eq!((one.count(), two.count()), (2, 1));
    let mut third = take(&handle, &one_waker).unwrap();
    assert_eq!(rest(&mut third).0, b"abc");
}

#[test]
fn a_body_that_fails_or_needs_no_record_is_needed_no_longer() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    feed.error();
    assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(_)))));
    let polled = handle.poll_take_idle::<()>(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(
        polled,
        Poll::Ready(Err(NotReplayable::BodyFailed))
    ));

    let (_first, handle) = ReplayBody::new(Full::<Bytes>::from("whole"), &Account::default());
    assert!(take(&handle, Waker::noop()).is_some());
}
