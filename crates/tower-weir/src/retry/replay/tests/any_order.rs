//! Whatever the chunks, and whenever the body is taken over.

use std::{iter, thread};

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The caller's body has one frame more to give.
    Feed,
    /// The present attempt is polled once.
    Read,
    /// Another attempt takes the body over.
    TakeOver,
    /// Every attempt before the present one is polled.
    PollStale,
    /// The last attempt that there was is dropped, and the next begins later.
    Drop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Feed),
        4 => Just(Step::Read),
        1 => Just(Step::TakeOver),
        1 => Just(Step::PollStale),
        1 => Just(Step::Drop),
    ];
    vec(step, 0..60)
}

proptest! {
    #[test]
    fn every_attempt_gets_a_beginning_and_the_last_one_all(
        chunks in vec(vec(any::<u8>(), 0..6), 0..12),
        with_trailers: bool,
        exact: bool,
        steps in steps(),
    ) {
        let length = chunks.concat().len() as u64;
        let (feed, body) = feed();
        // An exact length of 0 would make it a body that needs no recording.
        let body = if exact && length > 0 { body.exactly(length) } else { body };
        let hint = bounds(&body.size_hint());
        let (first, handle) = ReplayBody::new(body, &Account::default());

        let mut fodder = chunks.iter();
        let mut attempt = Some(first);
        let mut stale: Vec<ReplayBody<_>> = Vec::new();
        let mut read = 0;
        for step in steps {
            match step {
                Step::Feed => fodder.next().into_iter().for_each(|c| feed.data(c.clone())),
                Step::Read => {
                    let Some(attempt) = &mut attempt else { continue };
                    if let Poll::Ready(frame) = poll(attempt) {
                        let frame = frame.unwrap().unwrap().into_data().unwrap();
                        prop_assert_eq!(&frame[..], &chunks[read][..]);
                        read += 1;
                    }
                }
                Step::TakeOver => {
                    let next = handle.take_over().unwrap();
                    prop_assert_eq!(bounds(&next.size_hint()), hint);
                    prop_assert!(!next.is_end_stream());
                    stale.extend(attempt.replace(next));
                    read = 0;
                }
                Step::PollStale => prop_assert!(stale.iter_mut().all(is_taken_over)),
                Step::Drop => attempt = None,
            }
            if let (Some(attempt), true) = (&attempt, exact && length > 0) {
                let left = chunks[read..].concat().len() as u64;
                prop_assert_eq!(attempt.size_hint().exact(), Some(left));
            }
        }

        fodder.for_each(|chunk| feed.data(chunk.clone()));
        if with_trailers {
            feed.trailers();
        }
        drop(feed);
        let expected = with_trailers.then(trailers);
        if let Some(attempt) = &mut attempt {
            prop_assert_eq!(rest(attempt), (chunks[read..].concat(), expected.clone()));
        }
        let mut last = handle.take_over::<()>().unwrap();
        prop_assert_eq!(rest(&mut last), (chunks.concat(), expected));
        prop_assert!(stale.iter_mut().all(is_taken_over));
    }
}

#[test]
fn a_takeover_while_another_thread_reads_loses_nothing() {
    let expected: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for round in 0..50 {
        let (feed, body) = feed();
        let account = Account::default();
        let (mut first, handle) = ReplayBody::new(body, &account);
        expected.chunks(50).for_each(|c| feed.data(c.to_vec()));
        drop(feed);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let old = thread::spawn(move || {
            let frames = iter::from_fn(|| match poll(&mut first) {
                Poll::Ready(Some(Ok(frame))) => {
                    let _ = begun.send(());
                    frame.into_data().ok()
                }
                Poll::Ready(Some(Err(error))) => {
                    assert!(error.is::<BodyTakenOver>(), "{error}");
                    None
                }
                Poll::Ready(None) => None,
                Poll::Pending => panic!("all frames are there"),
            });
            frames.collect::<Vec<_>>().concat()
        });
        has_begun.iter().take(1 + round).count();
        let mut new = handle.take_over::<()>().unwrap();
        assert_eq!(rest(&mut new).0, expected);
        assert!(expected.starts_with(&old.join().unwrap()));
        assert_eq!(account.used(), expected.len());
    }
}
