mod any_order;
mod fed;
mod idle;

use std::{
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Buf;
use http::HeaderMap;
use http_body_util::{BodyExt, Empty, StreamBody};

use self::fed::{Feed, Oops, Wakes, feed, trailers};
use super::*;

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

fn poll<B>(body: &mut ReplayBody<B>) -> Polled {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// The next frame's data, which must be there.
fn data<B>(body: &mut ReplayBody<B>) -> Bytes {
    match poll(body) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn is_taken_over<B>(body: &mut ReplayBody<B>) -> bool {
    matches!(poll(body), Poll::Ready(Some(Err(error))) if error.is::<BodyTakenOver>())
}

/// All that is left, which must be there: the data, and the trailers.
fn rest<B>(body: &mut ReplayBody<B>) -> (Vec<u8>, Option<HeaderMap>) {
    let mut collected = pin!(body.collect());
    match collected
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(collected)) => {
            let trailers = collected.trailers().cloned();
            (collected.to_bytes().to_vec(), trailers)
        }
        other => panic!("{other:?}"),
    }
}

fn bounds(hint: &SizeHint) -> (u64, Option<u64>) {
    (hint.lower(), hint.upper())
}

#[test]
fn an_attempt_and_its_replay_carry_the_same_frames_and_buffers() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    let sent = Bytes::from(vec![7; 1000]);
    feed.data(sent.clone());
    feed.data("");
    feed.data("tail");
    feed.trailers();
    drop(feed);

    let check = |attempt: &mut ReplayBody<_>| {
        assert_eq!(data(attempt).as_ptr(), sent.as_ptr());
        assert_eq!(data(attempt), "");
        assert_eq!(rest(attempt), (b"tail".to_vec(), Some(trailers())));
        assert!(attempt.is_end_stream());
    };
    check(&mut first);
    check(&mut handle.take_over().unwrap());
    check(&mut handle.take_over().unwrap());
}

#[test]
fn a_body_that_no_attempt_read_is_whole_in_the_next() {
    let (feed, body) = feed();
    let (first, handle) = ReplayBody::new(body, &Account::new(0, 0));
    drop(first);
    let mut second = handle.take_over::<()>().unwrap();
    feed.data("all of it");
    drop(feed);
    assert_eq!(rest(&mut second).0, b"all of it");
}

#[test]
fn a_takeover_in_mid_stream_replays_and_then_reads_on() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    feed.data("a");
    feed.data("b");
    feed.data("c");
    assert_eq!(data(&mut first), "a");
    assert_eq!(data(&mut first), "b");

    let mut second = handle.take_over::<()>().unwrap();
    let polls = feed.polls();
    assert!(is_taken_over(&mut first) && is_taken_over(&mut first));
    assert!(!first.is_end_stream());
    assert_eq!(feed.polls(), polls, "the stale attempt read on");

    assert_eq!(data(&mut second), "a");
    let mut third = handle.take_over::<()>().unwrap();
    assert!(is_taken_over(&mut second));
    drop(feed);
    assert_eq!(rest(&mut third).0, b"abc");
}

#[test]
fn a_stale_attempt_that_sent_all_is_not_told_that_the_body_ended() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body.exactly(3), &Account::default());
    feed.data("abc");
    assert_eq!(data(&mut first), "abc");
    assert!(first.is_end_stream());
    let mut second = handle.take_over::<()>().unwrap();
    assert_eq!(data(&mut second), "abc");
    assert!(second.is_end_stream());
    assert!(!first.is_end_stream());
    assert_eq!(bounds(&first.size_hint()), (0, None));
    assert!(is_taken_over(&mut first));
}

#[test]
fn an_attempt_that_ended_stays_ended_after_a_takeover() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    drop(feed);
    assert!(matches!(poll(&mut first), Poll::Ready(None)));
    let _second = handle.take_over::<()>().unwrap();
    assert!(first.is_end_stream());
    assert_eq!(first.size_hint().exact(), Some(0));
    assert!(matches!(poll(&mut first), Poll::Ready(None)));
}

#[test]
fn a_takeover_wakes_the_reader_that_waits_and_the_body_then_wakes_the_new_one() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    let (old, old_waker) = Wakes::new();
    let (new, new_waker) = Wakes::new();
    let wait = |reader: &mut ReplayBody<_>, waker| {
        assert!(
            Pin::new(reader)
                .poll_frame(&mut Context::from_waker(waker))
                .is_pending()
        );
    };

    // Polled from one task and then from another, it is the latter's to wake.
    wait(&mut first, Waker::noop());
    wait(&mut first, &old_waker);
    assert_eq!(old.count(), 0);
    let mut second = handle.take_over().unwrap();
    assert_eq!(old.count(), 1);

    wait(&mut second, &new_waker);
    assert!(is_taken_over(&mut first));
    feed.data("late");
    assert_eq!((old.count(), new.count()), (1, 1));
    assert_eq!(data(&mut second), "late");
}

#[test]
fn a_body_of_just_the_cap_is_replayed_and_one_byte_more_is_not() {
    for (length, expected) in [(10, None), (11, Some(NotReplayable::OverRequestCap))] {
        let account = Account::new(10, 1000);
        let (feed, body) = feed();
        let (mut first, handle) = ReplayBody::new(body, &account);
        feed.data(vec![1; 9]);
        feed.data(vec![1; length - 9]);
        data(&mut first);
        assert_eq!((account.used(), handle.can_replay()), (9, true));
        data(&mut first);
        assert_eq!(handle.not_replayable(), expected);
        assert_eq!(account.used(), if expected.is_none() { 10 } else { 0 });

        feed.data("x");
        let refused = handle.take_over::<()>().err();
        assert_eq!(refused, expected);
        if refused.is_some() {
            assert_eq!(data(&mut first), "x", "the attempt does not go on");
        }
    }
}

#[test]
fn a_body_announced_over_the_cap_is_not_recorded_at_all() {
    let account = Account::new(10, 1000);
    let (feed, body) = feed();
    let (_first, handle) = ReplayBody::new(body.exactly(11), &account);
    let mut second = handle.take_over::<()>().expect("nothing was read");
    feed.data("x");
    assert_eq!(data(&mut second), "x");
    assert_eq!(account.used(), 0);
    assert_eq!(
        handle.take_over::<()>().err(),
        Some(NotReplayable::OverRequestCap)
    );
}

#[test]
fn requests_share_the_layers_cap_and_give_back_what_they_held() {
    let account = Account::new(10, 15);
    let record = |length: usize| {
        let (feed, body) = feed();
        let (mut reader, handle) = ReplayBody::new(body, &account);
        feed.data(vec![0; length]);
        data(&mut reader);
        (reader, handle)
    };
    let (one, one_handle) = record(8);
    let (_two, two_handle) = record(7);
    assert_eq!(account.used(), 15);
    let (_three, three_handle) = record(1);
    assert_eq!(
        three_handle.not_replayable(),
        Some(NotReplayable::OverLayerCap)
    );
    assert!(one_handle.can_replay() && two_handle.can_replay());

    drop((one, one_handle));
    assert_eq!(account.used(), 7);
    let (_four, four_handle) = record(8);
    assert!(four_handle.can_replay());
    assert!(!three_handle.can_replay(), "its beginning is gone for good");
}

#[test]
fn a_charge_is_struck_off_when_it_is_dropped() {
    let account = Account::default();
    let mut charge = account.open();
    charge.grow(5).unwrap();
    assert_eq!(account.used(), 5);
    drop(charge);
    assert_eq!(account.used(), 0);
}

#[test]
fn other_bounds_hold_for_what_is_recorded_next() {
    let account = Account::new(10, 10);
    let (mut one, mut other) = (account.open(), account.open());
    one.grow(5).unwrap();
    account.clone().resize(8, 3);
    assert_eq!((account.per_request(), account.total()), (8, 3));
    assert_eq!(account.used(), 5);
    assert_eq!(one.grow(5), Ok(()));
    assert_eq!(one.grow(6), Err(NotReplayable::OverLayerCap));
    assert_eq!(one.grow(9), Err(NotReplayable::OverRequestCap));
    assert_eq!(other.grow(1), Err(NotReplayable::OverLayerCap));
    account.resize(8, 6);
    assert_eq!(other.grow(1), Ok(()));
    assert_eq!(account.used(), 6);
}

#[test]
fn very_many_small_frames_count_for_what_their_bookkeeping_takes() {
    let account = Account::new(100 * size_of::<Bytes>(), usize::MAX);
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &account);
    for _ in 0..64 {
        feed.data("");
        data(&mut first);
    }
    assert_eq!(account.used(), 0);
    for _ in 0..100 {
        feed.data("");
        data(&mut first);
    }
    assert_eq!(account.used(), account.per_request());
    feed.data("");
    data(&mut first);
    assert_eq!(handle.not_replayable(), Some(NotReplayable::OverRequestCap));
}

#[test]
fn recorded_trailers_count_too() {
    let account = Account::default();
    let (feed, body) = feed();
    let (mut first, _handle) = ReplayBody::new(body, &account);
    feed.trailers();
    drop(feed);
    rest(&mut first);
    assert_eq!(account.used(), "checksum".len() + "abc".len());
}

#[test]
fn an_error_of_the_body_reaches_the_attempt_with_its_cause_and_ends_replaying() {
    let account = Account::default();
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &account);
    feed.data("a");
    feed.error();
    data(&mut first);
    let Poll::Ready(Some(Err(error))) = poll(&mut first) else {
        panic!("no error");
    };
    let error: Box<RequestBodyError> = error.downcast().unwrap();
    assert!(error.source().unwrap().is::<Oops>());
    assert!(matches!(poll(&mut first), Poll::Ready(None)));
    assert_eq!(
        handle.take_over::<()>().err(),
        Some(NotReplayable::BodyFailed)
    );
    assert_eq!((account.used(), feed.body_lives()), (0, false));
}

#[test]
fn a_layer_in_a_layer_does_not_wrap_the_bodys_error_twice() {
    let account = Account::default();
    let (feed, body) = feed();
    let (outer, _outer_handle) = ReplayBody::new(body, &account);
    let (mut inner, _inner_handle) = ReplayBody::new(outer, &account);
    feed.error();
    let Poll::Ready(Some(Err(error))) = poll(&mut inner) else {
        panic!("no error");
    };
    let error: Box<RequestBodyError> = error.downcast().unwrap();
    assert!(error.source().unwrap().is::<Oops>());
}

#[test]
fn a_body_that_panics_counts_as_failed() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    feed.data("a");
    feed.panic();
    data(&mut first);
    catch_unwind(AssertUnwindSafe(|| poll(&mut first))).unwrap_err();
    assert!(!first.is_end_stream(), "cut short, and taken for whole");
    assert!(
        matches!(poll(&mut first), Poll::Ready(Some(Err(error))) if error.is::<RequestBodyError>())
    );
    assert_eq!(handle.not_replayable(), Some(NotReplayable::BodyFailed));
}

#[test]
fn hints_and_end_of_stream_are_those_of_the_body_in_every_attempt() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body.exactly(5), &Account::default());
    feed.data("abc");
    feed.data("de");
    let mut second = None;
    for round in 0..2 {
        let attempt = second.as_mut().unwrap_or(&mut first);
        let mut seen = Vec::new();
        loop {
            seen.push((attempt.size_hint().exact(), attempt.is_end_stream()));
            if attempt.is_end_stream() {
                break;
            }
            data(attempt);
        }
        let expected = [(Some(5), false), (Some(2), false), (Some(0), true)];
        assert_eq!(seen, expected, "attempt {round}");
        second = Some(handle.take_over().unwrap());
    }
}

#[test]
fn what_an_attempt_learnt_of_the_length_does_not_change_the_next_ones_framing() {
    // Empty, and of one byte: neither says so before it was read.
    for chunks in [&[][..], &["a"]] {
        let (feed, body) = feed();
        let (mut first, handle) = ReplayBody::new(body, &Account::default());
        chunks.iter().for_each(|&chunk| feed.data(chunk));
        drop(feed);
        rest(&mut first);
        assert!(first.is_end_stream());
        assert_eq!(first.size_hint().exact(), Some(0));

        let mut second = handle.take_over::<()>().unwrap();
        assert_eq!(bounds(&second.size_hint()), (0, None));
        assert!(!second.is_end_stream());
        assert_eq!(rest(&mut second).0, chunks.concat().as_bytes());
        assert!(second.is_end_stream());
    }
}

#[test]
fn an_inexact_hint_shrinks_with_what_was_played() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body.between(2, 100), &Account::default());
    feed.data("abc");
    feed.data("de");
    drop(feed);
    rest(&mut first);
    let mut second = handle.take_over::<()>().unwrap();
    assert_eq!(bounds(&second.size_hint()), (2, Some(100)));
    data(&mut second);
    assert_eq!(bounds(&second.size_hint()), (0, Some(97)));
}

#[test]
fn full_and_empty_bodies_are_cloned_without_bound_or_record() {
    let account = Account::new(0, 0);
    let big = Bytes::from(vec![5; 1 << 20]);
    let (mut first, handle) = ReplayBody::new(Full::new(big.clone()), &account);
    assert!(matches!(handle.0, Kept::Whole(_)));
    for attempt in [&mut first, &mut handle.take_over().unwrap()] {
        assert_eq!(attempt.size_hint().exact(), Some(1 << 20));
        assert_eq!(data(attempt).as_ptr(), big.as_ptr());
        assert!(attempt.is_end_stream());
    }

    let (empty, handle) = ReplayBody::new(Empty::<Bytes>::new(), &account);
    assert!(matches!(handle.0, Kept::Whole(_)));
    assert!(empty.is_end_stream() && empty.size_hint().exact() == Some(0));
    let (_, boxed) = ReplayBody::new(Empty::<Bytes>::new().boxed_unsync(), &account);
    assert!(matches!(boxed.0, Kept::Whole(_)));
}

#[test]
fn data_in_several_buffers_arrives_in_order() {
    let chained = (&b"ab"[..]).chain(&b"cd"[..]);
    let (mut first, handle) = ReplayBody::new(Full::new(chained), &Account::default());
    assert_eq!(data(&mut first), "abcd");
    assert_eq!(data(&mut handle.take_over::<()>().unwrap()), "abcd");
}

#[test]
fn the_last_handle_takes_the_record_with_it_and_the_attempt_goes_on() {
    let account = Account::default();
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &account);
    for chunk in ["abc", "defg", "hi"] {
        feed.data(chunk);
        data(&mut first);
    }
    let other = handle.clone();
    let mut second = handle.take_over::<()>().unwrap();
    assert_eq!(data(&mut second), "abc");
    drop(handle);
    assert_eq!(account.used(), 9, "a handle is left");
    drop(other);
    assert_eq!(account.used(), 6, "played, and not needed again");
    assert_eq!(data(&mut second), "defg");
    assert_eq!(account.used(), 2);
    assert_eq!(data(&mut second), "hi");
    feed.data("not recorded");
    assert_eq!(data(&mut second), "not recorded");
    assert_eq!(account.used(), 0);
}

#[test]
fn a_stale_attempt_that_lingers_keeps_nothing_alive() {
    for handle_first in [true, false] {
        let account = Account::default();
        let (feed, body) = feed();
        let (mut stale, handle) = ReplayBody::new(body, &account);
        feed.data("abc");
        data(&mut stale);
        let second = handle.take_over::<()>().unwrap();
        if handle_first {
            drop(handle);
            assert_eq!((account.used(), feed.body_lives()), (3, true));
            drop(second);
        } else {
            drop(second);
            assert_eq!((account.used(), feed.body_lives()), (3, true));
            drop(handle);
        }
        assert_eq!((account.used(), feed.body_lives()), (0, false));
        assert!(is_taken_over(&mut stale));
    }
}

#[test]
fn a_stale_attempt_takes_nothing_with_it_when_it_goes() {
    let (feed, body) = feed();
    let (mut stale, handle) = ReplayBody::new(body, &Account::default());
    feed.data("abc");
    data(&mut stale);
    let mut second = handle.take_over::<()>().unwrap();
    drop(handle);
    drop(stale);
    feed.data("def");
    drop(feed);
    assert_eq!(rest(&mut second).0, b"abcdef");
}

#[test]
fn the_body_is_dropped_once_it_has_been_read() {
    let (feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    feed.data("a");
    feed.end();
    rest(&mut first);
    assert!(!feed.body_lives());
    assert_eq!(rest(&mut handle.take_over::<()>().unwrap()).0, b"a");
}

#[test]
fn handles_and_bodies_go_wherever_a_request_goes() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Body<Data = Bytes, Error = BoxError> + Send + Sync + Unpin + 'static>() {}
    shared::<ReplayHandle>();
    shared::<Account>();
    // Whatever the body itself can do.
    sent::<ReplayBody<*const ()>>();
    sent::<ReplayBody<StreamBody<Feed>>>();
}

/// A task that is gone with its last waker, and its handle on the body with it.
struct Task {
    handle: ReplayHandle,
    locked: Arc<AtomicBool>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Kept::Recorded(cell) = &self.handle.0 {
            self.locked.store(cell.try_lock().is_err(), Relaxed);
        }
    }
}

#[test]
fn a_task_that_goes_with_its_waker_finds_the_body_unlocked() {
    let (_feed, body) = feed();
    let (mut first, handle) = ReplayBody::new(body, &Account::default());
    let locked = Arc::new(AtomicBool::new(true));
    let task = Task {
        handle,
        locked: locked.clone(),
    };
    let waker = Waker::from(Arc::new(task));
    let polled = Pin::new(&mut first).poll_frame(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    drop(waker);
    assert!(poll(&mut first).is_pending());
    assert!(!locked.load(Relaxed));
}
